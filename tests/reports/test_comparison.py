"""How the candidates of a small line compare, as a document and as a page."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import paired, params
from pipeline.reports import comparison, disagreements, html, laid_over
from pipeline.reports.document import Chart, Document, Gallery, Section, Table, Text


def build(line: Path, champion: int | None = 1) -> Document:
    receipt = json.loads((line / "reports/published.json").read_text())
    found = comparison.build(params.read(line / "params.yaml"), line, receipt, champion)
    assert found is not None
    return found


def section(document: Document, title: str) -> Section:
    return next(one for one in document.sections if one.title == title)


def tables(document: Document, title: str) -> list[Table]:
    return [block for block in section(document, title).blocks if isinstance(block, Table)]


@pytest.fixture
def scores(ready: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(ready / f"reports/candidates/{name}/scores.parquet") for name in ("many", "few")}


def test_candidates_are_held_against_the_champion(ready: Path, scores: dict[str, pd.DataFrame]) -> None:
    document = build(ready)
    assert document.title == "parts: many and few side by side"
    assert "Held against many, the champion, on 75 test samples" in document.subtitle
    figures, rates = tables(document, "Figures")
    assert [row[:3] for row in figures.rows] == [
        ["many", "table/isolation_forest", "1, champion"],
        ["few", "table/isolation_forest", "2"],
    ]
    assert [row[0] for row in rates.rows] == ["many", "few"]
    (differences,) = tables(document, "Differences")
    both = scores["many"].merge(scores["few"], on="id", suffixes=("", "_few"))
    found = paired.interval("auroc", both["label"].to_numpy(), both["score_few"].to_numpy(), both["score"].to_numpy())
    assert differences.rows[0][:2] == ["few", "AUROC"]
    assert differences.rows[0][4] == f"{found.candidate - found.champion:+.4g}"
    assert differences.rows[0][5] == f"{found.low:+.4g} to {found.high:+.4g}"
    charts = [block for block in section(document, "Curves").blocks if isinstance(block, Chart)]
    assert [[line.get_label() for line in chart.figure.axes[0].lines] for chart in charts] == [["many", "few"]] * 2


def test_decisions_are_crossed_and_what_differs_is_drawn_by_both(ready: Path, scores: dict[str, pd.DataFrame]) -> None:
    document = build(ready)
    (crossed,) = tables(document, "Decisions")
    counts = [int(cell.replace(",", "")) for row in crossed.rows for cell in row[1:]]
    assert sum(counts) == 75
    apart = int((scores["many"]["decision"] != scores["few"]["decision"]).sum())
    assert counts[1] + counts[2] + counts[3] + counts[5] + counts[6] + counts[7] == apart > 0
    blocks = section(document, "Where they disagree").blocks
    assert blocks[0].text.startswith(f"{apart} test samples of 75: many decides otherwise")
    galleries = [block for block in blocks if isinstance(block, Gallery)]
    assert len(galleries) == min(apart, disagreements.SHOWN)
    for gallery in galleries:
        first, second = gallery.pictures
        assert first.caption.startswith("many: ")
        assert second.caption.startswith("few: ")
        assert first.image[:4] == second.image[:4] == b"\x89PNG"
    assert not (ready / disagreements.SCRATCH).exists()


def test_what_is_gone_since_is_said_in_place_of_its_picture(ready: Path, tmp_path: Path) -> None:
    path = ready / "data/dataset/table.parquet"
    path.unlink()
    blocks = section(build(ready), "Where they disagree").blocks
    assert not any(isinstance(block, Gallery) for block in blocks)
    missing = [block for block in blocks if isinstance(block, Text) and "no picture, since" in block.text]
    assert len(missing) >= 2
    shutil.rmtree(ready / "data/dataset")
    html.render(build(ready), tmp_path / "page.html")
    assert "no picture, since" in (tmp_path / "page.html").read_text()


def test_what_it_tells_follows_the_champion_and_the_reports(ready: Path) -> None:
    given, receipt = params.read(ready / "params.yaml"), json.loads((ready / "reports/published.json").read_text())
    before = comparison.told(given, ready, receipt, 1)
    assert before == comparison.told(given, ready, receipt, 1)
    assert before != comparison.told(given, ready, receipt, 2)
    (ready / "reports/candidates/few/more.txt").touch()
    assert before != comparison.told(given, ready, receipt, 1)


def test_one_candidate_is_not_compared(ready: Path) -> None:
    receipt = json.loads((ready / "reports/published.json").read_text())
    del receipt["candidates"]["few"]
    assert comparison.build(params.read(ready / "params.yaml"), ready, receipt) is None


def test_without_a_champion_among_them_the_best_is_the_reference(ready: Path) -> None:
    assert "Held against many, the best of them" in build(ready, 7).subtitle


def test_equal_decisions_load_no_model(ready: Path) -> None:
    many, few = (ready / f"reports/candidates/{name}/scores.parquet" for name in ("many", "few"))
    shutil.copyfile(many, few)
    shutil.rmtree(ready / "models/few")
    (ready / "models/few").mkdir()
    document = build(ready)
    assert section(document, "Where they disagree").blocks == [
        Text("All candidates decide the same about every test sample.")
    ]
    (differences,) = tables(document, "Differences")
    assert {row[6] for row in differences.rows} == {"equal"}


def test_the_most_different_come_first_and_once() -> None:
    def table(decisions: str, values: list[float]) -> pd.DataFrame:
        known = {"r": "reject", "a": "accept"}
        return pd.DataFrame(
            {"decision": [known[one] for one in decisions], "p_value": values}, index=pd.Index(list("xyz"), name="id")
        )

    found = disagreements.find(
        {
            "one": table("raa", [0.01, 0.5, 0.6]),
            "two": table("aaa", [0.2, 0.5, 0.6]),
            "three": table("aar", [0.9, 0.5, 0.02]),
        },
        "one",
    )
    assert found == [("x", "three"), ("z", "three")]


def test_a_name_that_fonts_may_lack_is_drawn_by_its_place() -> None:
    assert laid_over.label("patchcore", 0) == "patchcore"
    assert laid_over.label("a$b$", 0) == r"a\$b\$"
    assert laid_over.label("検査😀", 2) == "candidate 3"
    figure = laid_over.forest([("検査😀", "AUROC", -0.1, -0.2, 0.0)], {"検査😀": 1})
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["candidate 2, AUROC"]
    assert np.isclose(figure.axes[0].get_xlim()[1], -figure.axes[0].get_xlim()[0])
