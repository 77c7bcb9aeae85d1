"""The demos are what they say: counts, splits, masks, and the same bytes every time."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_breast_cancer

from pipeline import demos
from pipeline.files import sha256


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demos.textures(tmp_path_factory.mktemp("demo") / "textures", batch=False)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demos.textures(tmp_path_factory.mktemp("demo") / "batch", batch=True)


@pytest.fixture(scope="module")
def manifest(dataset: Path) -> pd.DataFrame:
    return pd.read_csv(dataset / "manifest.csv", keep_default_na=False)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("L", (64, 64))
        return np.asarray(image)


def test_counts(manifest: pd.DataFrame, batch: Path) -> None:
    assert list(manifest.columns) == ["path", "label", "defect", "mask", "group", "category", "split"]
    assert manifest.groupby(["split", "label"]).size().to_dict() == {
        ("test", 0): 38,
        ("test", 1): 38,
        ("train", 0): 130,
    }
    assert set(manifest["defect"]) == {"good", *demos.DEFECTS}
    assert manifest["category"].value_counts().to_dict() == {"brick": 69, "gravel": 69, "grass": 68}
    assert len(list((batch / "good").glob("*.png"))) == 18
    assert len(list((batch / "defective").glob("*/*.png"))) == 6


def test_every_tile_is_on_one_side(manifest: pd.DataFrame, batch: Path) -> None:
    tiles = manifest.groupby("group")["split"].nunique()
    assert len(tiles) == 168
    assert (tiles == 1).all()
    scored = {path.stem for path in batch.rglob("*.png")}
    assert len(scored) == 24
    assert not scored & set(manifest["group"])


def test_good_tiles_are_the_photograph(dataset: Path, manifest: pd.DataFrame) -> None:
    photographs = {name: demos._photograph(name) for name in demos.TEXTURES}
    for row in manifest[manifest["label"] == 0].itertuples():
        name, down, right = row.group.split("-")
        down, right = int(down) * 64, int(right) * 64
        np.testing.assert_array_equal(read(dataset / row.path), photographs[name][down : down + 64, right : right + 64])


def test_masks_mark_what_was_drawn(dataset: Path, manifest: pd.DataFrame) -> None:
    """Outside the mask's neighbourhood nothing changed; inside it, nearly everything did, and visibly."""
    good = manifest[manifest["label"] == 0].set_index("group")["path"]
    for row in manifest[manifest["label"] == 1].itertuples():
        before = read(dataset / good[row.group]).astype(int)
        after = read(dataset / row.path).astype(int)
        mask = read(dataset / row.mask)
        assert set(np.unique(mask)) == {0, 255}
        marked = mask > 0
        assert 0.004 < marked.mean() < 0.2, row.path
        assert np.abs(after - before)[marked].mean() > 10, row.path
        change = np.abs(after - before)
        assert change[marked].sum() > 0.75 * change.sum(), row.path


def test_equal_bytes_every_time(dataset: Path, batch: Path, tmp_path: Path) -> None:
    assert sha256(demos.textures(tmp_path / "a", batch=False)) == sha256(dataset)
    assert sha256(demos.textures(tmp_path / "b", batch=True)) == sha256(batch)
    assert sha256(demos.wdbc(tmp_path / "c", batch=False)) == sha256(demos.wdbc(tmp_path / "d", batch=False))


def test_wdbc_is_scikit_learns_table_in_two_parts(tmp_path: Path) -> None:
    dataset = pd.read_parquet(demos.wdbc(tmp_path, batch=False))
    batch = pd.read_parquet(demos.wdbc(tmp_path, batch=True))
    assert (len(dataset), len(batch)) == (513, 56)
    both = pd.concat([dataset, batch]).sort_values("id", ignore_index=True)
    truth = load_breast_cancer()
    assert both["id"].is_unique
    assert list(both.columns[:3]) == ["id", "label", "mean_radius"]
    np.testing.assert_array_equal(both.iloc[:, 2:].to_numpy(), truth.data)
    names = np.array(["malignant", "benign"])[truth.target]
    np.testing.assert_array_equal(both["label"] == 1, names == "malignant")
    assert both["label"].sum() == 212
    assert 0.2 < batch["label"].mean() < 0.55
