"""Parts of a batch of images hold together what the whole holds, whatever happens to the files meanwhile."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.modalities.image import Image
from pipeline.parts import image_cuts
from pipeline.samples import read_manifest
from tests.modalities.pictures import put


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    for number in range(5):
        put(folder / f"good/{number}.png", seed=number)
    put(folder / "bad/hole/x.png", seed=9)
    put(folder / "masks/hole/x.png", seed=10)
    put(folder / "bad/y.png", b"no image")
    put(folder / "elsewhere.png")
    return folder


def ingested(source: Path, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    (out / "dataset").mkdir(parents=True)
    (out / "quarantine").mkdir()
    found = Image().ingest(source, out / "dataset", out / "quarantine")
    return found.manifest, found.rejected


@pytest.mark.parametrize("size", [1, 2, 6, 7, 100])
def test_parts_together_are_the_whole(raw: Path, tmp_path: Path, size: int) -> None:
    cut = Image().cut(raw, size, tmp_path / "cut")
    assert len(cut.parts) == -(-7 // size)
    each = [ingested(part, tmp_path / f"part-{number}") for number, part in enumerate(cut.parts)]
    manifest, rejected = ingested(raw, tmp_path / "whole")
    pd.testing.assert_frame_equal(pd.concat([m for m, _ in each], ignore_index=True), manifest)
    order = ["id", "path", "reason"]
    together = pd.concat([r for _, r in each]).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(together, rejected.sort_values(order, ignore_index=True))
    assert len(rejected) == 2


def test_content_is_of_names_and_bytes_not_of_places_or_sizes(raw: Path, tmp_path: Path) -> None:
    first = image_cuts.cut(raw, 2, tmp_path / "a").content
    moved = raw.rename(tmp_path / "moved")
    assert image_cuts.cut(moved, 3, tmp_path / "b").content == first
    put(moved / "good/0.png", seed=99)
    second = image_cuts.cut(moved, 2, tmp_path / "c").content
    (moved / "good/1.png").rename(moved / "good/1b.png")
    assert len({first, second, image_cuts.cut(moved, 2, tmp_path / "d").content}) == 3


def test_an_image_that_changes_or_goes_while_the_batch_is_read_is_set_aside(raw: Path, tmp_path: Path) -> None:
    (part,) = image_cuts.cut(raw, 100, tmp_path / "cut").parts
    put(raw / "good/0.png", seed=77)
    (raw / "good/1.png").unlink()
    manifest, rejected = ingested(part, tmp_path / "out")
    reasons = rejected.set_index("id")["reason"]
    assert reasons["good/0.png"] == "has changed while the batch was read"
    assert "good/1.png" in reasons
    assert set(manifest["id"]) == {"good/2.png", "good/3.png", "good/4.png", "bad/hole/x.png"}


def test_a_part_without_a_good_image_is_no_error_but_a_whole_is(tmp_path: Path) -> None:
    put(tmp_path / "raw/a.png", b"none")
    (part,) = image_cuts.cut(tmp_path / "raw", 10, tmp_path / "cut").parts
    manifest, rejected = ingested(part, tmp_path / "out")
    assert (len(manifest), len(rejected)) == (0, 1)
    with pytest.raises(DataError, match="must hold images that can be read"):
        ingested(tmp_path / "raw", tmp_path / "again")


def test_a_folder_without_files_is_a_batch_without_samples(tmp_path: Path) -> None:
    (tmp_path / "raw/deep").mkdir(parents=True)
    assert image_cuts.cut(tmp_path / "raw", 10, tmp_path / "cut").parts == []


def test_a_manifest_of_a_person_is_no_part(tmp_path: Path) -> None:
    pd.DataFrame({"path": ["a.png"]}).to_parquet(tmp_path / "manifest.parquet")
    assert not image_cuts.is_part(tmp_path / "manifest.parquet")


def test_thin_leaves_what_is_wanted(raw: Path, tmp_path: Path) -> None:
    manifest, _ = ingested(raw, tmp_path / "out")
    wanted = (manifest["id"].isin(["bad/hole/x.png", "good/3.png"])).to_numpy()
    Image().thin(tmp_path / "out/dataset", wanted)
    left = read_manifest(tmp_path / "out/dataset")
    assert set(left["id"]) == {"bad/hole/x.png", "good/3.png"}
    files = {p.relative_to(tmp_path / "out/dataset").as_posix() for p in (tmp_path / "out/dataset").rglob("*.png")}
    assert files == {"images/bad/hole/x.png", "images/good/3.png", "masks/bad/hole/x.png.png"}
    assert (raw / "good/0.png").exists()
