"""Pictures made on demand: small, kept in bounded files, with heat where it counts."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.review import pictures


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)))


def test_thumbnails_are_small_and_whole_pictures_are_exact() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (400, 800, 3)).astype(np.uint8)
    assert opened(pictures.thumbnail(picture)).shape == (120, 240, 3)
    np.testing.assert_array_equal(opened(pictures.whole(picture)), picture)


def test_heat_is_opaque_where_it_is_hot_and_dark_where_nothing_counts() -> None:
    local = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (4, 1))
    local[:, :2] = np.nan
    found = opened(pictures.heat(local))
    assert found.shape[1] == 2 * found.shape[0]  # the picture's aspect
    assert (found[:, 5, :3] == 0).all()
    assert (found[:, 5, 3] == 204).all()
    hot, cool = found[10, -1], found[10, 300]
    assert hot[3] == 255
    assert hot[0] > hot[2]  # yellow
    assert cool[3] < 120
    assert opened(pictures.heat(np.full((3, 3), 7, np.float32)))[0, 0, 3] < 64  # all alike: nothing is hot


def test_pictures_are_made_once_and_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    store = pictures.Pictures(tmp_path / "kept", most=1000)
    made: list[str] = []

    def make(name: str) -> bytes:
        made.append(name)
        return name.encode() * 50

    for name in ("aa", "bb", "aa"):
        store.get(f"{name}.webp", lambda name=name: make(name))
    assert made == ["aa", "bb"]
    for number in range(20):
        store.get(f"c{number:02d}.webp", lambda: b"x" * 100)
        os.utime(tmp_path / f"kept/c{number // 10}/c{number:02d}.webp", (number, number))
    store.shrink()
    left = sorted(path.name for path in (tmp_path / "kept").glob("*/*"))
    assert sum(path.stat().st_size for path in (tmp_path / "kept").glob("*/*")) <= 900
    assert {"aa.webp", "bb.webp"} < set(left)
    assert "c00.webp" not in left


def test_a_folder_that_cannot_be_written_costs_no_picture(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert pictures.Pictures(tmp_path / "file").get("aa.png", lambda: b"data") == b"data"
