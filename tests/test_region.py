import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image as Pil

from pipeline.errors import DataError
from pipeline.parts.image_canvas import Canvas
from pipeline.region import polygons


def drawn(path: Path, mask: np.ndarray) -> Path:
    Pil.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


def test_polygons_give_back_the_drawn_mask(tmp_path: Path) -> None:
    y, x = np.mgrid[:80, :120]
    mask = (y - 30) ** 2 + (x - 40) ** 2 < 20**2
    mask[50:76, 90:118] = True
    command = [sys.executable, "-m", "pipeline.region", str(drawn(tmp_path / "mask.png", mask))]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    region = yaml.safe_load(printed)
    assert len(region) == 2
    _, inside = Canvas((80, 120), "letterbox", 1.0, region).image(Pil.new("RGB", (120, 80)))
    assert (inside != mask).mean() < 0.02


def test_masks_that_polygons_cannot_be_are_refused(tmp_path: Path) -> None:
    hole = np.ones((40, 40), bool)
    hole[10:20, 10:20] = False
    for mask, says in ((np.zeros((9, 9), bool), "marks nothing"), (hole, "without holes")):
        with pytest.raises(DataError, match=says):
            polygons(drawn(tmp_path / "mask.png", mask))
    (tmp_path / "mask.png").write_text("no image")
    command = [sys.executable, "-m", "pipeline.region", str(tmp_path / "mask.png")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "must be an image of the region" in ended.stderr
    assert "Traceback" not in ended.stderr
