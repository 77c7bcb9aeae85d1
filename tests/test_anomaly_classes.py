import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image as Pil

from pipeline import anomaly_classes
from pipeline.errors import DataError, LineError
from pipeline.stages import CANDIDATES, augment, calibrate, evaluate, ingest, split, train
from tests.pictures import SIDE, stripes

PARAMS = {
    "root": ".",
    "dataset": {"source": "data/raw/manifest.csv", "kind": "image", "size": [SIDE, SIDE]},
    "split": {"calibrate": 0.3, "test": 0.3, "seed": 0},
    "augment": {"kind": "none"},
    "candidates": {
        "kinds": {
            "detector": "image/anomalyncd",
            **{"classes": 2, "steps": 60, "views": 2, "crop": 32, "thresholds": 16, "coreset": 0.05, "correction": 0.0},
        },
        "plain": {"detector": "image/patchcore"},
    },
    "calibrate": {"alpha": 0.2, "confidence": None},
    "promote": {"name": "parts", "limits": {}},
}


def pictures(raw: Path) -> None:
    """40 normals; 24 anomalies in train and 8 in test, by turns a bright disc and a dark bar."""
    rng, x, rows = np.random.default_rng(0), stripes(72, 0), []
    down, across = np.mgrid[:SIDE, :SIDE]
    for i, image in enumerate(x):
        anomaly = i - 40
        a, b = rng.integers(14, 34, 2)
        kind = "" if anomaly < 0 else ("disc", "bar")[anomaly % 2]
        if kind == "disc":
            image[:, (down - a) ** 2 + (across - b) ** 2 < 36] = 250
        if kind == "bar":
            image[:, (abs(down - a) < 2) & (abs(across - b) < 12)] = 0
        Pil.fromarray(image.transpose(1, 2, 0)).save(raw / f"{i:02d}.png")
        place = (
            ("train", "calibrate", "test")[i // 14 if i < 28 else 2]
            if anomaly < 0
            else "train"
            if anomaly < 24
            else "test"
        )
        rows.append({"path": f"{i:02d}.png", "label": int(anomaly >= 0), "defect": kind, "split": place})
    pd.DataFrame(rows).to_csv(raw / "manifest.csv", index=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    line = tmp_path_factory.mktemp("line")
    (line / "data/raw").mkdir(parents=True)
    pictures(line / "data/raw")
    (line / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False), encoding="utf-8")
    with contextlib.chdir(line):
        ingest.main()
        split.main()
        augment.main()
        for name in ("kinds", "plain"):
            train.main(name)
            calibrate.main(name)
            evaluate.main(name)
    return line


def test_kinds_are_told_and_drawn(made: Path) -> None:
    table, files = anomaly_classes.write(made, "kinds")
    assert [path.name for path in files] == ["classes.csv", "classes.png"]
    odd = table[table["label"] == 1]
    assert len(odd) == 8
    assert odd.groupby("defect")["class"].nunique().tolist() == [1, 1]  # each kind in one class, and not in the same
    assert odd["class"].nunique() == 2
    pd.testing.assert_frame_equal(pd.read_csv(files[0], keep_default_na=False), table, check_dtype=False)
    alarms = pd.read_parquet(made / CANDIDATES / "kinds/scores.parquet").query("decision == 'reject' or label == 1")
    assert set(table["id"]) == set(alarms["id"])
    with Pil.open(files[1]) as sheet:
        assert sheet.height == table["class"].nunique() * (160 + 18 + 4)
        assert len(sheet.getcolors(10**6)) > 10


def test_who_cannot_tell_says_so(made: Path) -> None:
    with pytest.raises(DataError, match=r"plain must be a detector that tells classes, .* got image/patchcore"):
        anomaly_classes.write(made, "plain")
    with pytest.raises(LineError, match="is needed to tell the classes of other and is missing"):
        anomaly_classes.write(made, "other")
    command = [sys.executable, "-m", "pipeline.anomaly_classes", "--line", str(made), "--candidate", "plain"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "plain must be a detector that tells classes" in done.stderr
    assert "Traceback" not in done.stderr
