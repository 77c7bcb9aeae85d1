"""Images: what is read is what was there, and the options and the real data that it is read with."""

from base64 import b64encode
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pil

from pipeline import checks
from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.modalities.image import Image
from pipeline.params import build
from pipeline.protocols import Batch
from pipeline.samples import read_manifest
from tests.modalities.conftest import Ingest
from tests.modalities.pictures import huge_png, noise, put, write

SHARED = Path(__file__).parents[2] / "../shared/data"


def test_equal_bytes_every_time_and_files_are_linked(raw: Path, tmp_path: Path) -> None:
    put(raw / "good/a.png")
    put(raw / "bad/b.png", seed=1)
    put(raw / "bad/c.png", b"")
    hashes = []
    for run in ("one", "two"):
        out, quarantine = tmp_path / run / "dataset", tmp_path / run / "quarantine"
        out.mkdir(parents=True)
        quarantine.mkdir()
        Image().ingest(raw, out, quarantine)
        hashes.append((sha256(out), sha256(quarantine)))
        assert (out / "images/good/a.png").samefile(raw / "good/a.png")
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_every_allowed_mode_becomes_rgb(mode: str, raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    colour = Pil.fromarray(noise(16, 16, 3))
    image = colour.convert(mode)
    if mode in {"RGBA", "LA"}:
        image.putalpha(Pil.fromarray(noise(16, 16, seed=1)))
    put(raw / "a.png", image)
    assert ingest(raw, size=(16, 16)).manifest["mode"].tolist() == [mode]
    (batch,) = Image(size=(16, 16)).samples(read_manifest(tmp_path / "dataset")).batches(4)
    want = np.asarray(image.convert("RGBA"))[..., :3].transpose(2, 0, 1)
    assert batch.x.dtype == np.uint8
    np.testing.assert_array_equal(batch.x[0], want)


def test_a_palette_with_transparency_warns_nobody(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    image = Pil.fromarray(noise(16, 16, 3)).quantize(16)
    put(raw / "a.png", b"")
    image.save(raw / "a.png", transparency=bytes(range(16)))
    ingest(raw)
    (batch,) = Image(size=(16, 16)).samples(read_manifest(tmp_path / "dataset")).batches(1)
    np.testing.assert_array_equal(batch.x[0].transpose(1, 2, 0), np.asarray(image.convert("RGB")))


def test_exif_orientation_is_honoured(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    exif = Pil.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    pixels = noise(16, 24)
    raw.mkdir()
    Pil.fromarray(pixels).save(raw / "a.png", exif=exif)
    rows = ingest(raw).manifest
    assert (rows["width"][0], rows["height"][0]) == (16, 24)
    (batch,) = Image(size=(24, 16)).samples(read_manifest(tmp_path / "dataset")).batches(1)
    np.testing.assert_array_equal(batch.x[0, 0], np.rot90(pixels, -1))


def test_contrast_is_the_standard_deviation_of_the_greys(raw: Path, ingest: Ingest) -> None:
    pixels = noise(20, 30)
    put(raw / "a.png", pixels)
    put(raw / "b.png", np.full((20, 30), 7, np.uint8))
    assert ingest(raw).manifest["contrast"].tolist() == pytest.approx([pixels.std(), 0])


def test_resizing_averages_images_and_picks_from_masks(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    """Halving a checkerboard must give grey (antialiased); the mask stays of two values."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    half = np.zeros((64, 64), np.uint8)
    half[:, :32] = 1  # marks of value 1 count, too
    put(raw / "bad/a.png", board)
    put(raw / "good/b.png", board.T)
    put(raw / "masks/a.png", half)
    ingest(raw)
    (batch,) = Image(size=(32, 32)).samples(read_manifest(tmp_path / "dataset")).batches(9)
    assert batch.ids == ["bad/a.png", "good/b.png"]
    assert np.abs(batch.x[0].astype(int) - 127.5)[:, 2:-2, 2:-2].max() < 2
    assert batch.mask[0, :, :16].all()
    assert not batch.mask[0, :, 16:].any()
    assert not batch.mask[1].any()


def test_noise_in_a_jpeg_mask_marks_nothing(raw: Path, ingest: Ingest) -> None:
    put(raw / "bad/a.png")
    mask = np.zeros((24, 32), np.uint8)
    mask[:8, :8] = 255
    put(raw / "masks/a.jpg", np.where(mask > 0, 250, noise(24, 32) % 8).astype(np.uint8))
    assert ingest(raw).manifest["mask_share"][0] == pytest.approx(64 / 768, abs=0.005)


def test_pixels_of_a_defect_without_mask_are_of_unknown_label(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    for seed, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
        put(raw / name, seed=seed)
    put(raw / "a_mask.png", np.full((24, 32), 255, np.uint8))
    ingest(write(raw, "path,label,mask\na.png,1,a_mask.png\nb.png,0,\nc.png,1,\nd.png,-1,\n"))
    (batch,) = Image(size=(8, 8)).samples(read_manifest(tmp_path / "dataset")).batches(4)
    assert batch.mask.dtype == np.int8
    assert [np.unique(mask[1:-1]).tolist() for mask in batch.mask] == [[1], [0], [-1], [-1]]


def test_letterbox_keeps_the_aspect_and_its_bars_do_not_count(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    put(raw / "bad/a.png", np.full((10, 40), 200, np.uint8))
    put(raw / "masks/a.png", np.full((10, 40), 255, np.uint8))
    put(raw / "good/b.png", noise(20, 20))
    ingest(raw)
    (batch,) = Image(size=(20, 20)).samples(read_manifest(tmp_path / "dataset")).batches(2)
    rows = np.flatnonzero(batch.region[0].all(axis=1))
    assert rows.tolist() == [7, 8, 9, 10, 11]  # 10 x 40 becomes 5 x 20
    assert (batch.region[0].sum(), batch.mask[0].sum()) == (100, 100)
    assert (batch.x[0] == 200).all()  # the bars repeat the border
    assert batch.region[1].all()
    np.testing.assert_array_equal(batch.x[1, 0], noise(20, 20))


def test_native_keeps_the_pixels_and_sets_aside_what_is_larger(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    put(raw / "a.png", noise(24, 16))
    put(raw / "b.png", noise(24, 40))
    modality = Image(size=(32, 32), fit="native")
    found = ingest(raw, size=(32, 32), fit="native")
    assert found.rejected["reason"].tolist() == [
        "40 x 24 pixels do not fit the canvas of 32 x 32 unscaled (dataset.size; or take dataset.fit: letterbox)"
    ]
    (batch,) = modality.samples(read_manifest(tmp_path / "dataset")).batches(2)
    np.testing.assert_array_equal(batch.x[0, 0, 4:28, 8:24], noise(24, 16))
    assert batch.region[0].sum() == 24 * 16
    with pytest.raises(DataError, match="40 x 24 pixels do not fit the canvas"):
        list(modality.from_frame(pd.DataFrame({"path": [str(raw / "b.png")]})).batches(1))


def test_crop_and_region_tell_what_counts(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    put(raw / "a.png", noise(40, 40))
    ingest(raw)
    rows = read_manifest(tmp_path / "dataset")
    half = [[(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)]]
    (batch,) = Image(size=(20, 20), crop=0.5, region=half).samples(rows).batches(1)
    np.testing.assert_array_equal(batch.x[0, 0], noise(40, 40)[10:30, 10:30])
    np.testing.assert_array_equal(batch.region[0, :, :10], True)
    np.testing.assert_array_equal(batch.region[0, :, 11:], False)


def test_a_small_defect_survives_shrinking(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    put(raw / "bad/a.png")
    mask = np.zeros((24, 32), np.uint8)
    mask[0, 0] = 255
    put(raw / "masks/a.png", mask)
    ingest(raw)
    (batch,) = Image(size=(8, 8), fit="stretch").samples(read_manifest(tmp_path / "dataset")).batches(1)
    assert batch.mask[0].sum() == 1
    assert batch.mask[0, 0, 0] == 1


def test_saved_batches_keep_their_region(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    put(raw / "a.png", noise(24, 32))
    ingest(raw)
    modality = Image(size=(32, 32), crop=0.75)
    (before,) = modality.samples(read_manifest(tmp_path / "dataset")).batches(1)
    (tmp_path / "saved").mkdir()
    modality.save([before], tmp_path / "saved")
    rows = read_manifest(tmp_path / "saved")
    for view in (modality.samples(rows), modality.from_frame(modality.to_frame(rows))):
        (after,) = view.batches(1)
        np.testing.assert_array_equal(after.x, before.x)
        np.testing.assert_array_equal(after.region, before.region)


def test_a_file_that_changed_or_vanished_since_ingest(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    put(raw / "a.png")
    ingest(raw)
    samples = Image().samples(read_manifest(tmp_path / "dataset"))
    linked = tmp_path / "dataset/images/a.png"
    linked.unlink()
    with pytest.raises(DataError, match=r"^image a.png is gone since it was ingested"):
        list(samples.batches(1))
    put(linked, seed=1)
    with pytest.raises(DataError, match=r"^image a.png has changed since it was ingested"):
        list(samples.batches(1))


def test_a_frame_of_paths(tmp_path: Path) -> None:
    paths = [str(put(tmp_path / name, seed=seed)) for seed, name in enumerate(("b.png", "a.png"))]
    samples = Image(size=(24, 32)).from_frame(pd.DataFrame({"note": [1, 2], "path": paths}))
    (batch,) = samples.batches(8)
    assert batch.ids == paths
    assert batch.label.tolist() == [-1, -1]
    assert (batch.mask == -1).all()
    np.testing.assert_array_equal(batch.x[1, 0], noise(24, 32, seed=1))


def test_a_frame_of_files_as_base64_text_gives_the_batches_of_the_files(tmp_path: Path) -> None:
    paths = [put(tmp_path / name, seed=seed) for seed, name in enumerate(("b.png", "a.png", "c.png"))]
    texts = [b64encode(path.read_bytes()).decode() for path in paths]
    frame = pd.DataFrame(
        {"image": [texts[0], None, f"data:image/png;base64,{texts[2]}"], "path": ["", str(paths[1]), None]}
    )
    modality = Image(size=(24, 32))
    (expected,) = modality.from_frame(pd.DataFrame({"path": list(map(str, paths))})).batches(8)
    samples = modality.from_frame(frame)
    for view, positions in ((samples, [0, 1, 2]), (samples[np.array([2, 1])], [2, 1])):
        came = list(view.batches(2))
        np.testing.assert_array_equal(np.concatenate([batch.x for batch in came]), expected.x[positions])
    assert samples.ids == ["in row 1", str(paths[1]), "in row 3"]


def test_frames_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must come with a column path .* or image .*, got the columns file"):
        Image().from_frame(pd.DataFrame({"file": ["a.png"]}))
    with pytest.raises(DataError, match="row 1: column path must hold texts, got '3'"):
        Image().from_frame(pd.DataFrame({"path": [3]}))
    with pytest.raises(DataError, match="cannot be used: the file is missing"):
        list(Image().from_frame(pd.DataFrame({"path": [str(tmp_path / "no.png")]})).batches(1))
    no_image = pd.DataFrame({"image": [b64encode(b"plain words").decode()]})
    with pytest.raises(DataError, match="image in row 1 cannot be used: not an image in a known format"):
        list(Image().from_frame(no_image).batches(1))
    huge = put(tmp_path / "huge.png", huge_png())
    inline = pd.DataFrame({"image": [b64encode(huge.read_bytes()).decode()]})
    with pytest.raises(DataError, match="image in row 1 cannot be used: 10000 x 10000 pixels are more than"):
        list(Image().from_frame(inline).batches(1))
    with pytest.raises(DataError, match="cannot be used: 10000 x 10000 pixels are more than"):
        list(Image().from_frame(pd.DataFrame({"path": [str(huge)]})).batches(1))


def test_saved_batches_come_back(tmp_path: Path) -> None:
    x = noise(16, 24, 2, 3).transpose(2, 3, 0, 1)
    mask = np.zeros((2, 16, 24), np.int8)
    mask[1, 3:5] = 1
    made = Image().save([Batch(["new/0", "new/1.png"], x, np.array([0, 1], np.int8), mask)], tmp_path)
    assert made["path"].tolist() == ["images/new/0.png", "images/new/1.png"]
    assert made["defect"].tolist() == ["good", "synthetic"]
    assert made["mask_share"].fillna(-1).tolist() == pytest.approx([-1, 2 / 16])
    (batch,) = Image(size=(16, 24)).samples(read_manifest(tmp_path)).batches(2)
    np.testing.assert_array_equal(batch.x, x)
    np.testing.assert_array_equal(batch.mask, mask)
    with pytest.raises(DataError, match="ids of new images must differ"):
        Image().save([Batch(["a", "a.png"], x, np.array([0, 0], np.int8), mask)], tmp_path / "twice")


def test_options_come_from_params() -> None:
    assert build(Image, {"size": [64, 32]}, "dataset").size == (64, 32)
    with pytest.raises(Exception, match=r"dataset.size.0 must be greater than or equal to 8, got 4"):
        build(Image, {"size": [4, 32]}, "dataset")


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
def test_the_shared_magnetic_tiles(ingest: Ingest, tmp_path: Path) -> None:
    found = ingest(SHARED / "splits/magnetic_tile.csv")
    assert found.manifest.groupby(["split", "label"]).size().to_dict() == {
        ("calibrate", 0): 186,
        ("test", 0): 186,
        ("test", 1): 392,
        ("train", 0): 580,
    }
    assert found.rejected.empty
    assert (found.manifest["mask"] != "").sum() == 392
    assert (found.manifest["mask_share"] == 0).sum() == 4  # four masks of the set mark nothing
    frame, suite = Image().checks(tmp_path / "dataset")
    told = checks.validate(frame, suite, "image", tmp_path / "report")
    assert told.failures == []
    assert any("mark no pixel" in sentence and "(4 of 1344)" in sentence for sentence in told.warnings)
