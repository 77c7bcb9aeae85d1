"""A batch in shards: scored in any order by anyone, each once, whatever happens in between."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import batch, params, shards
from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.model import Model
from pipeline.shards import Job
from tests import small_line

ROOT = Path(__file__).parents[1]


def score(line: Path, engine: batch.Engine = batch.one_by_one, source: str | None = None) -> dict[str, Any]:
    return batch.score_batch(params.read(line / "params.yaml"), line, source, engine)


def read(report: dict[str, Any]) -> pd.DataFrame:
    return pd.read_parquet(Path(report["folder"]) / "scores.parquet")


@pytest.fixture
def cut(ready: Path) -> Path:
    """The line with a batch that is cut into six shards, the first with a row to be quarantined."""
    small_line.scoring(ready, shard=5)
    return ready


def test_shards_together_are_what_one_is(ready: Path) -> None:
    whole = score(ready)
    rows = read(whole)
    kept = pd.read_parquet(Path(whole["folder"], "quarantine/rejected.parquet"))
    (ready / "scores").rename(ready / "before")
    small_line.scoring(ready, shard=5)

    def shuffled(jobs: list[Job]) -> None:
        assert len(jobs) == 6
        batch.one_by_one(random.Random(1).sample(jobs, len(jobs)))

    report = score(ready, shuffled)
    pd.testing.assert_frame_equal(read(report), rows)
    own = ("seconds", "started", "shards")
    assert {k: v for k, v in report.items() if k not in own} == {k: v for k, v in whole.items() if k not in own}
    assert (report["shards"], report["failed"]) == (6, [])
    pd.testing.assert_frame_equal(pd.read_parquet(Path(report["folder"], "quarantine/rejected.parquet")), kept)


def test_a_shard_that_fails_keeps_its_error_and_the_rest_goes_on(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest = type(params.read(cut / "params.yaml").modality).ingest
    broken = {2}

    def fails(self: Any, source: Path, *rest: Path) -> Any:
        if any(f"{number:05d}" in source.name for number in broken):
            raise DataError("the lamp was off")
        return ingest(self, source, *rest)

    monkeypatch.setattr(type(params.read(cut / "params.yaml").modality), "ingest", fails)
    report = score(cut)
    assert report["failed"] == [{"shard": 2, "error": "the lamp was off"}]
    assert report["samples"] + report["quarantined"] == 21
    (left_over,) = (cut / ".assay/batches").glob("*/00002.error.json")
    left = json.loads(left_over.read_text())
    assert "Traceback" in left["traceback"]
    broken.clear()
    scored: list[int] = []
    again = score(cut, lambda jobs: scored.extend(job.number for job in jobs) or batch.one_by_one(jobs))
    assert scored == [2]
    assert again["failed"] == []
    assert again["samples"] + again["quarantined"] == 26
    assert read(again)["id"].is_unique
    assert not list((cut / ".assay/batches").iterdir())


def test_when_no_shard_can_be_scored_the_first_error_is_the_runs(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, *words: Any) -> Any:
        raise DataError("no power")

    monkeypatch.setattr(Model, "score", fails)
    with pytest.raises(DataError, match=r"no power \(and 5 more shards failed\)"):
        score(cut)
    assert not list((cut / "scores").glob("*/report.json"))


def test_what_is_finished_is_not_scored_again_unless_it_is_damaged(cut: Path) -> None:
    def three(jobs: list[Job]) -> None:
        batch.one_by_one(jobs[:3])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(cut, three)
    (done,) = (cut / ".assay/batches").iterdir()
    with (done / "00001.parquet").open("ab") as file:
        file.write(b"\0")
    (done / "00002.json").unlink()
    scored: list[int] = []
    report = score(cut, lambda jobs: scored.extend(job.number for job in jobs) or batch.one_by_one(jobs))
    assert scored == [1, 2, 3, 4, 5]
    assert report["samples"] == 25
    assert read(report)["id"].is_unique


def test_shards_of_another_size_are_not_mixed_with_what_is_finished(cut: Path) -> None:
    report = score(cut, lambda jobs: batch.one_by_one(jobs[:4]))
    assert len(report["failed"]) == 2
    small_line.scoring(cut, shard=7)
    whole = score(cut)
    assert (whole["shards"], whole["failed"], whole["samples"]) == (4, [], 25)
    assert read(whole)["id"].tolist() == sorted(read(whole)["id"], key=int)


def test_a_disk_that_fills_ends_the_run_and_the_next_goes_on(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, left = shards.write_json, [3]

    def full(path: Path, value: Any) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        left[0] -= 1
        write(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_json", full)
        with pytest.raises(OSError, match="No space left"):
            score(cut)
    assert not list((cut / "scores").glob("*"))
    scored: list[int] = []
    report = score(cut, lambda jobs: scored.extend(job.number for job in jobs) or batch.one_by_one(jobs))
    assert scored == [3, 4, 5]
    assert report["samples"] == 25


def test_a_worker_that_dies_leaves_a_shard_to_the_next_run(cut: Path) -> None:
    report = score(cut, lambda jobs: batch.one_by_one(jobs[1:]))
    assert report["failed"] == [{"shard": 0, "error": "its worker ended without a word; run it again"}]
    assert score(cut)["failed"] == []


def test_the_model_is_loaded_once_whatever_the_number_of_shards(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score(cut)
    loads: list[Path] = []
    load = Model.load.__func__
    monkeypatch.setattr(Model, "load", classmethod(lambda cls, *words: loads.append(words[0]) or load(cls, *words)))
    shards._loaded.cache_clear()
    small_line.table(20, 6, seed=5).drop(columns="label").to_csv(cut / "incoming.csv", index=False)
    assert score(cut)["shards"] == 6
    assert len(loads) == 1


@pytest.mark.parametrize("keep", ["all", "flagged", "none"])
def test_samples_are_kept_as_asked_and_alarms_are_drawn(cut: Path, keep: str) -> None:
    small_line.scoring(cut, keep=keep)
    report = score(cut)
    folder = Path(report["folder"])
    rows = read(report)
    manifests = [pd.read_parquet(path) for path in sorted(folder.glob("samples/*/manifest.parquet"))]
    kept = [name for manifest in manifests for name in manifest["id"]]
    wanted = {"all": rows["id"], "flagged": rows["id"][rows["decision"] != "accept"], "none": []}[keep]
    assert kept == list(wanted)
    assert len(report["pictures"]) == (rows["decision"] == "reject").sum() > 0
    if kept:
        given = params.read(cut / "params.yaml").modality
        folders = sorted(folder.glob("samples/*"))
        frames = [given.samples(batch_rows(each)).batches(100) for each in folders]
        values = pd.concat([one.x for some in frames for one in some])
        incoming = pd.read_csv(cut / "incoming.csv", dtype={"id": str}).set_index("id").loc[kept]
        np.testing.assert_array_equal(values["b"], incoming["b"])


def batch_rows(folder: Path) -> pd.DataFrame:
    from pipeline.samples import read_manifest

    return read_manifest(folder)


def test_a_batch_without_rows_is_a_result_with_none(cut: Path) -> None:
    (cut / "incoming.csv").write_text("id,a,b,c,d\n")
    report = score(cut)
    assert (report["samples"], report["alarm_rate"], report["shards"], report["pictures"]) == (0, None, 0, [])
    assert read(report).empty
    assert read(report).dtypes.to_dict().keys() >= {"id", "score", "p_value", "decision", "model_version"}


def test_shards_without_a_good_row_are_no_failure(cut: Path) -> None:
    small_line.scoring(cut, shard=1)
    incoming = pd.read_csv(cut / "incoming.csv", dtype=str)
    broken = incoming["a"] == "broken"
    pd.concat([incoming[broken], incoming[~broken]]).to_csv(cut / "incoming.csv", index=False)  # the first shard
    report = score(cut)
    assert (report["shards"], report["samples"], report["quarantined"], report["failed"]) == (26, 25, 1, [])
    assert len(read(report)) == 25


def test_a_model_in_use_is_not_forgotten(cut: Path) -> None:
    score(cut)
    (used,) = (cut / ".assay/models/parts").iterdir()
    os.utime(used, (0, 0))
    for number in range(2, 5):  # versions that came since
        (used.parent / f"v{number}-other").mkdir()
    small_line.scoring(cut, shadow=True)  # its model is downloaded, and the oldest forgotten
    assert score(cut)["shadow"]["version"] == 2
    assert used.exists()


def test_a_champion_that_vanishes_meanwhile_scores_to_the_end(cut: Path) -> None:
    from pipeline import tracking

    def meanwhile(jobs: list[Job]) -> None:
        batch.one_by_one(jobs[:2])
        registry = tracking.connect()
        registry.set_alias("parts", "champion", None)
        registry.client.delete_model_version("parts", "1")
        batch.one_by_one(jobs[2:])

    report = score(cut, meanwhile)
    assert (report["version"], report["samples"]) == (1, 25)
    assert set(read(report)["model_version"]) == {1}


def test_a_damaged_copy_of_the_model_is_downloaded_again(cut: Path) -> None:
    first = score(cut)
    shards._loaded.cache_clear()
    (state,) = (cut / ".assay/models").rglob("state.safetensors")
    state.write_bytes(b"damaged")
    small_line.table(20, 6, seed=1).drop(columns="label").to_csv(cut / "other.csv", index=False)
    assert score(cut, source=str(cut / "other.csv"))["version"] == first["version"]
    assert state.read_bytes() != b"damaged"


KILLED = """
import sys
from pathlib import Path
from pipeline import batch, params
line = Path(sys.argv[1])
batch.score_batch(params.read(line / "params.yaml"), line)
"""


def test_killed_at_random_moments_each_sample_is_scored_exactly_once(cut: Path) -> None:
    small_line.table(180, 20, seed=3).drop(columns="label").to_csv(cut / "incoming.csv", index=False)
    small_line.scoring(cut, shard=10)
    rng = random.Random(0)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(cut)], env=env)
        until = time.monotonic() + 60
        count = rng.randrange(1, 18)
        while process.poll() is None and len(list(cut.glob(".assay/batches/*/*.json"))) < count:
            assert time.monotonic() < until
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    report = score(cut)
    rows = read(report)
    assert rows["id"].tolist() == pd.read_csv(cut / "incoming.csv", dtype={"id": str})["id"].tolist()
    assert report["failed"] == []
    assert len(list((cut / "scores").iterdir())) == 1
    assert sha256(Path(report["folder"]) / "scores.parquet") == sha256(Path(score(cut)["folder"]) / "scores.parquet")
