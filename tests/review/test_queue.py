"""What is to be looked at, in which order; where its samples are; also for a hundred thousand of them."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError
from pipeline.review import queue
from pipeline.review.batches import Line
from pipeline.review.samples import Kept
from tests.review.conftest import BATCH


def write(folder: Path, decisions: list[str], p: list[float], group: int = 3) -> Path:
    """A batch without samples; scores rise as p-values fall, and rows are called 0 and up."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame({"id": [str(n) for n in range(len(p))], "score": (1 - np.array(p)).astype(np.float32)})
    rows = rows.assign(p_value=p, decision=decisions).astype({"id": "str", "decision": "str"})
    table = pa.Table.from_pandas(rows, preserve_index=False)
    pq.write_table(table, folder / "scores.parquet", row_group_size=group)
    shards = -(-len(p) // group)
    (folder / "report.json").write_text(json.dumps({"name": "parts", "version": 1, "shards": shards, "failed": []}))
    return folder


def test_orders(tmp_path: Path) -> None:
    decisions = ["reject", "accept", "review", "review", "reject", "reject", "review"]
    given = queue.read(write(tmp_path / "B", decisions, [0.01, 0.9, 0.3, 0.2, 0.04, 0.001, 0.06]))
    every = np.ones(len(given), bool)

    def ids(order: str) -> list[str]:
        return [given.ids[position] for position in given.select(order, every)]

    assert ids("order") == ["0", "2", "3", "4", "5", "6"]
    assert ids("score") == ["5", "0", "4", "6", "3", "2"]
    assert set(ids("uncertain")[:2]) == {"6", "4"}  # the last for review and the first alarm
    assert set(ids("uncertain")[4:]) == {"2", "5"}
    assert given.shard.tolist() == [0, 0, 1, 1, 1, 2]
    assert given.after("score", given.position["4"], every) == given.position["6"]
    assert given.after("score", given.position["4"], every, -1) == given.position["0"]
    assert given.after("score", given.position["2"], every) is None
    assert given.in_batch({"0", "1", "7"}) == {"0", "1"}
    assert len(set(given.keys)) == 6


def test_without_a_review_band_the_lowest_alarm_comes_first(tmp_path: Path) -> None:
    given = queue.read(write(tmp_path / "B", ["reject"] * 4, [0.01, 0.03, 0.02, 0.04]))
    assert [given.ids[p] for p in given.select("uncertain", np.ones(4, bool))] == ["3", "1", "2", "0"]


def test_a_batch_of_no_samples_and_one_that_is_damaged(tmp_path: Path) -> None:
    assert len(queue.read(write(tmp_path / "none", [], []))) == 0
    folder = write(tmp_path / "damaged", ["reject"], [0.1])
    (folder / "scores.parquet").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"must hold report.json and scores.parquet of a scored batch"):
        queue.read(folder)


def test_a_hundred_thousand_alarms_are_read_and_sorted_in_a_second(tmp_path: Path) -> None:
    n = 100_000
    p = np.random.default_rng(0).uniform(0, 0.2, n)
    folder = write(tmp_path / "B", np.where(p < 0.1, "reject", "review").tolist(), p.tolist(), group=25_000)
    started = time.perf_counter()
    given = queue.read(folder)
    first = given.select("uncertain", given.alarm)[:60]
    seconds = time.perf_counter() - started
    assert p[first].min() > 0.099
    assert seconds < 5  # 0.4 s on an idle machine


def test_samples_are_found_in_their_shard_or_wherever_they_are(pictures: Path) -> None:
    batch = Line(pictures).open(BATCH)
    samples = pictures / "scores" / BATCH / "samples"
    found = batch.kept.rows([2, 0])
    assert found["id"].tolist() == [batch.queue.ids[2], batch.queue.ids[0]]
    (samples / "00000").rename(samples / "00007")
    again = Kept(batch.queue)
    assert again.rows([1])["id"].tolist() == [batch.queue.ids[1]]
    manifest = pd.read_parquet(samples / "00007/manifest.parquet")
    manifest[manifest["id"] != batch.queue.ids[1]].to_parquet(samples / "00007/manifest.parquet", index=False)
    with pytest.raises(DataError, match="this sample is not among those that were kept"):
        Kept(batch.queue).rows([1])


def test_samples_that_were_not_kept(tmp_path: Path) -> None:
    kept = Kept(queue.read(write(tmp_path / "B", ["reject"], [0.1])))
    assert kept.none.startswith("samples of this batch were not kept (score.keep: none)")
    with pytest.raises(DataError, match="not kept"):
        kept.rows([0])


def test_the_newest_batch_and_names_that_are_none(pictures: Path) -> None:
    line = Line(pictures)
    write(pictures / "scores/later", ["reject"], [0.1])
    report = pictures / "scores/later/report.json"
    report.write_text(json.dumps({"started": "2026-02-01T00:00:00+00:00", "decisions": {"reject": 1}}))
    assert line.newest() == "later"
    assert {entry.name: (entry.alarms, entry.decided) for entry in line.entries(line.names())} == {
        "later": (1, 0),
        BATCH: (6, 0),
    }
    for name in ("", ".", "..", "../pictures", "missing"):
        with pytest.raises(DataError, match="batch must be one that the line has scored"):
            line.open(name)
