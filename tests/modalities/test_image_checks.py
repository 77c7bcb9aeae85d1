"""What is wrong with a dataset is told; what is scored is measured and drawn."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from pipeline import checks, demos
from pipeline.errors import DataError
from pipeline.modalities.image import Image
from pipeline.parts import overlays
from pipeline.protocols import Batch, Scores
from pipeline.samples import read_manifest
from tests.modalities.conftest import Ingest
from tests.modalities.pictures import noise, put, write


def verdict(folder: Path, tmp_path: Path, **options: object) -> checks.Verdict:
    frame, suite = Image(**options).checks(folder)
    return checks.validate(frame, suite, "image", tmp_path / "report")


def test_a_sound_dataset_passes(ingest: Ingest, tmp_path: Path) -> None:
    ingest(demos.textures(tmp_path / "demo", batch=False))
    assert verdict(tmp_path / "dataset", tmp_path) == checks.Verdict([], [])


def test_every_fault_of_a_dataset_is_told(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    for seed in range(3):
        put(raw / f"good/{seed}.png", seed=seed)
    put(raw / "good/twin.png", seed=0)
    put(raw / "good/blank.png", np.full((24, 32), 9, np.uint8))
    put(raw / "good/thin.png", noise(8, 80))
    put(raw / "bad/same.png", seed=1)
    put(raw / "bad/colour.png", noise(24, 32, 3))
    put(raw / "bad/none.png", seed=5)
    put(raw / "masks/colour.png", np.zeros((24, 32), np.uint8))
    put(raw / "masks/same.png", np.full((24, 32), 255, np.uint8))
    put(raw / "bad/broken.png", b"")
    ingest(raw)
    told = verdict(tmp_path / "dataset", tmp_path, size=(24, 32), fit="stretch")
    assert [sentence.split(" (got")[0] for sentence in told.failures] == [
        "fewer than 8 images are normal (label 0; dataset.min_normals)",
        "images have a side of less than 16 pixels (dataset.min_side): good/thin.png (1 of 10)",
        "images labelled normal are blank: good/blank.png (1 of 10)",
        "images with identical content have different labels: bad/same.png, good/1.png (2 of 10)",
    ]
    assert [sentence.split(" (got")[0] for sentence in told.warnings] == [
        "1 images or masks were quarantined (data/quarantine/rejected.csv says why): bad/broken.png (1 of 10)",
        "images of several modes are mixed",
        "images are squeezed to less than half (dataset.fit): good/thin.png (1 of 10)",
        "images with the same label have identical content: good/0.png, good/twin.png (2 of 10)",
        "defective images without mask: no pixel metrics: bad/none.png (1 of 10)",
        "masks of defective images mark no pixel: bad/colour.png (1 of 10)",
    ]


def test_marks_on_a_normal_image_are_critical(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        put(raw / name, seed=ord(name[0]))
    put(raw / "mask.png")
    ingest(write(raw, "path,label,mask\na.png,0,mask.png\nb.png,-1,\n"))
    told = verdict(tmp_path / "dataset", tmp_path, min_normals=1)
    assert [sentence.split(":")[0] for sentence in told.failures] == [
        "images labelled normal have a mask that marks pixels"
    ]
    assert "images without a label go unused: b.png (1 of 2)" in told.warnings


def test_local_metrics() -> None:
    truth = np.zeros((2, 4, 4), np.int8)
    assert Image().local_metrics(truth, np.zeros((2, 4, 4), np.float32)) == {}
    truth[0, :2] = 1
    assert Image().local_metrics(truth, truth.astype(np.float32)) == pytest.approx({"pixel_auroc": 1, "aupro": 1})
    assert Image().local_metrics(truth, np.zeros((2, 4, 4), np.float32))["pixel_auroc"] == 0.5
    wrong = np.where(truth == 1, np.float32(2), np.float32(0))
    truth[1] = -1  # what does not count may score anything
    wrong[1] = 3
    assert Image().local_metrics(truth, wrong) == pytest.approx({"pixel_auroc": 1, "aupro": 1})


def test_pictures(tmp_path: Path) -> None:
    x = np.full((3, 3, 56, 56), 100, np.uint8)
    mask = np.zeros((3, 56, 56), np.int8)
    mask[0, 20:30, 20:30] = 1
    batch = Batch(["test/a.png", "test__a.png", "../" + "long" * 90], x, np.array([1, 0, 0], np.int8), mask)
    local = np.zeros((3, 56, 56), np.float32)
    local[0, 20:30, 20:30] = 2
    local[0, 22:26, 20:40] = 3
    local[2, :8, :8] = 0.5
    paths = Image().draw(batch, Scores(np.array([3, 1, 0], np.float32), local), 2.5, tmp_path / "new")
    assert paths[0] == tmp_path / "new/test__a.png.png"
    assert len(set(paths)) == 3
    assert all(path.parent == tmp_path / "new" and len(path.name) < 200 for path in paths)
    with Pil.open(paths[0]) as file:
        picture = np.asarray(file)[-224:]  # without the title; panels of 4 x 56 pixels with gaps between them
    plain, heat, contour, outline = (picture[:, start : start + 224] for start in range(0, 912, 228))
    assert (plain == 100).all()
    assert heat[92, 130].tolist() == [int(100 * 0.45 + c * 0.55) for c in (253, 231, 36)]  # viridis' bright end
    assert heat[10, 10].tolist() == [int(100 * 0.45 + c * 0.55) for c in (68, 1, 84)]  # and its dark one
    drawn = (outline == (255, 176, 0)).all(axis=-1)
    assert drawn.sum() == 44 * 44 - 40 * 40  # a frame two wide around 40 x 40 pixels
    assert (outline[~drawn] == 100).all()
    hot = (contour == overlays.CONTOUR).all(axis=-1)
    assert hot.sum() == 20 * 84 - 16 * 80  # around the 4 x 20 pixels that are above the threshold
    assert (contour[~hot] == 100).all()
    with Pil.open(paths[2]) as file:
        quiet = np.asarray(file)[-224:, 456:680]
    assert (quiet == 100).all()  # no alarm, no contour


@pytest.mark.parametrize(("score", "threshold", "above"), [(4.0, 2.0, [2, 3]), (2.0, 4.0, []), (-1.0, -3.0, [1, 2, 3])])
def test_something_is_above_the_level_exactly_where_the_sample_is(
    score: float, threshold: float, above: list[int]
) -> None:
    local = np.array([0.5, 1.5, 2.5, 3.25])
    found = np.flatnonzero(local > overlays.level(local, score, threshold))
    assert found.tolist() == above


def test_looks_are_as_fine_as_their_files(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    for name, size in (("a.png", (100, 50)), ("b.png", (10, 20)), ("c.png", (1500, 3000))):
        put(raw / name, noise(*size))
    ingest(raw)
    rows = read_manifest(tmp_path / "dataset")
    local = np.arange(3 * 40 * 40, dtype=np.float32).reshape(3, 40, 40)
    finer, coarse, large = Image(size=(40, 40)).look(rows, Scores(np.zeros(3, np.float32), local))
    assert finer.picture.shape == (120, 120, 3)  # three times, so that 100 pixels are not fewer than there are
    assert coarse.picture.shape == (40, 40, 3)
    assert large.picture.shape == (2040, 2040, 3)
    np.testing.assert_array_equal(finer.heat[:, 10:30], local[0, :, 10:30])
    assert np.isnan(finer.heat[:, :10]).all()  # the bars of letterbox
    assert ("pixels", "50 x 100") in finer.fields
    assert Image(size=(40, 40)).look(rows, None)[0].heat is None
    (tmp_path / "dataset/images/b.png").unlink()
    with pytest.raises(DataError, match=r"image b\.png is gone"):
        Image(size=(40, 40)).look(rows[rows["id"] == "b.png"], None)


def test_pictures_without_maps_or_masks(tmp_path: Path) -> None:
    batch = Batch(["a"], np.zeros((1, 3, 300, 200), np.uint8), np.array([-1], np.int8))
    (path,) = Image().draw(batch, Scores(np.array([2], np.float32)), 1.0, tmp_path)
    with Pil.open(path) as picture:
        assert picture.width == 200
