"""The two flows around the registry, on a real Prefect server: artifacts, results, ends of the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import params, publication
from pipeline.errors import LineError, RegistryError
from pipeline.files import write_json
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
    from flows.score import score

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
