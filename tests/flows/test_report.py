"""The flow that makes pages, and that a page which cannot be made loses nothing."""

from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from tests import small_line
from tests.flows.conftest import LOOSE_SOCKETS

pytestmark = LOOSE_SOCKETS


@pytest.fixture
def reporting(ready: Path, prefect: None) -> Path:
    small_line.scoring(ready, report=True)
    return ready


def test_pages_after_a_batch_and_after_a_training(reporting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.report import after_training, report
    from flows.score import score

    scored = score(str(reporting))
    assert scored["page"] == f"{scored['folder']}/report.html"
    found = Artifact.get("batch-page-parts")
    assert found is not None
    assert f"`{scored['folder']}/report.html` and `{scored['folder']}/report.pdf` (new)" in str(found.data)
    made = after_training(str(reporting))
    assert [Path(page).name for page in made] == ["many.html", "few.html", "comparison.html"]
    assert all(Path(page).is_file() for page in made)
    assert "few.pdf` (new)" in str(Artifact.get("pages-parts").data)
    assert report(str(reporting), scored["batch"]) == [f"{scored['folder']}/report.html"]
    assert "(new)" not in str(Artifact.get("batch-page-parts").data)
    assert "warning" not in capsys.readouterr().err


def test_a_page_that_cannot_be_made_loses_nothing(
    reporting: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.report import after_training
    from flows.score import score
    from pipeline.reports import pages, pdf

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pdf, "render", full)
    scored = score(str(reporting))
    assert scored["page"] is None
    assert (Path(scored["folder"]) / "scores.parquet").is_file()
    assert after_training(str(reporting)) == []
    said = capsys.readouterr().err
    assert f"warning: the page of batch {scored['batch']} could not be made: OSError: [Errno 28]" in said
    assert "warning: the pages of the line could not be made: OSError: [Errno 28]" in said
    monkeypatch.undo()
    assert pages.scored(Path(scored["folder"])).new


def test_without_reports_there_are_none(ready: Path) -> None:
    from flows.report import after_scoring, after_training
    from pipeline import params

    assert after_training(str(ready)) == []
    assert after_scoring(params.read(ready / "params.yaml"), ready / "scores/x") is None
    assert not (ready / "reports/pages").exists()
