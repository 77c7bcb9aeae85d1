"""Facts about images, by hand and against scipy."""

import numpy as np
import pytest
from scipy.ndimage import laplace

from pipeline.errors import DataError
from pipeline.parts.image_facts import facts
from pipeline.protocols import Batch


def batch(x: np.ndarray, region: np.ndarray | None = None) -> Batch:
    return Batch([f"i{k}" for k in range(len(x))], x, np.zeros(len(x), np.int8), region=region)


def test_plain_and_split_images() -> None:
    x = np.zeros((3, 3, 6, 8), np.uint8)
    x[1] = 200
    x[2, :, :, 4:] = 100
    found = facts(batch(x))
    assert found.index.tolist() == ["i0", "i1", "i2"]
    assert found["brightness"].tolist() == pytest.approx([0, 200, 50], abs=1e-4)
    assert found["contrast"].tolist() == pytest.approx([0, 0, 50], abs=1e-4)
    # of six columns inside, one sees +100 and one -100: variance 2 / 6 x 100^2
    assert found["sharpness"].tolist() == pytest.approx([0, 0, 10_000 / 3], abs=1e-2)


def test_sharpness_is_the_variance_of_scipys_laplacian() -> None:
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 30), dtype=np.uint8)
    found = facts(batch(x))
    for k in range(2):
        grey = 0.299 * x[k, 0] + 0.587 * x[k, 1] + 0.114 * x[k, 2]
        assert found["sharpness"].iloc[k] == pytest.approx(laplace(grey)[1:-1, 1:-1].var(), rel=1e-4)


def test_what_lies_outside_the_region_does_not_count() -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 20, 20), dtype=np.uint8)
    region = np.zeros((1, 20, 20), bool)
    region[:, 5:15, 4:12] = True
    inside = facts(batch(x, region))
    np.testing.assert_allclose(inside.iloc[0], facts(batch(x[:, :, 5:15, 4:12])).iloc[0], rtol=1e-6)
    x[:, :, :5] = 255
    assert facts(batch(x, region)).equals(inside)
    assert facts(batch(x, np.zeros_like(region))).isna().all(axis=None)


def test_other_things_are_refused() -> None:
    with pytest.raises(DataError, match="images must be uint8 from 0 to 255, got float32"):
        facts(batch(np.zeros((1, 3, 4, 4), np.float32)))
    assert facts(batch(np.zeros((0, 3, 4, 4), np.uint8))).shape == (0, 3)
