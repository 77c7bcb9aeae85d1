"""What the report of a batch says, whatever the batch holds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.reports import batch, html, pdf, pictures
from pipeline.reports.document import Block, Document, Gallery, Table, Text
from tests.reports import worlds


def blocks(document: Document, title: str) -> list[Block]:
    return next(section.blocks for section in document.sections if section.title == title)


def test_a_batch_of_no_sample(tmp_path: Path) -> None:
    found = batch.build(worlds.batch(tmp_path, 0, 0))
    assert blocks(found, "Decision")[0] == Text("The batch holds no sample that could be scored.", "plain")
    assert blocks(found, "Worst alarms") == blocks(found, "For review") == []
    pdf.render(found, tmp_path / "a.pdf")
    html.render(found, tmp_path / "a.html")


def test_a_hundred_thousand_alarms_are_told_in_bounds(tmp_path: Path) -> None:
    scored = worlds.batch(tmp_path, 100_500, 100_000, review=300)
    found = batch.build(scored)
    (alarms,) = blocks(found, "Alarms")
    assert len(alarms.rows) == batch.LISTED
    assert alarms.note == "and 99,900 more, in scores/b-v1/scores.parquet"
    assert [row[0].split()[0] for row in alarms.rows] == [str(i) for i in range(100)]
    review = blocks(found, "For review")[1]
    assert [row[0].split()[0] for row in review.rows] == [str(i) for i in range(100_000, 100_100)]
    assert review.note == "and 200 more, in scores/b-v1/scores.parquet"
    text = html.page(pictures.small(found))
    assert len(text) < 2_000_000
    assert "<script" not in text


def test_alarms_beyond_what_normals_raise_are_marked(tmp_path: Path) -> None:
    many = batch.build(worlds.batch(tmp_path / "a", 200, 40))
    few = batch.build(worlds.batch(tmp_path / "b", 200, 8))
    some = batch.build(worlds.batch(tmp_path / "c", 200, 8, false_discovery_rate=0.1))
    none = batch.build(worlds.batch(tmp_path / "d", 200, 8, promised_rate=None))
    told = [blocks(found, "Decision")[0] for found in (many, few, some, none)]
    assert [each.tone for each in told] == ["bad", "good", "bad", "plain"]
    assert "40 alarms among 200 samples: 20" in told[0].text
    assert "more than the 5" in told[0].text
    assert "at most 10" in told[2].text


def test_pictures_are_those_of_the_worst_alarms_and_missing_ones_say_so(tmp_path: Path) -> None:
    found = batch.build(worlds.batch(tmp_path, 50, 20))
    (gallery,) = blocks(found, "Worst alarms")
    assert isinstance(gallery, Gallery)
    assert gallery.caption == "The 3 worst of 20 alarms"
    assert [each.alt.split()[0] for each in gallery.pictures] == ["0", "1", "2"]
    assert "= 3 (+1.5)" in gallery.pictures[0].caption
    assert html.page(pictures.small(found)).count("The picture is gone") == 2


def test_what_was_not_read_failed_or_was_decided_otherwise(tmp_path: Path) -> None:
    apart = [{"id": worlds.EVIL, "decision": "accept", "shadow_decision": "reject"}]
    shadow = {"version": 2, "agree": 9, "disagree": {"accept -> reject": 130}, "samples": apart * 130}
    failed = [{"shard": 1, "error": "it broke"}]
    more = {"quarantined": 70, "reasons": {"not a number": 69, "too wide": 1}, "failed": failed, "shadow": shadow}
    scored = worlds.batch(tmp_path, 10, 1, **more)
    quarantine = scored.folder / "quarantine"
    quarantine.mkdir()
    rejected = pd.DataFrame({"id": [str(i) for i in range(70)], "path": "p", "reason": "not a number"})
    rejected.to_parquet(quarantine / "rejected.parquet")
    found = batch.build(scored)
    assert blocks(found, "Decision")[0].tone == "bad"
    assert "1 shard failed" in blocks(found, "Decision")[0].text
    reasons, samples = blocks(found, "Not read")
    assert reasons.rows == [["not a number", "69"], ["too wide", "1"]]
    assert (len(samples.rows), samples.note) == (50, "and 20 more, in scores/b-v1/quarantine/rejected.csv")
    assert blocks(found, "Failed shards")[1].rows == [["1", "it broke"]]
    listed = blocks(found, "Shadow")[-1]
    assert isinstance(listed, Table)
    assert (len(listed.rows), listed.note) == (100, "and 30 more, in scores/b-v1/scores.parquet")
    pdf.render(pictures.small(found), tmp_path / "a.pdf")


def test_a_shadow_that_could_not_score(tmp_path: Path) -> None:
    found = batch.build(worlds.batch(tmp_path, 10, 1, shadow={"version": 2, "failed": "it is gone"}))
    assert blocks(found, "Shadow") == [Text("Version 2 could not score beside the champion: it is gone", "bad")]


def test_equal_scores_are_in_the_order_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    ids = [f"s{i}" for i in range(300)]
    rows = pd.DataFrame({"id": ids, "score": np.float32(1), "p_value": 0.1, "decision": "reject"})
    rows.to_parquet(path, row_group_size=7)
    found = batch.Listed.of(path, ("reject", "review"))
    assert found["reject"].rows["id"].tolist() == ids[: batch.LISTED]
    assert found["review"].rows.empty


@pytest.mark.parametrize("text", ["", "[]", "no json", None])
def test_alarms_without_a_reason_have_none(text: str | None) -> None:
    from pipeline.reports.passages import because

    assert because(text) == ""
