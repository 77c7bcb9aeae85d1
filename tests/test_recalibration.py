"""Other thresholds for a registered version of a real line, in a real store."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import batch, params, publication, recalibration, threshold, tracking
from pipeline.errors import DataError, ModelError, ParamsError, PromiseError, RegistryError
from pipeline.files import write_json
from pipeline.model import Model


@pytest.fixture
def ready(line: Path, store: str) -> Path:
    """The line with a champion: version 1, the candidate many."""
    receipt, _ = publication.publish(params.read(line / "params.yaml"), line)
    write_json(line / "reports/published.json", receipt)
    tracking.connect().set_alias("parts", "champion", 1)
    return line


def recalibrate(line: Path, version: int | None = None, **changes: Any) -> dict[str, Any]:
    return recalibration.recalibrate(params.read(line / "params.yaml"), line, changes, version)


def score(line: Path) -> dict[str, Any]:
    return batch.score_batch(params.read(line / "params.yaml"), line)


def test_the_next_batch_is_decided_by_the_new_thresholds_and_mlflow_shows_both(ready: Path, tmp_path: Path) -> None:
    before = score(ready)
    report = recalibrate(ready, alpha=0.3, review=0.5)
    old = Model.load(ready / "models/many", ready / "models/many.calibration.json").calibration
    assert report["before"] == {"thresholds": old.thresholds, "says": old.says()}
    normals = np.sort(old.scores)
    assert report["after"]["thresholds"]["alarm"] == normals[45 - 13]  # floor(0.3 x 46)
    after = score(ready)
    assert after["promise"] == report["after"]["says"] != before["promise"]
    assert after["batch"] != before["batch"]
    assert after["batch"].startswith(before["batch"] + "-")
    scores = pd.read_parquet(Path(after["folder"], "scores.parquet"))
    expected = threshold.decide(scores["score"].to_numpy(), report["after"]["thresholds"])
    assert scores["decision"].tolist() == expected.tolist()
    (entry,) = [json.loads(row) for row in (ready / "audit.jsonl").read_text().splitlines()]
    assert (entry["action"], entry["from_version"], entry["to_version"]) == ("calibrate", 1, 1)
    assert report["calibration"] in entry["why"]
    was = pd.read_parquet(Path(before["folder"], "scores.parquet"))
    assert was[["id", "score"]].equals(scores[["id", "score"]])
    registry = tracking.connect()
    version = registry.version("parts", 1)
    assert version.tags[recalibration.SAID] == old.says()
    assert version.tags[recalibration.SAYS] == report["after"]["says"]
    kept = registry.artifact(version, f"calibrations/{report['calibration'][:12]}.json", tmp_path / "kept")
    assert json.loads(kept.read_text())["plan"]["alpha"] == 0.3
    history = [m.value for m in registry.client.get_metric_history(version.run_id, "promised_false_alarm_rate")]
    assert history == [4 / 46, 13 / 46]
    test = pd.read_parquet(ready / "reports/candidates/many/scores.parquet")
    alarms = test[test["label"] == 0]["score"] > np.float32(report["after"]["thresholds"]["alarm"])
    assert registry.metrics(version)["false_alarm_rate"] == pytest.approx(alarms.mean())


def test_changes_add_up_and_another_rule_drops_the_options_of_the_old(ready: Path) -> None:
    recalibrate(ready, alpha=0.3)
    second = recalibrate(ready, confidence=0.9)
    assert "with 90 % confidence at most 30 %" in second["after"]["says"]
    third = recalibrate(ready, rule="extreme", tail=0.7, alpha=0.01)
    assert third["before"] == second["after"]
    assert "an extrapolation" in third["after"]["says"]
    assert "promised_false_alarm_rate" not in third["test"]
    assert score(ready)["promised_rate"] is None


def test_a_version_by_its_number(ready: Path) -> None:
    assert recalibrate(ready, version=2, alpha=0.2)["version"] == 2
    assert recalibration.HASH not in tracking.connect().version("parts", 1).tags


def test_what_is_refused_changes_nothing(ready: Path) -> None:
    for changes, error, said in (
        ({"alpa": 0.2}, ParamsError, "calibrate.alpa is not a known key"),
        ({"alpha": 0.001}, PromiseError, "needs at least 999 calibration normals, got 45"),
        ({"rule": "f1"}, PromiseError, "got none; give it a share"),
        ({"by": "group"}, DataError, "needs the group of every calibration sample"),
    ):
        with pytest.raises(error, match=said):
            recalibrate(ready, **changes)
    with pytest.raises(RegistryError, match="parts has no version 9"):
        recalibrate(ready, version=9, alpha=0.2)
    assert recalibration.HASH not in tracking.connect().version("parts", 1).tags
    assert score(ready)["batch"].endswith("-v1")
    assert not (ready / "audit.jsonl").exists()


def test_a_calibration_that_was_altered_in_the_store_is_refused(ready: Path, tmp_path: Path) -> None:
    report = recalibrate(ready, alpha=0.3)
    (stored,) = tmp_path.rglob(f"calibrations/{report['calibration'][:12]}.json")
    stored.write_text(stored.read_text().replace('"alpha": 0.3', '"alpha": 0.4'))
    with pytest.raises(RegistryError, match="must be the one that its tag calibration names"):
        score(ready)


def test_a_calibration_of_another_model_is_refused(ready: Path) -> None:
    with pytest.raises(ModelError, match="got the calibration of another model"):
        Model.load(ready / "models/many", ready / "models/few.calibration.json")


def test_a_killed_recalibration_leaves_the_old_thresholds(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tracking.Registry, "tag", killed)
        recalibrate(ready, alpha=0.3)
    assert (ready / "audit.jsonl").read_text() == ""
    assert recalibration.HASH not in tracking.connect().version("parts", 1).tags
    assert (
        recalibrate(ready, alpha=0.3)["before"]["thresholds"]
        == recalibrate(ready, version=1, alpha=0.1)["after"]["thresholds"]
    )
