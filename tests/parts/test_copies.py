import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.parts.copies import filled
from tests.pictures import SIDE, stripes, view, whole


def test_enough_images_stay_as_they_are() -> None:
    some = view(stripes(3, 0))
    assert filled(some, 3, 0) is some


def test_few_images_are_filled_up_with_copies_of_themselves() -> None:
    x = np.zeros((2, 3, SIDE, SIDE), np.uint8)
    x[0, :, 24, 20], x[1, :, 24, 20] = 100, 200  # a point each, far enough from every edge to stay
    region = np.zeros((2, SIDE, SIDE), bool)
    region[:, 24, 20] = True
    some = filled(view(x, region=region), 9, 0)
    assert len(some) == 9
    batch = whole(some)
    assert batch.ids == ["s-000", "s-001"] * 4 + ["s-000"]
    np.testing.assert_array_equal(batch.x[:2], x)
    np.testing.assert_array_equal(batch.x.max(axis=(1, 2, 3)), [100, 200] * 4 + [100])
    places = {tuple(np.argwhere(image[0])[0]) for image in batch.x}
    assert len(places) > 5  # the copies lie elsewhere
    assert all((image[0] > 0).sum() == 1 for image in batch.x)
    np.testing.assert_array_equal(batch.region, batch.x[:, 0] > 0)  # what counts moves along
    parts = np.concatenate([b.x for b in some.batches(4)])
    np.testing.assert_array_equal(parts, batch.x)
    np.testing.assert_array_equal(whole(filled(view(x), 9, 0)).x, batch.x)
    assert not np.array_equal(whole(filled(view(x), 9, 1)).x, batch.x)


def test_each_category_is_filled_up() -> None:
    x = np.concatenate([np.full((n, 3, 8, 8), 10 * (i + 1), np.uint8) for i, n in enumerate((5, 1, 2))])
    some = filled(view(x, category=list("mmmmmzaa")), 4, 0)
    batch = whole(some)
    assert batch.category == list("mmmmmzaaaazzz")
    np.testing.assert_array_equal(batch.x[:, 0, 0, 0], [10] * 5 + [20, 30, 30] + [30] * 2 + [20] * 3)
    (one,) = some[np.array([12, 0, 8])].batches(3)
    assert one.category == ["z", "m", "a"]
    np.testing.assert_array_equal(one.x[:, 0, 0, 0], [20, 10, 30])


def test_images_that_are_not_square_are_not_turned() -> None:
    some = filled(view(stripes(1, 0)[:, :, :24]), 5, 0)
    assert whole(some).x.shape == (5, 3, 24, SIDE)
    assert whole(some).region is None


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="must be uint8 from 0 to 255, got float64"):
        filled(view(stripes(2, 0).astype(float)), 5, 0)
