"""What the report of a candidate says, on a small table line that ran up to `evaluate`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline import params
from pipeline.errors import LineError
from pipeline.files import write_json
from pipeline.reports import candidate, errors, html, pdf, pictures
from pipeline.reports.document import Chart, Document, Gallery, Numbers, Section, Table, Text, short
from pipeline.reports.evaluated import Published

SECTIONS = ["Decision", "Scores and thresholds", "Curves", "Promise", "By class and group", "Worst errors"]
SECTIONS += ["Why they are alarms", "Over time", "Checks of the gate", "All figures", "Lineage"]


def build(line: Path, published: Published | None = None, name: str = "many") -> Document:
    return candidate.build(params.read(line / "params.yaml"), line, name, published or Published())


def section(document: Document, title: str) -> Section:
    return next(section for section in document.sections if section.title == title)


def said(found: Section) -> str:
    return " ".join(block.text for block in found.blocks if isinstance(block, Text))


def judged(passed: bool, version: int = 1, **more: Any) -> dict[str, Any]:
    check = {"name": "auroc min", "value": 0.5, "bound": 0.6, "interval": [0.4, 0.6]}
    check |= {"passed": passed, "says": "auroc 0.5 is low"}
    entry = {"version": version, "passed": passed, "reasons": ["auroc 0.5 is low"], "checks": [check]}
    return {"name": "parts", "waits": None, "candidates": {"many": entry}} | more


def test_it_tells_everything_and_can_be_shown(line_that_ran: Path, tmp_path: Path) -> None:
    found = build(line_that_ran, Published(3, "a" * 32, {"git_commit": "c" * 40, "git_dirty": "true"}))
    assert [section.title for section in found.sections] == SECTIONS
    metrics = json.loads((line_that_ran / "reports/candidates/many/metrics.json").read_text())
    scores = pd.read_parquet(line_that_ran / "reports/candidates/many/scores.parquet")
    decision = section(found, "Decision")
    calibration = json.loads((line_that_ran / "models/many.calibration.json").read_text())
    assert f"Promise: {calibration['says']}." in said(decision)
    numbers = next(block for block in decision.blocks if isinstance(block, Numbers))
    assert ("AUROC", f"{metrics['auroc']:.4g}", "") in numbers.rows
    confusion = next(block for block in section(found, "Scores and thresholds").blocks if isinstance(block, Table))
    caught = int(((scores["label"] == 1) & (scores["decision"] == "reject")).sum())
    assert confusion.rows[1][0] == "anomalous"
    assert confusion.rows[1][3].startswith(f"{caught} (")
    why = next(block for block in section(found, "Why they are alarms").blocks if isinstance(block, Table))
    alarms = scores[scores["decision"] == "reject"].sort_values("score", ascending=False, kind="stable")
    assert [row[0] for row in why.rows] == alarms["id"].head(len(why.rows)).tolist()
    assert "(+" in why.rows[0][3]
    lineage = str(section(found, "Lineage").blocks)
    for told in ("c" * 40 + ", with changes", "parts version 3", "60 normal", "data/raw/parts.csv", "numpy"):
        assert told in lineage
    for block in (block for section in found.sections for block in section.blocks if isinstance(block, Chart)):
        assert len(block.alt) > 40
    small = pictures.small(found)
    html.render(small, tmp_path / "a.html")
    pdf.render(small, tmp_path / "a.pdf")
    assert (tmp_path / "a.html").stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("published", "promotion", "tone", "words"),
    [
        (Published(), {}, "plain", "Not published yet"),
        (Published(1), {}, "plain", "not judged yet"),
        (Published(2), judged(True), "plain", "Version 2 is not judged yet"),
        (Published(1, champion=1), judged(True), "good", "Champion: version 1 scores new batches (auroc 0.5 is low)."),
        (Published(1, champion=4), judged(True), "plain", "passed the gate, but version 4 is champion of parts"),
        (Published(1), judged(True, waits=1), "plain", "a person's approval is asked for"),
        (Published(1, champion=4), judged(False), "bad", "did not pass the gate: auroc 0.5 is low."),
        (Published(1, champion=1), {}, "good", "Champion: version 1 scores new batches."),
    ],
)
def test_the_verdict(published: Published, promotion: dict[str, Any], tone: str, words: str) -> None:
    found = candidate.verdict("many", published, promotion)
    assert found[1] == tone
    assert words in found[0]


def test_the_checks_of_the_gate_are_those_of_this_version(line: Path) -> None:
    write_json(line / "reports/promotion.json", judged(False))
    (table,) = section(build(line, Published(1)), "Checks of the gate").blocks
    assert table.rows == [["auroc min", "failed", "0.5", "0.6", "0.4 to 0.6", "auroc 0.5 is low"]]
    assert section(build(line, Published(2)), "Checks of the gate").blocks == []


def test_it_says_when_the_worst_are_no_errors(line: Path) -> None:
    """The candidate finds every anomaly; a normal or two raise an alarm, the pictures after it are of others."""
    errors = section(build(line), "Worst errors").blocks
    table = pd.read_parquet(line / "reports/candidates/many/scores.parquet")
    normals = table[table["label"] == 0].sort_values("score", kind="stable")[::-1]
    false = int((normals["decision"] == "reject").sum())
    assert isinstance(errors[0], Gallery)
    assert errors[0].caption.startswith(f"{false} false alarm" if false else "No normal raised an alarm")
    assert [each.alt.split(":")[0] for each in errors[0].pictures] == normals["id"].head(8).tolist()
    assert errors[1].caption == "No anomaly escaped; these came nearest to that"


def test_pictures_that_were_deleted_leave_a_word(line: Path, tmp_path: Path) -> None:
    overlays = line / "reports/candidates/many/overlays"
    for path in (overlays / "normals_scored_highest").iterdir():
        path.write_bytes(b"")
    found = pictures.small(build(line))
    assert "The picture is gone" in html.page(found)
    shutil.rmtree(overlays)
    assert "no pictures of errors" in said(section(build(line), "Worst errors"))


def test_a_test_part_of_one_class_is_told(line: Path) -> None:
    folder = line / "reports/candidates/many"
    table = pd.read_parquet(folder / "scores.parquet")
    table[table["label"] == 0].to_parquet(folder / "scores.parquet", index=False)
    metrics = json.loads((folder / "metrics.json").read_text())
    kept = {key: value for key, value in metrics.items() if key not in ("auroc", "ap", "detection_rate")}
    write_json(folder / "metrics.json", kept | {"n_anomalous": 0, "escapes": 0})
    for name in ("roc", "pr"):
        (folder / f"{name}.csv").unlink()
    found = build(line)
    assert "There are no curves" in said(section(found, "Curves"))
    html.page(pictures.small(found))


def test_new_thresholds_of_a_version_are_told(line: Path) -> None:
    found = build(line, Published(1, recalibrated="alarm above 7: as asked"))
    assert "new batches are judged by: alarm above 7: as asked." in said(section(found, "Decision"))


def test_a_candidate_whose_stages_have_not_run_is_refused(line: Path) -> None:
    (line / "reports/candidates/many/metrics.json").unlink()
    with pytest.raises(LineError, match="metrics.json is needed"):
        build(line)


def test_every_picture_finds_its_sample_whatever_the_id(tmp_path: Path) -> None:
    ids = ["a b", "a,b", "NA", "a\nb", "漢", '<script>"', "x" * 300, "-1", "012"]
    folder = tmp_path / "normals_scored_highest"
    index = pd.DataFrame({"id": ids, "path": [f"{folder.name}/{number}.png" for number in range(len(ids))]})
    index.to_csv(tmp_path / "index.csv", index=False, lineterminator="\n")
    rows = pd.DataFrame({"id": ids, "label": 0, "defect": "", "score": 1.0, "p_value": 0.1, "decision": "accept"})
    found = errors._drawn(folder, rows)
    assert [each.image.name for each in found] == [f"{number}.png" for number in range(len(ids))]
    assert [each.caption.split(": normal")[0] for each in found] == [short(name) for name in ids]
