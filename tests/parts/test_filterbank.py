import numpy as np
import pytest
import torch

from pipeline.parts.filterbank import ORIENTATIONS, FilterBank, blur, derivatives


def grating(degrees: float, period: float, side: int = 64) -> torch.Tensor:
    """Grey waves that change along `degrees`, float32 (1, 3, side, side) in [0, 1]."""
    y, x = np.mgrid[:side, :side]
    along = x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees))
    wave = 0.5 + 0.4 * np.sin(2 * np.pi * along / period)
    return torch.from_numpy(wave).float().expand(1, 3, side, side)


@pytest.mark.parametrize("i", range(ORIENTATIONS))
def test_the_filter_along_a_grating_answers_most(i: int) -> None:
    (level,) = FilterBank((0,))(grating(180 * i / ORIENTATIONS, period=6))
    energy = level[0, :ORIENTATIONS, 2:-2, 2:-2].mean(dim=(1, 2))
    assert energy.argmax() == i
    assert energy[i] > 1.5 * energy[(i + ORIENTATIONS // 2) % ORIENTATIONS]


def test_coarse_gratings_speak_on_coarse_levels() -> None:
    bank = FilterBank((0, 1, 2, 3))
    fine = [level[:, :ORIENTATIONS].amax(dim=1).mean().item() for level in bank(grating(0, 5))]
    coarse = [level[:, :ORIENTATIONS].amax(dim=1).mean().item() for level in bank(grating(0, 20))]
    assert np.argmax(fine) == 0
    assert np.argmax(coarse) == 2


def test_filters_are_blind_to_plain_tone_and_have_unit_weight() -> None:
    filters = derivatives()
    np.testing.assert_allclose(filters.sum(dim=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(filters.abs().sum(dim=(1, 2, 3)), 1, rtol=1e-5)


def test_shapes_strides_and_equal_answers() -> None:
    x = torch.rand(2, 3, 50, 37, generator=torch.Generator().manual_seed(0))
    maps = FilterBank((0, 1, 2, 3))(x)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 13, 10), (2, 16, 13, 10), (2, 16, 13, 10), (2, 16, 7, 5)]
    assert all(torch.equal(a, b) for a, b in zip(maps, FilterBank((0, 1, 2, 3))(x), strict=True))
    assert torch.equal(FilterBank((2,))(x)[0], maps[2])


def test_a_single_pixel_still_has_features() -> None:
    assert all(torch.isfinite(m).all() for m in FilterBank((0, 1, 2, 3))(torch.rand(1, 3, 1, 1)))


def test_blur_spreads_a_point_into_a_gaussian() -> None:
    x = torch.zeros(1, 1, 31, 31)
    x[0, 0, 15, 15] = 1
    y = blur(x, 2.0)[0, 0]
    assert y.sum().item() == pytest.approx(1, abs=1e-5)
    assert (y[15, 17] / y[15, 15]).item() == pytest.approx(np.exp(-0.5), rel=1e-5)
    assert torch.equal(blur(x, 0.0), x)
