"""Great Expectations behind one function: verdicts, failing rows by id, and a report that repeats byte for byte."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.checks import Verdict, validate
from pipeline.files import sha256
from pipeline.protocols import Check

ROOT = Path(__file__).parents[1]


def frame(n: int = 12) -> pd.DataFrame:
    return pd.DataFrame(
        {"id": [f"s{i:02d}" for i in range(n)], "width": np.arange(n) + 100.0, "mode": ["RGB"] * n, "label": [0] * n}
    )


def between(column: str, low: float, critical: bool = True) -> Check:
    options = {"column": column, "min_value": low}
    return Check("ExpectColumnValuesToBeBetween", options, critical, f"{column} must be at least {low:g}")


def result(out: Path) -> dict:
    return json.loads((out / "result.json").read_text(encoding="utf-8"))


def test_good_data_pass_without_a_word(tmp_path, capfd) -> None:
    out = tmp_path / "validation"
    assert validate(frame(), [between("width", 100)], "images", out) == Verdict([], [])
    assert result(out)["success"] is True
    assert "The dataset passes every check" in (out / "docs" / "index.html").read_text(encoding="utf-8")
    assert capfd.readouterr() == ("", "")  # no progress bars, no logs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["validation"]


def test_failing_rows_are_named_by_id_and_counted(tmp_path) -> None:
    checks = [
        between("width", 102),
        between("width", 107, critical=False),
        Check("ExpectTableRowCountToBeBetween", {"min_value": 50}, True, "the dataset needs 50 samples"),
        Check("ExpectColumnValuesToBeInSet", {"column": "mode", "value_set": ["RGB"]}, True, "mode must be RGB"),
    ]
    verdict = validate(frame(), checks, "images", tmp_path / "out")
    assert verdict.failures == [
        "width must be at least 102: s00, s01 (2 of 12)",
        "the dataset needs 50 samples (got 12)",
    ]
    assert verdict.warnings == ["width must be at least 107: s00, s01, s02, s03, s04 and 2 more (7 of 12)"]
    told = result(tmp_path / "out")
    assert [one["success"] for one in told["checks"]] == [False, False, False, True]
    assert told["checks"][1]["failing"] == [f"s{i:02d}" for i in range(7)]
    assert told["success"] is False
    page = (tmp_path / "out" / "docs" / "index.html").read_text(encoding="utf-8")
    for sentence in verdict.failures + verdict.warnings:
        assert sentence in page


def test_duplicates_nulls_pairs_and_infinities_name_their_rows(tmp_path) -> None:
    rows = frame()
    rows.loc[3, "width"] = np.nan
    rows.loc[4, "width"] = np.inf
    rows["sha256"] = [f"c{i}" for i in range(11)] + ["c2"]
    checks = [
        Check("ExpectColumnValuesToNotBeNull", {"column": "width"}, True, "width is missing"),
        Check("ExpectColumnValuesToBeBetween", {"column": "width", "max_value": 1e6}, True, "width must be finite"),
        Check("ExpectColumnValuesToBeUnique", {"column": "sha256"}, False, "content must be unique"),
        Check(
            "ExpectColumnPairValuesAToBeGreaterThanB",
            {"column_A": "label", "column_B": "width"},
            False,
            "label > width",
        ),
    ]
    verdict = validate(rows, checks, "images", tmp_path / "out")
    assert verdict.failures == ["width is missing: s03 (1 of 12)", "width must be finite: s04 (1 of 12)"]
    assert verdict.warnings[0] == "content must be unique: s02, s11 (2 of 12)"
    assert verdict.warnings[1].startswith("label > width: s00, s01, s02")
    assert result(tmp_path / "out")["checks"][1]["result"]["unexpected_values"] == ["inf"]


def test_a_check_that_cannot_run_fails_and_says_why(tmp_path) -> None:
    verdict = validate(frame(), [between("height", 1)], "images", tmp_path / "out")
    (sentence,) = verdict.failures
    assert sentence.startswith("height must be at least 1 (cannot be checked: ")
    assert "height" in sentence.partition("(")[2]
    assert str(ROOT) not in (tmp_path / "out" / "docs" / "index.html").read_text(encoding="utf-8")  # no traceback


def test_a_frame_without_ids_names_positions(tmp_path) -> None:
    verdict = validate(frame().drop(columns="id"), [between("width", 102)], "table", tmp_path / "out")
    assert verdict.failures == ["width must be at least 102: 0, 1 (2 of 12)"]


def test_numbers_of_rows_as_ids(tmp_path) -> None:
    verdict = validate(frame().assign(id=range(7, 19)), [between("width", 102)], "table", tmp_path / "out")
    assert verdict.failures == ["width must be at least 102: 7, 8 (2 of 12)"]


class Loads(HTMLParser):
    """Whatever a page would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.policy: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"script", "link", "img", "iframe"}:
            self.found.append(tag)
        self.found += [str(given[name]) for name in ("src", "href") if not str(given.get(name) or "#").startswith("#")]
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            self.policy.append(str(given["content"]))


