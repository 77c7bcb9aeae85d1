"""The two flows around the registry, on a real Prefect server: artifacts, results, ends of the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from pipeline import database, params, publication, runlog
from pipeline.errors import LineError, RegistryError
from pipeline.files import write_json
from tests import small_line
from tests.flows.conftest import LOOSE_SOCKETS

ROOT = Path(__file__).parents[2]
pytestmark = LOOSE_SOCKETS


@pytest.fixture
def published(line: Path, store: str, prefect: None) -> Path:
    receipt, _ = publication.publish(params.read(line / "params.yaml"), line)
    write_json(line / "reports/published.json", receipt)
    return line


def artifact(key: str) -> Any:
    from prefect.artifacts import Artifact

    return Artifact.get(key)


def test_promote_score_and_roll_back(published: Path) -> None:
    from flows.promote import promote, rollback
    from flows.score import histogram, score

    report = promote(str(published))
    assert report["champion"] == 1
    table = artifact("promotion-parts")
    assert table.type == "table"
    assert table.description == report["says"]
    rows = [row for row in json.loads(table.data) if row["candidate"] == "many"]
    assert [(row["check"], row["verdict"]) for row in rows] == [
        ("golden batch", "passed"),
        ("auroc min", "passed"),
        ("auroc against the champion", "passed"),
    ]
    assert rows[1] | {"says": ""} == {
        "candidate": "many",
        "version": 1,
        "check": "auroc min",
        "value": "1",
        "bound": "0.6",
        "interval": "",
        "verdict": "passed",
        "says": "",
    }
    assert promote(str(published))["decision"] == "stays"
    *_, failed, champion = json.loads(artifact("promotion-parts").data)
    assert (champion["candidate"], champion["verdict"]) == ("many", "champion")
    assert (failed["candidate"], failed["check"], failed["verdict"]) == ("few", "auroc against the champion", "failed")
    assert failed["interval"].endswith(" to 0")
    scored = score(str(published))
    assert scored["version"] == 1
    assert Path(scored["folder"], "scores.parquet").exists()
    assert '"promised false-alarm rate"' in artifact("batch-parts").data
    assert artifact("worst-alarm-parts").data.startswith("data:image/png;base64,")
    assert (
        artifact("model-parts").data
        == "[parts version 1 in MLflow (make ui)](http://127.0.0.1:5000/#/models/parts/versions/1)"
    )
    assert histogram(scored).startswith(b"\x89PNG")
    with pytest.raises(RegistryError, match="previous is not set"):
        rollback(str(published))


def test_a_flow_fails_with_the_sentence(line: Path, store: str, prefect: None) -> None:
    from flows.promote import promote
    from flows.score import score

    with pytest.raises(LineError, match="publish first"):
        promote(str(line))
    with pytest.raises(RegistryError, match="has no champion"):
        score(str(line))


@pytest.mark.parametrize("module", ["flows.promote", "flows.score"])
def test_a_command_that_fails_ends_with_one_sentence(module: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", module, "--line", str(tmp_path / "nowhere")]
    ended = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"PREFECT_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "params.yaml does not exist" in line
    assert "Traceback" not in ended.stderr


def test_a_batch_that_drifts_is_delivered_recorded_and_told_once(
    ready: Path, prefect: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import events
    from flows.score import score

    told: list[tuple[str, str, dict[str, Any]]] = []
    monkeypatch.setattr(events, "emit", lambda *words: told.append(words))
    small_line.scoring(ready, sinks=[{"kind": "parquet", "to": "out"}, {"kind": "sql"}], source="drift.csv", batch=None)
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(1.2, 0.7, (600, 4)), columns=list("abcd")).rename_axis("id").reset_index()
    rows.to_csv(ready / "drift.csv", index=False)
    report = score(str(ready))
    assert report["monitoring"]["drift"]
    assert {event for event, *_ in told} >= {"assay.drift"}
    assert all(payload["batch"] == report["batch"] for _, _, payload in told)
    assert len(report["delivered"]) == 2
    receipts = Path(report["folder"], "delivered")
    assert len(list(receipts.iterdir())) == 3
    (written,) = (ready / "out").rglob("scores.parquet")
    assert written.read_bytes() == (Path(report["folder"]) / "scores.parquet").read_bytes()
    with database.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM scores")).scalar() == 600
    told.clear()
    again = score(str(ready))
    assert (again["batch"], again["delivered"], told) == (report["batch"], [], [])
    (receipts / "events.json").unlink()  # as if killed between the record and the events
    score(str(ready))
    assert {event for event, *_ in told} >= {"assay.drift"}
    logged = runlog.last(str(ready)).tail(2)
    assert logged["status"].tolist() == ["done", "done"]
    assert logged["data_hash"].tolist() == [report["data_hash"]] * 2


def test_a_registry_that_is_down_is_asked_again_and_then_told(
    ready: Path, prefect: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import score as flow
    from pipeline import tracking

    asked: list[str] = []
    initialise = tracking.initialise
    monkeypatch.setattr(tracking, "initialise", lambda: asked.append("") or initialise())
    monkeypatch.setattr(flow, "open_registry", flow.open_registry.with_options(retry_delay_seconds=0))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RegistryError, match="the MLflow server at http://127.0.0.1:9 does not answer"):
        flow.score(str(ready))
    assert len(asked) == 3
    assert not (ready / "scores").exists()
    assert runlog.last(str(ready))["status"].tolist() == ["failed"]
