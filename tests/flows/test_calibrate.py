"""Other thresholds through the flow and its command, on a real Prefect server."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import params, publication, tracking
from pipeline.errors import ParamsError
from pipeline.files import write_json
from tests.flows.conftest import LOOSE_SOCKETS

ROOT = Path(__file__).parents[2]
pytestmark = LOOSE_SOCKETS


def test_the_flow_sets_the_champions_thresholds_and_shows_both(line: Path, store: str, prefect: None) -> None:
    from prefect.artifacts import Artifact

    from flows.calibrate import calibrate

    receipt, _ = publication.publish(params.read(line / "params.yaml"), line)
    write_json(line / "reports/published.json", receipt)
    tracking.connect().set_alias("parts", "champion", 1)
    report = calibrate({"alpha": 0.3}, str(line))
    assert tracking.connect().version("parts", 1).tags["calibration"] == report["calibration"]
    table = Artifact.get("calibration-parts")
    assert table.description == "parts version 1"
    assert "at most 10 % of normals" in table.data
    assert "at most 30 % of normals" in table.data


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "alpha"], "--set must be KEY=VALUE, such as alpha=0.002, got 'alpha'"),
        (["--set", "alpha=[1"], "--set must be KEY=VALUE with a YAML value, got 'alpha=[1'"),
        ([], "a new calibration needs at least one change, such as --set alpha=0.002"),
    ],
)
def test_words_that_are_not_allowed_end_in_one_sentence(words: list[str], said: str, line: Path) -> None:
    command = [sys.executable, "-m", "flows.calibrate", "--line", str(line), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_values_are_yaml() -> None:
    from flows.calibrate import changes

    given = changes(["alpha=0.002", "confidence=null", "review={rule: escape_rate, alpha: 0.05}", "rule=f1"])
    assert given == {
        "alpha": 0.002,
        "confidence": None,
        "review": {"rule": "escape_rate", "alpha": 0.05},
        "rule": "f1",
    }
    with pytest.raises(ParamsError):
        changes(["=3"])
