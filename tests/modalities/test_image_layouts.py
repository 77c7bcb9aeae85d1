"""Every layout and manifest is understood, or refused in one sentence."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.protocols import MANIFEST, Ingested
from tests.modalities.conftest import Ingest
from tests.modalities.pictures import put, write


def labels(found: Ingested) -> dict[str, tuple[int, str, str, str]]:
    rows = found.manifest
    return {
        row.id: (row.label, row.defect, row.split, row.mask) for row in rows.itertuples()
    }  # id -> label, defect, split, mask


def test_mvtec_layout(raw: Path, ingest: Ingest) -> None:
    names = ("train/good/0.png", "test/good/1.png", "test/dent/2.png", "test/hole/2.png", "validation/good/3.png")
    for seed, name in enumerate(names):
        put(raw / name, seed=seed)
    put(raw / "ground_truth/dent/2_mask.png", np.zeros((24, 32), np.uint8))
    put(raw / "ground_truth/hole/2.png", np.full((24, 32), 255, np.uint8))
    put(raw / "ground_truth/hole/7.png", np.zeros((24, 32), np.uint8))
    put(raw / "licence.txt", b"not a sample")
    put(raw / "train/good/.hidden.png", b"")
    put(raw / "stray.png")
    found = ingest(raw)
    assert labels(found) == {
        "test/dent/2.png": (1, "dent", "test", "masks/test/dent/2.png.png"),
        "test/good/1.png": (0, "good", "test", ""),
        "test/hole/2.png": (1, "hole", "test", "masks/test/hole/2.png.png"),
        "train/good/0.png": (0, "good", "train", ""),
        "validation/good/3.png": (0, "good", "calibrate", ""),
    }
    assert found.manifest["mask_share"].fillna(-1).tolist() == [0, -1, 1, -1, -1]
    reasons = dict(zip(found.rejected["id"], found.rejected["reason"], strict=True))
    assert set(reasons) == {"stray.png", "ground_truth/hole/7.png"}
    assert reasons["ground_truth/hole/7.png"] == "a mask that belongs to no defective image"
    assert reasons["stray.png"].startswith("lies outside of train/CLASS")


def test_good_and_bad_folders(raw: Path, ingest: Ingest) -> None:
    names = ("OK/a.png", "NG/b.png", "NG/crack/c.png", "NG/x/d.png", "NG/y/d.png")
    for seed, name in enumerate(names):
        put(raw / name, seed=seed)
    for name in ("b_mask.png", "c.png", "x/d.png", "d.png"):  # the last could be x's or y's
        put(raw / "masks" / name, np.full((24, 32), 255, np.uint8))
    found = ingest(raw)
    assert labels(found) == {
        "NG/b.png": (1, "", "", "masks/NG/b.png.png"),
        "NG/crack/c.png": (1, "crack", "", "masks/NG/crack/c.png.png"),
        "NG/x/d.png": (1, "x", "", "masks/NG/x/d.png.png"),
        "NG/y/d.png": (1, "y", "", ""),
        "OK/a.png": (0, "good", "", ""),
    }
    assert found.rejected["id"].tolist() == ["masks/d.png"]


def test_a_folder_that_tells_nothing_beside_good(raw: Path, ingest: Ingest) -> None:
    put(raw / "good/a.png")
    put(raw / "previews/a.png")
    with pytest.raises(DataError, match="folder raw/previews says neither good .* bad .* nor mask"):
        ingest(raw)


@pytest.mark.parametrize("below", ["", "camera/today/"])
def test_images_of_unknown_label(below: str, raw: Path, ingest: Ingest) -> None:
    put(raw / f"{below}b.png", seed=1)
    put(raw / f"{below}a.jpg", seed=2)
    found = ingest(raw)
    assert labels(found) == {"a.jpg": (-1, "", "", ""), "b.png": (-1, "", "", "")}


def test_one_image_is_a_source(raw: Path, ingest: Ingest) -> None:
    assert labels(ingest(put(raw / "a.png"))) == {"a.png": (-1, "", "", "")}


def test_an_archives_one_folder_is_looked_into(raw: Path, ingest: Ingest) -> None:
    put(raw / "set-v1.0/bottle/train/good/0.png")
    assert labels(ingest(raw)) == {"train/good/0.png": (0, "good", "train", "")}


def test_an_empty_folder(raw: Path, ingest: Ingest) -> None:
    raw.mkdir()
    with pytest.raises(DataError, match=r"^raw must hold images \(.png, .*\), got none$"):
        ingest(raw)


def test_a_manifest_with_everything(raw: Path, ingest: Ingest) -> None:
    put(raw / "a.png")
    put(raw / "deep/b.png", seed=1)
    put(raw / "b_mask.png", np.eye(24, 32, dtype=np.uint8))
    write(
        raw,
        "\ufeffpath,label,defect,mask,group,split,category,severity,time,camera\n"
        "deep\\b.png,1,crack,b_mask.png,item 1,test,left,2.5,2026-01-31T12:00:00+02:00,7\n"
        "./a.png,0,,,,train,right,,,7\n",
    )
    found = ingest(raw)
    rows = found.manifest
    assert list(rows.columns[: len(MANIFEST)]) == list(MANIFEST)
    assert rows["id"].tolist() == ["deep/b.png", "a.png"]
    assert rows["label"].tolist() == [1, 0]
    assert rows["defect"].tolist() == ["crack", "good"]
    assert rows["group"].tolist() == ["item 1", ""]
    assert rows["split"].tolist() == ["test", "train"]
    assert rows["category"].tolist() == ["left", "right"]
    assert rows["severity"].fillna(-1).tolist() == [2.5, -1]
    assert rows["time"][0] == pd.Timestamp("2026-01-31T10:00:00Z")
    assert rows["time"].isna().tolist() == [False, True]
    assert rows["mask_share"].fillna(-1).tolist() == [24 / (24 * 32), -1]
    assert rows["sha256"].tolist() == [sha256(raw / "deep/b.png"), sha256(raw / "a.png")]


def test_a_parquet_manifest_with_gaps(raw: Path, ingest: Ingest) -> None:
    for seed, name in enumerate("abc"):
        put(raw / f"images/{name}.png", seed=seed)
    (raw / "lists").mkdir()
    frame = pd.DataFrame({"path": [f"images/{n}.png" for n in "abc"], "label": [0, 1, None], "group": [1.0, None, 2.5]})
    frame.to_parquet(raw / "lists/all.parquet")
    rows = ingest(raw / "lists/all.parquet").manifest  # paths are relative to the parent here
    assert rows["label"].tolist() == [0, 1, -1]
    assert rows["group"].tolist() == ["1", "", "2.5"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("label\n0\n", "manifest.csv must have a column path, got label"),
        ("path\n", "manifest.csv must name at least one image, got no rows"),
        ("path,lable\na.png,0\n", "manifest.csv has a column 'lable', did you mean label?"),
        ("path,label\na.png,0\nb.png,2\n", "row 2, column label: must be 0 (good), 1 (defective), or -1"),
        ("path,label\na.png,0\na.png,0\n", "rows 1 and 2, column path: 'a.png' must stand there only once"),
        ("path,label\na.png,0\n./a.png,0\n", "rows 1 and 2, column path: 'a.png' must stand there only once"),
        ("path,label\n,0\n", "row 1, column path: must be a path below"),
        ("path,label\n../a.png,0\n", "row 1, column path: must be a path below"),
        ("path,label\n/a.png,0\n", "row 1, column path: must be a path below"),
        ("path,mask\na.png,../b.png\n", "row 1, column mask: must be a path below"),
        ("path,label,defect\na.png,0,crack\n", 'row 1, column defect: must be empty or "good" where label is 0'),
        ("path,split\na.png,tset\n", "row 1, column split: must be empty or one of train, validation"),
        ("path,severity\na.png,high\n", "row 1, column severity: must be a number or empty, got 'high'"),
        ("path,time\na.png,noon-ish\n", "row 1, column time: must be a date and time such as"),
        ('path,label\n"a.png,0\n', "manifest.csv cannot be read as a csv table"),
    ],
)
def test_manifests_that_are_wrong(text: str, sentence: str, raw: Path, ingest: Ingest) -> None:
    put(raw / "a.png")
    with pytest.raises(DataError) as caught:
        ingest(write(raw, text))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
