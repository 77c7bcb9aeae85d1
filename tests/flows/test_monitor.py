"""The page of monitoring: a table, a picture, a CSV file, and what Prefect shows of them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.monitoring import picture, record
from pipeline.monitoring.reference import Reference
from tests.flows.conftest import LOOSE_SOCKETS
from tests.monitoring.batches import PARAMS, calibration, normal, scored

ROOT = Path(__file__).parents[2]
pytestmark = LOOSE_SOCKETS
PAGE = "promote: {name: line}\nscore: {source: x}\n"


def recorded(folder: Path, batches: int = 8, drift_from: int = 5) -> None:
    """Batches of two versions in the database, the last of them brighter, higher, and partly unreadable."""
    given, rng = calibration(), np.random.default_rng(0)
    reference = Reference(pd.DataFrame({"brightness": rng.normal(100, 9, 300)}), 300, 1)
    for i in range(batches):
        late = i >= drift_from
        report = scored(folder / f"b{i}", normal(150, i, 1.0 * late), given, quarantined=9 * late, version=1 + (i > 2))
        facts = pd.DataFrame({"brightness": rng.normal(100 + 20 * late, 9, 100)})
        facts.to_parquet(folder / f"b{i}/inputs.parquet")
        record.add(PARAMS, report, folder / f"b{i}", given, reference if i else None)


def test_the_flow_writes_table_and_picture_and_shows_both(tmp_path: Path, database: str, prefect: None) -> None:
    from prefect.artifacts import Artifact

    from flows.monitor import monitor, text

    (tmp_path / "params.yaml").write_text(PAGE)
    assert monitor(str(tmp_path)) == []
    recorded(tmp_path / "batches")
    table = monitor(str(tmp_path), 6)
    assert [row["batch"] for row in table] == ["b2", "b3", "b4", "b5", "b6", "b7"]
    assert [row["found"] for row in table] == ["", "", "", "drift, promise broken", "warning", "warning"]
    assert '"found": "drift, promise broken"' in Artifact.get("monitoring-line").data
    assert float(table[2]["inputs p"]) > 0.001 > float(table[3]["inputs p"])
    assert Artifact.get("monitoring-picture-line").data.startswith("data:image/png;base64,")
    assert Artifact.get("monitoring-picture-line").description.startswith("scores drift, found in an earlier batch")
    written = pd.read_csv(tmp_path / "reports/monitoring.csv")
    assert written["drift"].tolist() == [False, False, False, True, False, False]
    with Image.open(tmp_path / "reports/monitoring.png") as image:
        assert image.width > 800
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    lines = text(table).splitlines()
    assert lines[0].split()[:3] == ["number", "started", "batch"]
    assert len(lines) == 7


def test_batches_without_promise_or_reference_are_drawn_too(tmp_path: Path, database: str) -> None:
    from flows.monitor import rows

    given = calibration()
    report = scored(tmp_path / "b", np.zeros(0), given)
    record.add(PARAMS, report, tmp_path / "b", given, None)
    found = record.history("line").assign(allowed=None, promise=None)
    picture.draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    (row,) = rows(found)
    assert (row["alarms"], row["allowed"], row["inputs p"]) == ("", "", "")


def test_the_command_says_when_there_is_nothing(tmp_path: Path, database: str, prefect: None) -> None:
    for words, said in (
        (["--line", str(tmp_path), "--last", "0"], "--last must be at least 1, got 0"),
        (["--line", str(tmp_path / "none")], "params.yaml does not exist"),
    ):
        done = subprocess.run([sys.executable, "-m", "flows.monitor", *words], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode != 0
        assert said in done.stderr
        assert "Traceback" not in done.stderr
