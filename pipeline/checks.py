"""Run a modality's checks with Great Expectations; the only file that imports it.

The report is a folder with `result.json` and Great Expectations' own Data Docs page, `docs/index.html`. Equal data
give equal bytes: what tells times and random ids is left out. The page is made to be opened on a closed network:
its scripts, fonts and pictures, which lie on other people's servers, give way to one style sheet of ours, and
it forbids itself to load anything.
"""

import html
import logging
import math
import os
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.files import whole_folder, write_json
from pipeline.protocols import Check

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

NAMED = 5  # failing rows named in a sentence
SHOWN = 20  # failing values kept per check in the report
STYLE = """
body {font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1a1a1a}
table {border-collapse: collapse; margin: .5rem 0; width: 100%}
td, th {border: 1px solid #ccc; padding: .25rem .5rem; text-align: left; vertical-align: top}
.alert {background: #f1f1f1; padding: .4rem .8rem; margin-top: 1rem}
.verdict {border-left: 4px solid #00706b; padding-left: 1rem}
.verdict:has(li) {border-color: #b22400}
.fa-times::before {content: "\\2717 "; color: #b22400}
.fa-exclamation-triangle::before {content: "! "; color: #b22400}
.fa-check-circle::before {content: "\\2713 "; color: #00706b}
.card, nav, [hidden] {display: none}
.card.collapse {display: block}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Verdict:
    """One sentence per failed check: `failures` of critical checks, `warnings` of the others."""

    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def validate(frame: pd.DataFrame, checks: list[Check], name: str, out: Path) -> Verdict:
    """Check `frame` and write the report into the folder `out`, which is whole or absent, whatever the verdict.

    Failing rows are named by their column `id` (by position in a frame without one)."""
    result = _run(frame, checks, name)
    found = sorted(result.results, key=lambda one: one.expectation_config.meta["check"])
    verdict = Verdict()
    entries = []
    for check, one in zip(checks, found, strict=True):
        rows = _failing(one)
        if not one.success:
            (verdict.failures if check.critical else verdict.warnings).append(_sentence(check, one, rows, len(frame)))
        entries.append(_entry(check, one, rows))
    with whole_folder(out) as folder:
        report = {"name": name, "rows": len(frame), "success": not verdict.failures, "checks": entries}
        write_json(folder / "result.json", report)
        (folder / "docs").mkdir()
        (folder / "docs" / "index.html").write_text(_page(result, verdict), encoding="utf-8")
    return verdict


def _run(frame: pd.DataFrame, checks: list[Check], name: str) -> "ExpectationSuiteValidationResult":
    """The Great Expectations result of all checks, from a context that lives in memory only."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # it would call home, and complain where it cannot
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the library
        import great_expectations as gx

        logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}
        expectations = [
            getattr(gx.expectations, check.expectation)(**_ordered(check.options), meta={"check": number})
            for number, check in enumerate(checks)
        ]
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        asset = context.data_sources.add_pandas("dataset").add_dataframe_asset(name)
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
        wanted: dict[str, Any] = {"result_format": "COMPLETE", "return_unexpected_index_query": False}
        if "id" in frame.columns:
            wanted["unexpected_index_column_names"] = ["id"]
        return batch.validate(suite, result_format=wanted)


def _ordered(options: dict[str, Any]) -> dict[str, Any]:
    """Sets as sorted lists: their order would change from run to run."""
    return {key: sorted(value, key=str) if isinstance(value, set) else value for key, value in options.items()}


def _failing(one: "ExpectationValidationResult") -> list[str]:
    """The ids of the rows that fail one check, in the frame's order, each once."""
    listed = one.result.get("unexpected_index_list") or []
    return list(dict.fromkeys(str(row["id"] if isinstance(row, dict) else row) for row in listed))


def _exceptions(one: "ExpectationValidationResult") -> list[dict[str, Any]]:
    """What went wrong inside a check: one record, or one for each metric behind it."""
    info = one.exception_info or {}
    nested = [info, *(value for value in info.values() if isinstance(value, dict))]
    return [each for each in nested if each.get("raised_exception")]


def _broken(one: "ExpectationValidationResult") -> str | None:
    """Why a check could not run, such as a column that the frame lacks; None when it ran."""
    said = [str(each["exception_message"]) for each in _exceptions(one)]
    return " ".join(said[0].split()) if said else None


def _sentence(check: Check, one: "ExpectationValidationResult", rows: list[str], total: int) -> str:
    broken = _broken(one)
    if broken:
        return f"{check.says} (cannot be checked: {broken})"
    if rows:
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        return f"{check.says}: {', '.join(rows[:NAMED])}{more} ({len(rows)} of {total})"
    observed = one.result.get("observed_value")
    return check.says if observed is None else f"{check.says} (got {str(_plain(observed))[:200]})"


def _entry(check: Check, one: "ExpectationValidationResult", rows: list[str]) -> dict[str, Any]:
    """One check's part of result.json: what was asked, what came, and every failing id."""
    wanted = ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "observed_value", "details")
    told = one.to_json_dict()["result"]
    found = {key: told[key] for key in wanted if key in told}
    if "partial_unexpected_list" in told:
        found["unexpected_values"] = told["partial_unexpected_list"][:SHOWN]
    broken = _broken(one)
    return {
        "expectation": check.expectation,
        "options": _plain(_ordered(check.options)),
        "critical": check.critical,
        "says": check.says,
        "success": bool(one.success),
        "result": _plain(found),
        "failing": rows,
        **({"broken": broken} if broken else {}),
    }


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinity as text, other objects as text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)


def _page(result: "ExpectationSuiteValidationResult", verdict: Verdict) -> str:
    """The Data Docs page: no times, no random ids, nothing loaded from anywhere, the verdict on top."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    version = result.meta["great_expectations_version"]
    asset = {"data_asset_name": result.suite_name}
    result.meta = {"great_expectations_version": version, "active_batch_definition": asset}
    for one in result.results:
        for each in _exceptions(one):
            each["exception_traceback"] = ""  # it names places on this machine
        for key in ("unexpected_index_list", "partial_unexpected_index_list", "unexpected_list"):
            if one.result.get(key):
                one.result[key] = one.result[key][:SHOWN]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
    page = re.sub(
        r"<script\b.*?</script>|<style\b.*?</style>|<link\b[^>]*>|<footer\b.*?</footer>", "", page, flags=re.S
    )
    page = re.sub(r"<img\b[^>]*>", "", page)
    page = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "0", page)
    page = re.sub(r'href="(?!#)[^"]*"', "", page)
    head = f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style>'
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in [*verdict.failures, *verdict.warnings])
    top = f'<body><section class="verdict"><h1>{_headline(verdict)}</h1><ul>{said}</ul></section>'
    page = re.sub(r"<head>", lambda _: head, page, count=1)
    page = re.sub(r"<body>", lambda _: top, page, count=1)
    return "\n".join(line.rstrip() for line in page.splitlines() if line.strip()) + "\n"


def _headline(verdict: Verdict) -> str:
    if not verdict.failures and not verdict.warnings:
        return "The dataset passes every check"
    return f"{len(verdict.failures)} critical checks fail, {len(verdict.warnings)} others warn"
