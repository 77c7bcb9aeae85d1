"""Structural similarity of images.

Wang, Bovik, Sheikh and Simoncelli (IEEE Transactions on Image Processing 2004), "Image quality assessment: from error
visibility to structural similarity".
"""

import torch
from torch import Tensor

from pipeline.parts.filterbank import blur

SIGMA = 1.5  # of the Gaussian windows, in pixels
C1, C2 = 0.01**2, 0.03**2  # what keeps the two fractions finite, for images in [0, 1]


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Similarity `(n, c, h, w)` of images in [0, 1] of that shape, around each pixel: from -1 to 1 for equal ones.

    float32, whatever the precision around it: differences of squares need it."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        mean_a, mean_b, aa, bb, ab = blur(torch.cat([a, b, a * a, b * b, a * b]), SIGMA).split(len(a))
        variance_a, variance_b, covariance = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
        top = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
        return top / ((mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2))