def test_the_page_runs_nothing_and_loads_nothing_whatever_the_data_hold(tmp_path) -> None:
    rows = frame()
    rows.loc[1, "mode"] = "<script>alert(1)</script>"
    rows.loc[2, "id"] = "<img src=x onerror=alert(2)>"
    rows.loc[2, "mode"] = "CMYK"
    checks = [
        Check("ExpectColumnValuesToBeInSet", {"column": "mode", "value_set": ["RGB"]}, True, "mode must be RGB"),
        between("height", 0, critical=False),
    ]
    validate(rows, checks, "images", tmp_path / "out")
    page = (tmp_path / "out" / "docs" / "index.html").read_text(encoding="utf-8")
    loads = Loads()
    loads.feed(page)
    assert loads.found == []
    assert loads.policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert "://" not in page
    assert "CMYK" in page
    assert not re.search(r"\d{8}T\d{6}|\d{4}-\d\d-\d\d", page)  # neither dates nor times


def mixed(out: Path) -> None:
    """Validate data that pass, fail, warn and cannot be checked, with options that have no order of their own."""
    rows = pd.DataFrame({"id": ["a", "b", "c"], "w": [1.0, None, 3.0], "m": ["x", "y", "z"]})
    checks = [
        between("w", 2),
        Check("ExpectColumnValuesToBeInSet", {"column": "m", "value_set": {"x", "y", "q", "r"}}, True, "m"),
        Check("ExpectColumnValuesToNotBeNull", {"column": "w"}, False, "null"),
        Check("ExpectColumnToExist", {"column": "gone"}, False, "gone"),
        between("gone", 0),
        Check("ExpectColumnValuesToBeUnique", {"column": "id"}, True, "id"),
    ]
    validate(rows, checks, "table", out)


def test_equal_data_give_equal_bytes_in_any_process_and_leave_nothing_elsewhere(tmp_path) -> None:
    home, out = tmp_path / "home", tmp_path / "elsewhere" / "validation"
    home.mkdir()
    env = {**os.environ, "PYTHONHASHSEED": "7", "HOME": str(home), "PYTHONPATH": str(ROOT)}
    code = "import sys; from pathlib import Path; from tests.test_checks import mixed; mixed(Path(sys.argv[1]))"
    command = [sys.executable, "-W", "error", "-c", code, str(out)]
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.rglob("*")) == []
    mixed(tmp_path / "here")
    assert sha256(tmp_path / "here") == sha256(out)


def test_a_new_report_replaces_the_old_one_and_a_failed_one_leaves_it(tmp_path) -> None:
    out = tmp_path / "validation"
    validate(frame(), [between("width", 100)], "images", out)
    (out / "left-over").touch()
    validate(frame(), [between("width", 102)], "images", out)
    before = sha256(out)
    assert sorted(path.name for path in out.iterdir()) == ["docs", "result.json"]
    with pytest.raises(AttributeError):
        validate(frame(), [Check("ExpectNothingKnown", {}, True, "unknown")], "images", out)
    assert sha256(out) == before


def test_great_expectations_is_imported_only_when_something_is_checked() -> None:
    code = "import sys, pipeline.checks; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
