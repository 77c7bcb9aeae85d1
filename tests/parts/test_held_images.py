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


def test_unlabelled_images_are_normal_where_none_is_labelled() -> None:
    x = stripes(3, 0)
    for label, expected in (([-1, -1, -1], [0, 0, 0]), ([-1, -1, 1], [0, 0, 1]), ([-1, 0, 1], [-1, 0, 1])):
        assert hold_images(view(x, np.array(label)), 1, 0).label.tolist() == expected


def test_the_draw_loses_no_category_that_has_normals() -> None:
    room = 10**6 // (5 * SIDE**2)  # 86
    x = stripes(300, 0)
    label = np.r_[np.zeros(2), np.ones(298)]
    category = ["a", "b"] + ["a"] * 200 + ["c"] * 98
    for seed in range(3):
        held = hold_images(view(x, label, category=category), cache=1, seed=seed)
        assert len(held) == len(np.unique(held.at)) == room
        assert {held.category[i] for i in held.normals} == {"a", "b"}
        np.testing.assert_array_equal(held.label, label[held.at])
        assert held.category == [category[i] for i in held.at]
    with pytest.raises(DataError, match=r"a normal image of each of 87 categories, 1\.0 MB, got 1"):
        hold_images(view(x[:87], category=[str(i) for i in range(87)]), cache=1, seed=0)


def test_few_normals_are_repeated_as_far_as_there_is_room() -> None:
    x, mask = planted(4, 0)
    train = view(x, np.r_[0, 0, 0, 1], mask, category=["a", "b", "c", "c"])
    held = hold_images(train, cache=1, seed=0, normals=7)
    assert held.at.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2]
    assert held.label.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert "".join(held.category) == "abccabcabc"
    np.testing.assert_array_equal(held.x, x[held.at])
    np.testing.assert_array_equal(held.marked, [3])
    assert hold_images(train, cache=1, seed=0, normals=3).at.tolist() == [0, 1, 2, 3]
    more = 10**6 // 6 - 5 * SIDE**2  # six fit
    assert hold_images(train, 1, 0, normals=7, beside=lambda _: more).at.tolist() == [0, 1, 2, 3, 0, 1]
    assert len(hold_images(train, 1, 0, normals=7, beside=lambda x: x.nbytes * 40)) == 3


def test_the_budget_and_the_sizes_that_it_takes() -> None:
    few = hold_images(view(stripes(100, 0)), cache=1, seed=0)
    assert len(few) == 10**6 // (5 * SIDE**2) == len(np.unique(few.at))
    np.testing.assert_array_equal(few.x, stripes(100, 0)[few.at])
    with pytest.raises(DataError, match=r"cache must hold one image, 1\.3 MB, got 1"):
        hold_images(view(np.zeros((1, 3, 512, 512), np.uint8)), cache=1, seed=0)
    with pytest.raises(DataError, match="at least 49 pixels high and wide .* got 48 x 48"):
        hold_images(view(stripes(1, 0)), cache=1, seed=0, least=49)
