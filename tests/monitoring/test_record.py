"""Batches in SQL: each counted once, whoever asks and however often; what a verdict says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import batch, params
from pipeline.errors import RegistryError
from pipeline.monitoring import drift, judged, record
from pipeline.monitoring.martingale import REST, Martingale, Watched
from pipeline.monitoring.record import STATES, Verdict
from pipeline.monitoring.reference import Reference
from pipeline.rules.conformal import percent
from tests import small_line
from tests.monitoring.batches import PARAMS, calibration, normal, scored

ROOT = Path(__file__).parents[2]


def facts(n: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"brightness": shift + rng.normal(100, 9, n), "kind": rng.choice(["a", "b"], n)})


def test_a_batch_is_counted_once(tmp_path: Path, database: str) -> None:
    given = calibration()
    report = scored(tmp_path / "b1", normal(100, 1), given)
    alarms = int((normal(100, 1) > given.thresholds["alarm"]).sum())
    first = record.add(PARAMS, report, tmp_path / "b1", given, None)
    again = record.add(PARAMS, report | {"samples": 5}, tmp_path / "b1", given, None)
    assert (first.number, first.new, again.new) == (1, True, False)
    assert Verdict(**{**vars(again), "new": True}) == first
    (row,) = record.history("line").to_dict("records")
    assert (row["samples"], row["alarms"], row["seconds"], row["per_second"]) == (100, alarms, 2, 50)
    assert record.history("other").empty


def test_the_martingale_runs_on_from_batch_to_batch(tmp_path: Path, database: str) -> None:
    given = calibration()
    stream = normal(500, 1)
    for i, part in enumerate(np.array_split(stream, 10)):
        report = scored(tmp_path / f"b{i}", part, given)
        record.add(PARAMS, report, tmp_path / f"b{i}", given, None)
    watched = Watched.of(given, False)
    found = record.history("line")
    (key,) = found["calibration"].unique()
    whole = Martingale.start(watched, f"line 1 {key}")
    whole.feed(watched, stream)
    assert found["number"].tolist() == list(range(1, 11))
    assert found["martingale"].iloc[-1] == whole.mixture.value / np.log(10)
    assert found["martingale_highest"].iloc[-1] == whole.mixture.highest / np.log(10)
    assert record.history("line", last=3)["batch"].tolist() == ["b7", "b8", "b9"]


def test_drift_is_told_in_the_batch_that_finds_it_and_a_new_version_starts_afresh(
    tmp_path: Path, database: str
) -> None:
    given, told = calibration(), []
    for i, shift in enumerate([0, 0, 1.2, 1.2, 0]):
        report = scored(tmp_path / f"b{i}", normal(200, i, shift), given)
        told.append(record.add(PARAMS, report, tmp_path / f"b{i}", given, None))
    assert [verdict.drift for verdict in told] == [False, False, True, False, False]
    assert [verdict.broken for verdict in told] == [False, False, True, False, False]
    assert told[1].says.startswith("no drift of scores (martingale ")
    assert told[2].says.startswith("scores drift: the martingale reached ")
    assert f"more alarms than the {percent(drift.promised(given))} allowed (evidence " in told[2].says
    assert told[4].says.startswith("scores drift, found in an earlier batch: ")
    report = scored(tmp_path / "b9", normal(200, 9), given, version=2)
    fresh = record.add(PARAMS, report, tmp_path / "b9", given, None)
    assert fresh.says.startswith("no drift of scores")
    assert record.history("line")["martingale_highest"].iloc[-1] < 2
    other = calibration(alpha=0.2)
    report = scored(tmp_path / "b10", normal(200, 10), other)
    assert record.add(PARAMS, report, tmp_path / "b10", other, None).says.startswith("no drift of scores")


def test_expected_anomalies_break_no_promise(tmp_path: Path, database: str) -> None:
    given = calibration()
    scores = np.concatenate([normal(380, 1), np.full(40, 9.0)])
    report = scored(tmp_path / "b", scores, given)
    assert record.add(PARAMS, report, tmp_path / "b", given, None).broken
    patient = params.Params({"monitor": {"anomalies": 0.1}, "promote": {"name": "line"}}, "here")
    report = scored(tmp_path / "c", scores, given, name="patient")
    assert not record.add(patient, report, tmp_path / "c", given, None).broken


def test_warnings_of_a_batch_alone(tmp_path: Path, database: str) -> None:
    given = calibration()
    reference = Reference(facts(500, 0), 1000, 5)
    report = scored(tmp_path / "good", normal(300, 1), given)
    facts(300, 1).to_parquet(tmp_path / "good/inputs.parquet")
    good = record.add(PARAMS, report, tmp_path / "good", given, reference)
    assert good.warnings == []
    report = scored(tmp_path / "bad", normal(300, 2), given, quarantined=30)
    facts(300, 2, shift=9).to_parquet(tmp_path / "bad/inputs.parquet")
    bad = record.add(PARAMS, report, tmp_path / "bad", given, reference)
    assert len(bad.warnings) == 2
    assert bad.warnings[0].startswith("inputs differ: brightness (p ")
    assert bad.warnings[1].startswith("9.091 % could not be read, 0.5 % of the version's data (p ")
    row = record.history("line").iloc[1]
    assert json.loads(row["inputs"])["kind"] > 0.001
    assert row["quarantined_share"] == pytest.approx(30 / 330)
    report = scored(tmp_path / "odd", -np.abs(normal(300, 3)), given)
    odd = record.add(PARAMS, report, tmp_path / "odd", given, None)
    assert odd.warnings[0].startswith("its scores below the threshold differ from the calibration's (p ")
    assert odd.says.endswith("inputs are not compared, the version has no reference")


def test_an_empty_batch_and_a_clock_that_ran_backwards(tmp_path: Path, database: str) -> None:
    given = calibration()
    report = scored(tmp_path / "b", np.zeros(0), given, started="1999-01-01T00:00:00+00:00", seconds=-3.0)
    verdict = record.add(PARAMS, report, tmp_path / "b", given, Reference(facts(50, 0), 50, 0))
    assert verdict.warnings == ["the batch holds no sample that can be scored"]
    row = record.history("line").iloc[0]
    assert pd.isna(row[["alarm_rate", "seconds", "per_second", "inputs_p", "scores_p", "alarm_p"]]).all()
    report = scored(tmp_path / "c", normal(10, 0), given, started="1998-01-01T00:00:00+00:00")
    assert record.add(PARAMS, report, tmp_path / "c", given, None).number == 2
    assert record.history("line")["batch"].tolist() == ["b", "c"]


def test_alarms_of_a_false_discovery_rate_are_not_those_that_are_promised(tmp_path: Path, database: str) -> None:
    given = calibration()
    report = scored(tmp_path / "b", np.concatenate([np.full(190, -1.0), np.full(10, 9.0)]), given)
    report |= {"false_discovery_rate": 0.1, "decisions": {"accept": 200, "review": 0, "reject": 0}}
    record.add(PARAMS, report, tmp_path / "b", given, None)
    row = record.history("line").iloc[0]
    assert (row["alarms"], row["alarm_rate"]) == (0, 0.05)


def test_groups_with_thresholds_of_their_own(tmp_path: Path, database: str) -> None:
    given = calibration(by="category")
    assert set(given.own) == {"a", "b"}
    of = ["a", "b"] * 50
    known = scored(tmp_path / "known", normal(100, 1), given, of=of)
    assert record.add(PARAMS, known, tmp_path / "known", given, None).new
    unknown = scored(tmp_path / "unknown", normal(100, 2), given, of=of)
    rows = pd.read_parquet(tmp_path / "unknown/scores.parquet").drop(columns="category")
    rows.to_parquet(tmp_path / "unknown/scores.parquet", index=False)
    assert record.add(PARAMS, unknown, tmp_path / "unknown", given, None).new
    with record.transaction() as connection:
        states = connection.execute(record.select(STATES.c.martingale).order_by(STATES.c.calibration)).scalars().all()
    pools = sorted(sorted(Martingale.from_bytes(bytes(state)).pools) for state in states)
    assert pools == [[REST], [REST, "a", "b"]]


def test_a_batch_that_another_process_records_meanwhile_is_not_counted_twice(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = calibration()
    report = scored(tmp_path / "b", normal(50, 1), given)
    other = scored(tmp_path / "other", normal(50, 2), given)
    judge = judged.Seen.judge

    def slow(self: judged.Seen, before: judged.State | None) -> Any:
        monkeypatch.setattr(judged.Seen, "judge", judge)
        record.add(PARAMS, other, tmp_path / "other", given, None)  # writes between our reading and our writing
        return judge(self, before)

    monkeypatch.setattr(judged.Seen, "judge", slow)
    assert record.add(PARAMS, report, tmp_path / "b", given, None).number == 2

    def same(self: judged.Seen, before: judged.State | None) -> Any:
        monkeypatch.setattr(judged.Seen, "judge", judge)
        record.add(PARAMS, third, tmp_path / "third", given, None)
        return judge(self, before)

    third = scored(tmp_path / "third", normal(50, 3), given)
    monkeypatch.setattr(judged.Seen, "judge", same)
    assert not record.add(PARAMS, third, tmp_path / "third", given, None).new
    assert record.history("line")["batch"].tolist() == ["other", "b", "third"]


TOGETHER = """
import json, sys
from pathlib import Path
from pipeline.monitoring import record
from tests.monitoring.batches import PARAMS, calibration
given, folder = calibration(), Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for path in sorted(folder.iterdir()):
    record.add(PARAMS, json.loads((path / "report.json").read_text()), path, given, None)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_processes_at_once_count_each_batch_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/assay.db" if kind == "sqlite" else request.getfixturevalue("postgres")()
    monkeypatch.setenv("ASSAY_DATABASE_URL", url)
    given = calibration()
    for i in range(6):
        report = scored(tmp_path / f"batches/b{i}", normal(40, i), given)
        (tmp_path / f"batches/b{i}/report.json").write_text(json.dumps(report))
    command = [sys.executable, "-c", TOGETHER, str(tmp_path / "batches")]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        process.communicate()
    assert [process.returncode for process in both] == [0, 0]
    found = record.history("line")
    assert sorted(found["batch"]) == [f"b{i}" for i in range(6)]
    watched = Watched.of(given, False)
    whole = Martingale.start(watched, f"line 1 {found['calibration'].iloc[0]}")
    for name in found["batch"]:
        whole.feed(watched, normal(40, int(name[1:])))
    assert found["martingale"].iloc[-1] == whole.mixture.value / np.log(10)


def test_a_real_batch_with_the_calibration_that_judged_it(ready: Path) -> None:
    given = params.read(ready / "params.yaml")
    report = batch.score_batch(given, ready)
    verdict = record.record(given, report)
    assert verdict.new
    row = record.history("parts").iloc[0]
    assert (row["batch"], row["samples"], row["quarantined"]) == (report["batch"], report["samples"], 1)
    assert row["inputs_p"] is not None
    assert not record.record(given, report).new
    with pytest.raises(RegistryError, match=r"the calibration that judged batch b2 of parts version 1 is gone"):
        record.record(given, report | {"batch": "b2", "promise": "another"})
    with pytest.raises(RegistryError, match=r"parts version 9, which scored the batch, is gone"):
        record.record(given, report | {"batch": "b3", "version": 9})


def test_sections_of_monitor_are_checked(line: Path) -> None:
    sections = yaml.safe_load((line / "params.yaml").read_text()) | {"monitor": {"threshold": 1}}
    with pytest.raises(Exception, match=r"monitor\.threshold must be greater than 1, got 1"):
        _ = small_line.write(line, sections).monitor
