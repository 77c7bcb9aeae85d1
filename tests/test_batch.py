"""Scoring a batch with the champion of a real line, from a real store."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import batch, params, recalibration, results, threshold, tracking
from pipeline.errors import DataError, RegistryError
from pipeline.model import Model
from pipeline.plan import Plan
from pipeline.rules.false_alarm_rate import FalseAlarmRate
from pipeline.threshold import Scored
from tests import small_line


def score(line: Path, source: str | None = None) -> dict[str, Any]:
    return batch.score_batch(params.read(line / "params.yaml"), line, source)


def test_a_batch_is_scored_as_the_trained_model_does(ready: Path) -> None:
    report = score(ready)
    folder = Path(report["folder"])
    assert folder.parent == ready / "scores"
    scores = pd.read_parquet(folder / "scores.parquet")
    assert scores.columns.tolist() == [
        *("id", "score", "p_value", "decision", "because", "model_name", "model_version", "data_hash")
    ]
    told = scores["because"] != ""
    assert (told == (scores["decision"] == "reject")).all()
    assert told.any()
    assert all(
        {"column", "value", "adds"} == set(part) for text in scores["because"][told] for part in json.loads(text)
    )
    assert set(scores["model_name"]) == {"parts"}
    assert set(scores["model_version"]) == {1}
    assert set(scores["data_hash"]) == {report["data_hash"]}
    incoming = pd.read_csv(ready / "incoming.csv", dtype={"a": str})
    good = incoming[incoming["a"] != "broken"].astype({"a": float})
    assert sorted(scores["id"]) == sorted(good["id"].astype(str))
    model = Model.load(ready / "models/many", ready / "models/many.calibration.json")
    expected = model.predict(good).set_axis(good["id"].astype(str))
    found = scores.set_index("id")[["score", "p_value", "decision"]]
    pd.testing.assert_frame_equal(found.sort_index(), expected.sort_index(), check_exact=True, check_names=False)


def test_the_report_counts_everything_once(ready: Path) -> None:
    report = score(ready)
    folder = Path(report.pop("folder"))
    assert json.loads((folder / "report.json").read_text()) == report
    scores = pd.read_parquet(folder / "scores.parquet")
    assert report["samples"] == 25
    assert report["quarantined"] == 1
    assert sum(report["decisions"].values()) == 25
    assert report["decisions"]["reject"] == (scores["decision"] == "reject").sum() >= 6
    assert report["alarm_rate"] == report["decisions"]["reject"] / 25
    assert report["promised_rate"] == 4 / 46  # 45 calibration normals carry floor(0.1 * 46) / 46
    assert report["version"] == 1
    (reason,) = report["reasons"]
    assert "broken" in reason
    assert "broken" in (folder / "quarantine/rejected.csv").read_text()
    assert len(report["pictures"]) == report["decisions"]["reject"]
    assert all((folder / path).is_file() for path in report["pictures"])


def test_the_worst_alarms_are_drawn_first_and_not_more_than_allowed(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PICTURES", 2)
    drawn: list[str] = []
    draw = Model.draw
    monkeypatch.setattr(
        Model, "draw", lambda self, samples, *rest: drawn.extend(samples.ids) or draw(self, samples, *rest)
    )
    report = score(ready)
    scores = pd.read_parquet(Path(report["folder"]) / "scores.parquet")
    assert drawn == scores.sort_values("score", ascending=False, kind="stable")["id"].tolist()[:2]
    assert len(report["pictures"]) == 2


def test_the_same_batch_twice_is_one_result(ready: Path, tmp_path: Path) -> None:
    first = score(ready)
    files = {p: p.stat().st_mtime_ns for p in (ready / "scores").rglob("*")}
    assert score(ready) == first
    moved = tmp_path / "elsewhere.csv"
    moved.write_bytes((ready / "incoming.csv").read_bytes())
    assert score(ready, str(moved))["batch"] == first["batch"]
    assert {p: p.stat().st_mtime_ns for p in (ready / "scores").rglob("*")} == files


def test_other_samples_or_another_champion_are_another_result(ready: Path, tmp_path: Path) -> None:
    first = score(ready)
    small_line.table(5, 1, seed=9).drop(columns="label").to_csv(tmp_path / "next.csv", index=False)
    assert score(ready, str(tmp_path / "next.csv"))["data_hash"] != first["data_hash"]
    tracking.connect().set_alias("parts", "champion", 2)
    second = score(ready)
    assert (second["version"], second["data_hash"]) == (2, first["data_hash"])
    assert len(list((ready / "scores").glob("*/scores.parquet"))) == 3


def test_the_version_found_first_is_used_to_the_end(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = batch.sources.fetch

    def meanwhile(source: str, work: Path) -> Path:
        tracking.connect().set_alias("parts", "champion", 2)
        return fetch(source, work)

    monkeypatch.setattr(batch.sources, "fetch", meanwhile)
    report = score(ready)
    assert report["version"] == 1
    model = Model.load(ready / "models/many", ready / "models/many.calibration.json")
    assert report["promise"] == model.calibration.says()


def test_without_a_champion_the_sentence_says_what_to_do(line: Path, store: str) -> None:
    with pytest.raises(RegistryError, match="parts has no champion to score with: run the line first"):
        score(line)
    assert not (line / "scores").exists()


def test_a_source_that_does_not_exist_is_named(ready: Path) -> None:
    with pytest.raises(DataError, match="nothing"):
        score(ready, str(ready / "nothing"))


def test_an_interrupted_batch_leaves_nothing_and_the_next_is_whole(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*words: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Model, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score(ready)
    assert list((ready / "scores").iterdir()) == []
    assert not (ready / batch.WORK).exists()
    assert Path(score(ready)["folder"], "report.json").exists()


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("incoming", "LINE/incoming"),
        ("../x.csv", "LINE/../x.csv"),
        ("/a/b", "/a/b"),
        ("demo:wdbc/batch", "demo:wdbc/batch"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("~/x", "~/x"),
    ],
)
def test_a_source_in_params_is_seen_from_the_line(source: str, seen: str) -> None:
    assert batch.seen_from(Path("LINE"), source) == seen


def test_scores_are_finite_and_p_values_are_rates(ready: Path) -> None:
    scores = pd.read_parquet(Path(score(ready)["folder"]) / "scores.parquet")
    assert np.isfinite(scores["score"]).all()
    assert scores["p_value"].between(1 / 46, 1).all()


def test_a_false_discovery_rate_decides_over_the_whole_batch(ready: Path) -> None:
    plain = score(ready)
    small_line.scoring(ready, false_discovery_rate=0.2)
    report = score(ready)
    assert report["batch"] != plain["batch"]
    assert report["false_discovery_rate"] == 0.2
    scores = pd.read_parquet(Path(report["folder"]) / "scores.parquet")
    expected = threshold.discoveries(scores["p_value"].to_numpy(), 0.2)
    assert (scores["decision"] == "reject").tolist() == expected.tolist()
    small_line.scoring(ready, false_discovery_rate=1e-6)  # more than 45 normals can tell
    none = score(ready)
    assert none["decisions"] == {"accept": 25, "review": 0, "reject": 0}
    recalibration.recalibrate(params.read(ready / "params.yaml"), ready, {"review": 0.5})
    scores = pd.read_parquet(Path(score(ready)["folder"]) / "scores.parquet")
    above = Model.load(ready / "models/many", ready / "models/many.calibration.json").calibration.scores
    expected = (
        scores["score"] > threshold.calibrate(Plan(FalseAlarmRate(0.5, None)), Scored(above), "m").thresholds["alarm"]
    )
    assert (scores["decision"] == "review").tolist() == expected.tolist()


def test_a_shadow_scores_the_same_batch_and_decides_nothing(ready: Path) -> None:
    plain = score(ready)
    small_line.scoring(ready, shadow=True)
    assert tracking.connect().alias("parts", "challenger").number == 2
    report = score(ready)
    assert {k: report[k] for k in ("decisions", "version", "pictures")} == {
        k: plain[k] for k in ("decisions", "version", "pictures")
    }
    scores = pd.read_parquet(Path(report["folder"]) / "scores.parquet")
    few = Model.load(ready / "models/few", ready / "models/few.calibration.json")
    incoming = pd.read_csv(ready / "incoming.csv", dtype={"a": str})
    good = incoming[incoming["a"] != "broken"].astype({"a": float})
    expected = few.predict(good).set_axis(good["id"].astype(str))
    found = scores.set_index("id")[["shadow_score", "shadow_p_value", "shadow_decision"]]
    found = found.rename(columns=lambda name: name.removeprefix("shadow_"))
    pd.testing.assert_frame_equal(found.sort_index(), expected.sort_index(), check_exact=True, check_names=False)
    apart = scores[scores["decision"] != scores["shadow_decision"]]
    shadow = report["shadow"]
    assert (shadow["version"], shadow["agree"]) == (2, 25 - len(apart))
    assert sum(shadow["disagree"].values()) == len(apart) > 0
    assert {sample["id"] for sample in shadow["samples"]} == set(apart["id"])
    tracking.connect().set_alias("parts", "challenger", None)
    assert "shadow" not in score(ready)


def test_a_shadow_that_cannot_score_harms_nothing(line: Path, store: str, database: str, tmp_path: Path) -> None:
    ready = small_line.promoted(line)
    plain = score(ready)
    small_line.scoring(ready, shadow=True)
    registry = tracking.connect()
    folder = registry.download(registry.version("parts", 2), tmp_path / "downloaded")
    for path in tmp_path.rglob("mlartifacts/**/state.safetensors"):
        if path.read_bytes() == (folder / "state.safetensors").read_bytes():
            path.write_bytes(b"damaged")
    report = score(ready)
    assert report["decisions"] == plain["decisions"]
    assert report["shadow"]["version"] == 2
    assert "state.safetensors is damaged" in report["shadow"]["failed"]
    assert "shadow_score" not in pd.read_parquet(Path(report["folder"]) / "scores.parquet")


def test_the_model_behind_a_batch_is_found_again(ready: Path) -> None:
    folder = batch.model_of(ready, "parts", 1)
    assert Model.load(folder / "model", folder / "calibration.json").stored.kind == "table"
    with pytest.raises(RegistryError, match="parts has no version 9 in this registry"):
        batch.model_of(ready, "parts", 9)


def test_votes_outlive_a_batch_that_is_scored_again(ready: Path) -> None:
    folder = Path(score(ready)["folder"])
    (folder / "review").mkdir()
    (folder / "review/votes.jsonl").write_text("votes\n")
    report = batch.read_report(folder)
    (folder / "report.json").write_text(json.dumps(report | {"failed": [{"shard": 0, "error": "boo"}]}))
    assert Path(score(ready)["folder"]) == folder
    assert batch.read_report(folder)["failed"] == []
    assert (folder / "review/votes.jsonl").read_text() == "votes\n"
