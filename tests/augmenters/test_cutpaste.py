import numpy as np
import pytest

from pipeline.augmenters.cutpaste import CutPaste, _turned
from pipeline.errors import DataError, ParamsError
from pipeline.params import build
from pipeline.protocols import Batch
from tests.pictures import stripes, view


def made(cutpaste: CutPaste, n: int = 12) -> Batch:
    (batch,) = cutpaste.augment(view(stripes(n, 0)))
    return batch


def test_patches_are_rectangles_within_the_area_and_the_rest_is_untouched() -> None:
    x = stripes(12, 0)
    batch = made(CutPaste(share=1.0, shape="patch", area=(0.05, 0.1)))
    assert batch.ids == [f"cutpaste-{i:04d}" for i in range(12)]
    assert (batch.label == 1).all()
    for image, mask in zip(batch.x, batch.mask == 1, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all()
        assert 0.04 < mask.mean() < 0.11
        twin = min(x, key=lambda normal: int((normal != image).sum()))
        np.testing.assert_array_equal(image[:, ~mask], twin[:, ~mask])
        assert (image != twin).any(axis=0)[mask].mean() > 0.8


def test_without_jitter_a_patch_comes_from_the_image_itself() -> None:
    batch = made(CutPaste(share=1.0, shape="patch", jitter=0.0))
    for image, mask in zip(batch.x, batch.mask == 1, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        patch = image[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        windows = np.lib.stride_tricks.sliding_window_view(
            min(stripes(12, 0), key=lambda normal: int((normal != image).sum()))[0], patch.shape
        )
        assert (windows == patch).all(axis=(2, 3)).any()


def test_scars_are_thin() -> None:
    batch = made(CutPaste(share=1.0, shape="scar"))
    assert batch.mask.any(axis=(1, 2)).all()
    assert batch.mask.mean(axis=(1, 2)).max() < 0.02


def test_turning_by_a_right_angle_is_exact() -> None:
    patch = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    turned, inside = _turned(patch, 90.0, (9, 9))
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = turned[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert any(np.array_equal(box, np.rot90(patch, k, axes=(1, 2))) for k in (1, 3))


def test_seed_decides() -> None:
    np.testing.assert_array_equal(made(CutPaste(seed=1)).x, made(CutPaste(seed=1)).x)
    assert not np.array_equal(made(CutPaste(seed=1)).x, made(CutPaste(seed=2)).x)


def test_small_and_odd_sizes_work() -> None:
    for size in ((5, 9), (2, 2), (70, 3)):
        x = np.random.default_rng(0).integers(0, 256, (4, 3, *size), dtype=np.uint8)
        (batch,) = CutPaste(share=8.0, area=(0.02, 0.5)).augment(view(x))
        assert batch.x.shape == (32, 3, *size)
        assert batch.mask.any(axis=(1, 2)).all()


def test_needs_normals_and_checks_its_options() -> None:
    with pytest.raises(DataError, match="normal"):
        list(CutPaste().augment(view(stripes(1, 0), np.array([1]))))
    with pytest.raises(ParamsError, match=r"augment\.area must be \[least, most\], got \[0\.2, 0\.1\]"):
        build(CutPaste, {"area": [0.2, 0.1]}, "augment")
    with pytest.raises(ParamsError, match=r"augment\.shape"):
        build(CutPaste, {"shape": "round"}, "augment")
