"""Pages on disk and in MLflow: made once, again when what they tell changed, and never in the way."""

import json
from pathlib import Path

import pytest

from pipeline import batch, params, tracking
from pipeline.errors import DataError, LineError
from pipeline.monitoring.record import record
from pipeline.reports import pages


def new(found: dict[str, pages.Page]) -> list[str]:
    return [name for name, page in found.items() if page.new]


def test_pages_of_a_line_are_made_once_and_lie_beside_their_versions(ready: Path) -> None:
    given = params.read(ready / "params.yaml")
    found = pages.of_line(given, ready)
    assert new(found) == ["many", "few", "comparison"]
    assert all(file.is_file() for page in found.values() for file in page.files)
    registry = tracking.connect()
    for number, name in ((1, "many"), (2, "few")):
        version = registry.version("parts", number)
        assert version is not None
        held = {file.path for file in registry.client.list_artifacts(version.run_id, "report")}
        wanted = {f"report/{n}.{kind}" for n in (name, "comparison") for kind in ("html", "pdf")}
        assert wanted <= held
    assert "Champion: version 1" in found["many"].files[0].read_text()
    assert new(pages.of_line(given, ready)) == []
    found["few"].files[1].unlink()
    assert new(pages.of_line(given, ready)) == ["few"]
    report = batch.score_batch(given, ready)
    assert new(pages.of_line(given, ready)) == []
    record(given, report)
    assert new(pages.of_line(given, ready)) == ["many"]  # the champion scored a batch
    registry.set_alias("parts", "champion", 2)
    assert set(new(pages.of_line(given, ready))) == {"many", "few", "comparison"}


def test_the_page_of_a_batch_follows_its_report(ready: Path) -> None:
    given = params.read(ready / "params.yaml")
    report = batch.score_batch(given, ready)
    folder = pages.batch_folder(ready, report["batch"])
    page = pages.scored(folder)
    text = page.files[0].read_text()
    assert page.new
    assert "calibration normals" in text
    assert "No batch has been recorded" in text
    assert not pages.scored(folder).new
    record(given, report)
    page = pages.scored(folder)
    assert page.new
    assert "No drift of scores" in page.files[0].read_text()
    (folder / ".made.json").write_text("half", encoding="utf-8")
    assert pages.scored(folder).new


def test_what_cannot_be_shown_is_refused_in_a_sentence(ready: Path, tmp_path: Path) -> None:
    given = params.read(ready / "params.yaml")
    for name in ("nothing", "..", "../scores/x"):
        with pytest.raises(DataError, match="must name a folder"):
            pages.batch_folder(ready, name)
    with pytest.raises(DataError, match="must be the folder of a scored batch"):
        pages.scored(tmp_path)
    receipt = json.loads((ready / "reports/published.json").read_text())
    receipt["candidates"]["few"]["version"] = 9
    (ready / "reports/published.json").write_text(json.dumps(receipt))
    with pytest.raises(LineError, match="no version 9"):
        pages.of_line(given, ready)
    (ready / "reports/published.json").unlink()
    with pytest.raises(LineError, match="publish first"):
        pages.of_line(given, ready)
