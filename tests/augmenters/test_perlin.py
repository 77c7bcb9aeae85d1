import numpy as np
import pytest

from pipeline.augmenters.cutpaste import CutPaste
from pipeline.augmenters.perlin import Perlin
from pipeline.errors import DataError, ParamsError
from pipeline.params import build
from pipeline.protocols import Batch
from tests.pictures import SIDE, stripes, view


def made(perlin: Perlin, n: int = 10) -> list[Batch]:
    return list(perlin.augment(view(stripes(n, 0))))


def test_makes_the_share_with_masks_that_tell_the_truth() -> None:
    x = stripes(10, 0)
    (batch,) = made(Perlin(share=0.5))
    assert batch.ids == [f"perlin-{i:04d}" for i in range(5)]
    assert (batch.label == 1).all()
    assert batch.x.dtype == np.uint8
    assert batch.mask is not None
    assert batch.mask.shape == (5, SIDE, SIDE)
    for image, mask in zip(batch.x, batch.mask == 1, strict=True):
        assert mask.any()
        # outside the mask it is one of the normals, inside it mostly is not
        twin = min(x, key=lambda normal: int((normal != image).sum()))
        np.testing.assert_array_equal(image[:, ~mask], twin[:, ~mask])
        assert (image != twin).any(axis=0)[mask].mean() > 0.8


def test_batches_bound_memory_and_ids_stay_unique() -> None:
    batches = made(Perlin(share=2.5), n=30)
    assert [len(b) for b in batches] == [32, 32, 11]
    assert len({i for b in batches for i in b.ids}) == 75


def test_seed_decides() -> None:
    one, two, other = made(Perlin(seed=1)), made(Perlin(seed=1)), made(Perlin(seed=2))
    np.testing.assert_array_equal(one[0].x, two[0].x)
    np.testing.assert_array_equal(one[0].mask, two[0].mask)
    assert not np.array_equal(one[0].x, other[0].x)


def test_takes_normals_only_and_needs_one() -> None:
    x = stripes(3, 0)
    x[0] = 255  # an anomaly
    (batch,) = Perlin(share=4.0, opacity=(0.2, 0.2)).augment(view(x, np.array([1, 0, 0])))
    assert len(batch) == 8
    assert (batch.x[:, :, ~(batch.mask == 1).any(axis=0)] < 255).all()
    with pytest.raises(DataError, match="normal"):
        list(Perlin().augment(view(x[:1], np.array([1]))))


def test_options_are_checked() -> None:
    with pytest.raises(ParamsError, match=r"augment\.share must be greater than 0, got 0"):
        build(Perlin, {"share": 0}, "augment")
    with pytest.raises(ParamsError, match=r"augment\.opacity must be \[least, most\], got \[0\.9, 0\.2\]"):
        build(Perlin, {"opacity": [0.9, 0.2]}, "augment")


@pytest.mark.parametrize("augmenter", [Perlin(share=1.0), CutPaste(share=1.0)])
def test_anomalies_lie_in_the_region(augmenter: Perlin | CutPaste) -> None:
    region = np.zeros((6, SIDE, SIDE), bool)
    region[:, 10:20, 30:] = True
    (batch,) = augmenter.augment(view(stripes(6, 0), region=region))
    np.testing.assert_array_equal(batch.region, region)
    assert (batch.mask == 1).any(axis=(1, 2)).all()
    assert not (batch.mask == 1)[~region].any()
