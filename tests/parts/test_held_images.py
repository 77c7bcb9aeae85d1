import numpy as np
import pytest
import torch

from pipeline.errors import DataError
from pipeline.parts.held_images import hold_images, shrunk, unit
from tests.pictures import SIDE, planted, stripes, view, whole


def test_what_is_held_is_what_came() -> None:
    x, mask = planted(20, 0)
    label = np.r_[np.zeros(18), 1, 1]  # the last but one without a mask
    held = hold_images(view(x, label, mask, category=["a"] * 10 + ["b"] * 10), cache=1, seed=0)
    np.testing.assert_array_equal(held.x, x)
    np.testing.assert_array_equal(held.marks, mask)
    assert held.inside.all()
    assert held.category == ["a"] * 10 + ["b"] * 10
    assert held.size == (SIDE, SIDE)
    np.testing.assert_array_equal(held.normals, np.arange(18))
    np.testing.assert_array_equal(held.marked, [19])


def test_what_does_not_count_is_black_and_blocks_are_means() -> None:
    x, mask = planted(2, 0)
    region = np.ones((2, SIDE, SIDE), bool)
    region[:, :, :21] = False
    batch = whole(view(x, mask=mask, region=region))
    images, marks, inside = shrunk(batch, 4)
    black = np.where(region[:, None], x, 0).astype(float)
    means = black.reshape(2, 3, 12, 4, 12, 4).mean(axis=(3, 5))
    np.testing.assert_array_equal(images, means.round().astype(np.uint8))
    assert not inside[:, :, :5].any()
    assert inside[:, :, 5:].all()
    np.testing.assert_array_equal(np.argwhere(marks[1])[[0, -1]], [[4, 5], [6, 7]])  # rows 16 to 27, columns 21 to 31
    assert unit(images, torch.device("cpu")).max() <= 1


def test_the_budget_and_the_sizes_that_it_takes() -> None:
    few = hold_images(view(stripes(100, 0)), cache=1, seed=0)
    assert len(few) == 10**6 // (5 * SIDE**2) == len(np.unique(few.at))
    np.testing.assert_array_equal(few.x, stripes(100, 0)[few.at])
    with pytest.raises(DataError, match=r"cache must hold one image, 1\.3 MB, got 1"):
        hold_images(view(np.zeros((1, 3, 512, 512), np.uint8)), cache=1, seed=0)
    with pytest.raises(DataError, match="at least 49 pixels high and wide .* got 48 x 48"):
        hold_images(view(stripes(1, 0)), cache=1, seed=0, least=49)
