import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from pipeline.parts.ssim import ssim


def test_plain_images_by_hand() -> None:
    a, b = torch.full((1, 3, 20, 20), 0.2), torch.full((1, 3, 20, 20), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)  # both variances are zero
    np.testing.assert_allclose(ssim(a, b), expected, atol=3e-4)
    np.testing.assert_allclose(ssim(a, a), 1, atol=1e-6)


def test_agrees_with_scikit_image() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(size=(40, 40))
    b = np.clip(a + rng.normal(0, 0.2, (40, 40)), 0, 1)
    _, full = structural_similarity(
        a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    ours = ssim(*(torch.from_numpy(z).float().view(1, 1, 40, 40) for z in (a, b)))[0, 0]
    # away from the edge, where the two mirror differently; its windows are a little wider than ours
    np.testing.assert_allclose(ours[6:-6, 6:-6], full[6:-6, 6:-6], atol=0.02)
    assert ours.mean().item() == pytest.approx(full.mean(), abs=0.01)
