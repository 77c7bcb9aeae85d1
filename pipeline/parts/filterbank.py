"""A fixed bank of oriented filters at several scales: deep-feature-like maps with nothing to download.

Each scale looks at one level of a Gaussian pyramid through first and second derivatives of a Gaussian at evenly
spaced orientations (Freeman & Adelson 1991, "The design and use of steerable filters"; Leung & Malik 2001,
"Representing and recognizing the visual appearance of materials using three-dimensional textons"), and pools
their local energy. Nothing is random and nothing is learned.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCALES = 4  # levels 0..3, each an octave coarser
ORIENTATIONS = 6  # every 30 degrees
SIGMA = 1.0  # width of the Gaussian behind the derivatives, in pixels of its pyramid level
STRIDE = 4  # of the maps; coarser levels have the stride of their pyramid level
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
# Red-green and blue-yellow opponents.
OPPONENTS = ((0.5, -0.5, 0.0), (-0.25, -0.25, 0.5))
# Gains bring the channels to a like spread on photographs, so that a Euclidean distance hears all of them.
GAIN_ENERGY, GAIN_SIGNED, GAIN_TONE, GAIN_SPREAD = 4.0, 2.0, 1.0, 2.0


def gaussian(sigma: float) -> Tensor:
    """A normalised Gaussian, float32 `(2r + 1,)`, cut at three sigmas."""
    radius = math.ceil(3 * sigma)
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-(at**2) / (2 * sigma**2))
    return (weights / weights.sum()).float()


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `(n, c, h, w)` by `sigma` pixels, edges reflected (repeated where the image is too small)."""
    if sigma <= 0:
        return x
    kernel = gaussian(sigma).to(x.device)
    n, c, h, w = x.shape
    radius = len(kernel) // 2
    mode = "reflect" if radius < min(h, w) else "replicate"
    x = F.pad(x.reshape(n * c, 1, h, w), (radius,) * 4, mode=mode)
    x = F.conv2d(F.conv2d(x, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return x.view(n, c, h, w)


def derivatives() -> Tensor:
    """First, then second derivatives of a Gaussian along each orientation: float32 `(2 ORIENTATIONS, 1, k, k)`.

    Filter i answers most to change along the angle 180 i / ORIENTATIONS degrees, counted from the x axis
    towards the y axis. Each filter has mean 0 and absolute sum 1."""
    radius = math.ceil(3 * SIGMA)
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    y, x = torch.meshgrid(at, at, indexing="ij")
    odd, even = [], []
    for i in range(ORIENTATIONS):
        angle = math.pi * i / ORIENTATIONS
        along, across = (
            x * math.cos(angle) + y * math.sin(angle),
            y * math.cos(angle) - x * math.sin(angle),
        )
        # The envelope is twice as long across the direction of change, which sharpens the tuning.
        envelope = torch.exp(-(along**2 + across**2 / 4) / (2 * SIGMA**2))
        odd.append(along * envelope)
        even.append((along**2 / SIGMA**2 - 1) * envelope)
    filters = torch.stack(odd + even)
    filters = filters - filters.mean(dim=(1, 2), keepdim=True)
    filters = filters / filters.abs().sum(dim=(1, 2), keepdim=True)
    return filters.float().unsqueeze(1)


class FilterBank(nn.Module):
    """Images `(n, 3, h, w)` in [0, 1] to one map `(n, 16, ceil(h / s), ceil(w / s))` per level.

    Channels: energy per orientation (6), signed second derivative per orientation (6), mean tone, two mean
    colour opponents, spread of the tone. The stride s is 4, from level 3 on the level's own 2**level."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.register_buffer("filters", derivatives(), persistent=False)
        self.register_buffer("colours", torch.tensor([GREY, *OPPONENTS]).view(3, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.conv2d(x, self.colours)  # (n, 3, h, w): tone and two opponents
        maps = []
        for level in range(max(self.levels) + 1):
            if level:
                x = _pool(blur(x, 1.0), 2)
            if level in self.levels:
                maps.append(self._level(x, max(1, STRIDE >> level)))
        return maps

    def _level(self, x: Tensor, stride: int) -> Tensor:
        tone = x[:, :1]
        radius = self.filters.shape[-1] // 2
        mode = "reflect" if radius < min(x.shape[2:]) else "replicate"
        answers = F.conv2d(F.pad(tone, (radius,) * 4, mode=mode), self.filters)
        odd, even = answers.chunk(2, dim=1)  # (n, ORIENTATIONS, h, w) each
        mean = blur(x, 1.0)
        variance = blur((tone - mean[:, :1]) ** 2, 1.0)  # squares of differences, which do not cancel
        channels = [
            GAIN_ENERGY * torch.sqrt(odd**2 + even**2 + 1e-8),
            GAIN_SIGNED * even,
            GAIN_TONE * mean,
            GAIN_SPREAD * torch.sqrt(variance + 1e-8),
        ]
        return _pool(torch.cat(channels, dim=1), stride)


def _pool(x: Tensor, stride: int) -> Tensor:
    """Mean over cells of `stride` x `stride` pixels; cells cut by the edge average what lies inside."""
    return x if stride == 1 else F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False)
