from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from pipeline.errors import DataError
from pipeline.parts.image_folder import Folder


def test_images_of_any_size_mode_and_depth_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Pil.new("RGB", (50, 20), (200, 0, 0)).save(tmp_path / "red.png")
    Pil.new("L", (9, 40), 100).save(tmp_path / "deep" / "grey.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    found = Folder(str(tmp_path), (16, 24)).drawn(20, np.random.default_rng(0))
    assert found.shape == (20, 3, 16, 24)
    assert {tuple(image[:, 5, 5]) for image in found} == {(200, 0, 0), (100, 100, 100)}


def test_no_images_and_damaged_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a folder of images"):
        Folder(str(tmp_path), (8, 8))
    (tmp_path / "a.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"a\.png"):
        Folder(str(tmp_path), (8, 8)).drawn(1, np.random.default_rng(0))
