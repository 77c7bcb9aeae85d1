import numpy as np
import pytest

from pipeline.parts.binarise import (
    Box,
    boxes,
    cropped,
    looks,
    main_elements,
    root_area,
    search_range,
    stable_end,
    standing_out,
)


def test_main_elements_of_a_map_made_by_hand() -> None:
    found = np.full((20, 20), 0.1)
    found[2:6, 2:6] = 1.0  # one region over all thresholds but the last few
    found[12:14, 12:14] = 0.25  # and a faint one that joins it late
    mask = main_elements(found, 0.1, 1.0, thresholds=18)  # 1.0, 0.95, ..., 0.15
    expected = np.zeros((20, 20), bool)
    expected[2:6, 2:6] = True
    np.testing.assert_array_equal(mask, expected)  # after 14 thresholds with one region come 3 with two
    eroded = main_elements(found, 0.1, 1.0, thresholds=18, erosion=3)
    assert eroded.sum() == 4
    assert not main_elements(found * 0.01, 0.5, 1.0).any()  # never above the least threshold


def test_a_faint_anomaly_is_looked_at_as_finely() -> None:
    found = np.full((12, 12), 0.1)
    found[3:6, 3:6] = 0.2
    assert main_elements(found, 0.1, 100.0).sum() == 9


def test_where_nothing_is_stable_the_upper_half_of_the_peak_stands_out() -> None:
    found = np.zeros((9, 9))
    found[::2, ::2] = np.linspace(0.1, 1.0, 25).reshape(5, 5)  # each threshold finds one region more
    assert not main_elements(found, 0.05, 1.0, thresholds=16).any()
    np.testing.assert_array_equal(standing_out(found, 0.05, 1.0, thresholds=16), found > 0.525)
    assert not standing_out(found, 1.0, 2.0).any()
    found[:] = 0
    found[2:4, 2:4] = 1
    np.testing.assert_array_equal(standing_out(found, 0.1, 1.0), found == 1)


def test_the_lowest_stable_threshold_is_taken() -> None:
    ramp = np.zeros((5, 40))
    ramp[2, 5:36] = np.r_[np.linspace(0.25, 1, 16), np.linspace(1, 0.25, 16)[1:]]
    mask = main_elements(ramp, 0.2, 1.0, thresholds=16)
    assert mask.sum() == (ramp > 0.25).sum()  # all of it, not its peak


def test_stable_runs() -> None:
    assert stable_end([0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 7]) == 10  # five twos
    assert stable_end([3, 3, 3, 3, 1, 1, 1, 1]) == 3  # the first of two as long
    assert stable_end([0, 0, 0, 0, 0, 1, 2, 1, 2, 3]) is None
    assert stable_end([1, 1, 1, 1]) == 3
    assert stable_end([]) is None


def test_the_range_of_peaks() -> None:
    assert search_range(np.array([3.0, 1.0, 2.0])) == (1.0, 3.0)
    low, high = search_range(np.array([2.0, 2.0]))
    assert low < 1.0 + 1e-9
    assert high == 2.0


def test_boxes_lie_in_the_image_and_are_merged_where_they_nearly_touch() -> None:
    mask = np.zeros((100, 120), bool)
    mask[:30, 100:110] = True  # 30 high: a square of 33 at the upper edge
    mask[70:72, 10:12] = True  # tiny: the least square, of a fifth of 120
    mask[78:80, 18:20] = True  # its square overlaps with the one before
    found = boxes(mask)
    assert found[0] == Box(0, 87, 33) or found[1] == Box(0, 87, 33)
    (other,) = [box for box in found if box != Box(0, 87, 33)]
    assert other.side == 32  # both squares: from 59 to 91 and from -1 to 31, pushed inside
    assert other.left == 0
    assert boxes(np.zeros((10, 10), bool)) == []
    assert boxes(np.ones((10, 30), bool)) == [Box(0, 10, 10)]


def test_cut_outs_keep_what_is_marked() -> None:
    image, mask = np.zeros((3, 40, 40), np.uint8), np.zeros((40, 40), bool)
    image[:, 20:30, 20:30], mask[20:30, 20:30] = 200, True
    x, own = cropped(image, mask, Box(10, 10, 30), 15)
    assert x.shape == (3, 15, 15)
    np.testing.assert_array_equal(own, mask[11:40:2, 11:40:2])
    assert x[0, own].mean() > 150
    assert x[0, ~own].mean() < 30
    assert cropped(image, mask, Box(0, 0, 8), 4)[1].all()  # nothing marked: all counts
    assert root_area(mask, Box(10, 10, 30)) == pytest.approx(10 / 40)
    shown = looks(image, mask, Box(10, 10, 30), 15, 5, np.random.default_rng(0))
    assert len(shown) == 5
    np.testing.assert_array_equal(shown[0][0], x)
    for other, marked in shown[1:]:
        assert other[0, marked].mean() > 130
    assert len({other.tobytes() for other, _ in shown}) > 2
