"""The report of how the candidates of a line compare: on the same test samples, with intervals, as a document."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import paired
from pipeline.candidate import Candidate
from pipeline.curves import CURVES
from pipeline.files import sha256
from pipeline.label_quality import DECISIONS
from pipeline.params import Params
from pipeline.protocols import ANOMALOUS, NORMAL
from pipeline.reports import disagreements, laid_over
from pipeline.reports.document import NONE, Block, Chart, Document, Section, Table, Text
from pipeline.reports.evaluated import Evaluated
from pipeline.reports.passages import counted, figure, rate, share

COLUMNS = {  # key of metrics.json and heading; one that no candidate has is left out
    "auroc": "AUROC",
    "ap": "average precision",
    "f1_max": "best F1",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
}
FIGURES = {"auroc": "AUROC", "ap": "average precision", "f1_max": "best F1", "detection_rate": "detected"}
CROSSED = 6  # candidates that get a cross table with the reference
AREAS = {"roc": "auroc", "pr": "ap", "pro": "aupro"}


def build(params: Params, line: Path, receipt: dict[str, Any], champion: int | None = None) -> Document | None:
    """The comparison of the candidates of a publication's receipt in the folder `line`; None with fewer than two.

    Every other candidate is held against the one whose version is `champion`, or against the best where that is none
    of them. Raises LineError when a candidate's stages have not run, ModelError for a damaged calibration."""
    names = [name for name in receipt["candidates"] if name in params.candidates]
    if len(names) < 2:
        return None
    evaluated = {name: Evaluated(Candidate(params, line, name)) for name in names}
    for one in evaluated.values():
        one.candidate.must_be_complete()
    tables = {name: disagreements.by_id(one.table) for name, one in evaluated.items()}
    reference = _reference(evaluated, receipt, champion)
    is_champion = receipt["candidates"][reference]["version"] == champion
    what = "the champion" if is_champion else "the best of them"
    others = [name for name in names if name != reference]
    places = {name: place for place, name in enumerate([reference, *others])}
    named = f"{reference} and {others[0]}" if len(names) == 2 else f"{len(names)} candidates"
    return Document(
        f"{receipt['name']}: {named} side by side",
        f"Held against {reference}, {what}, on {counted(len(tables[reference]), 'test sample')}",
        [
            Section("Figures", _figures(evaluated, receipt, champion, [reference, *others])),
            Section("Differences", _differences(tables, reference, others, places)),
            Section("Curves", _curves(evaluated, places)),
            Section("Decisions", _decisions(tables, reference, others)),
            Section("Where they disagree", disagreements.blocks(evaluated, tables, reference)),
        ],
        "Made by assay. Everything on this page is in this file; nothing is loaded from elsewhere.",
    )


def told(params: Params, line: Path, receipt: dict[str, Any], champion: int | None = None) -> list[Any]:
    """All that `build` depends on, as JSON values: equal ones make equal documents."""
    names = [name for name in receipt["candidates"] if name in params.candidates]
    found = [Candidate(params, line, name) for name in names]
    return [
        receipt,
        champion,
        [[sha256(one.report), sha256(one.model), sha256(one.calibration)] for one in found],
    ]


def _reference(evaluated: dict[str, Evaluated], receipt: dict[str, Any], champion: int | None) -> str:
    for name in evaluated:
        if receipt["candidates"][name]["version"] == champion:
            return name
    return max(evaluated, key=lambda name: evaluated[name].metrics.get("auroc", -1.0))


def _figures(
    evaluated: dict[str, Evaluated], receipt: dict[str, Any], champion: int | None, names: list[str]
) -> list[Block]:
    filled = [key for key in COLUMNS if any(key in one.metrics for one in evaluated.values())]
    ranks, rates = [], []
    for name in names:
        found, version = evaluated[name].metrics, receipt["candidates"][name]["version"]
        promised = evaluated[name].calibration.promised_false_alarms
        key = evaluated[name].candidate.params.detector_key(name)
        registered = f"{version}, champion" if version == champion else str(version)
        ranks.append([name, key, registered, *(figure(found.get(key)) for key in filled)])
        rates.append(
            [
                name,
                NONE if promised is None else share(promised),
                rate(found["false_alarms"], found["n_normal"]),
                rate(found["n_anomalous"] - found["escapes"], found["n_anomalous"]),
                share(found["review_share"]),
            ]
        )
    headings = ["candidate", "detector", "version", *(COLUMNS[key] for key in filled)]
    at = ["candidate", "promised false alarms", "false alarms", "detected", "for review"]
    return [
        Table(headings, ranks, "How well scores tell anomalies from normals", frozenset(range(3, len(headings)))),
        Table(at, rates, "At each candidate's own thresholds, with 95 % intervals", frozenset(range(1, len(at)))),
    ]


def _differences(
    tables: dict[str, pd.DataFrame], reference: str, others: list[str], places: dict[str, int]
) -> list[Block]:
    """Paired differences with 95 % intervals, as a chart and a table."""
    rows, drawn, unequal = [], [], []
    for name in others:
        both = disagreements.paired(tables[reference], tables[name])
        if len(both) != len(tables[reference]) or len(both) != len(tables[name]):
            unequal.append(Text(f"{name} was tested on other samples than {reference}: no difference is told.", "note"))
            continue
        known = both[both["label"].isin([NORMAL, ANOMALOUS])]
        for key, heading in FIGURES.items():
            found = paired.interval(key, known["label"].to_numpy(), _of(known, key, "_other"), _of(known, key, ""))
            if found is None:
                continue
            difference = found.candidate - found.champion
            drawn.append((name, heading, difference, found.low, found.high))
            interval = f"{found.low:+.4g} to {found.high:+.4g}"
            values = [figure(found.candidate), figure(found.champion), f"{difference:+.4g}", interval]
            rows.append([name, heading, *values, _reading(found.low, found.high)])
    if not rows:
        return [*unequal, Text("There are no differences: they need both normal and anomalous test samples.")]
    headings = ["candidate", "figure", "its value", f"that of {reference}", "difference", "95 % interval", "reads as"]
    says = "; ".join(f"{name}, {metric}: {how}" for name, metric, *_, how in rows)
    caption = "Both models on the same resamples of the test part: where 0 lies in the interval, it may be luck."
    chart = Chart(laid_over.forest(drawn, places), f"Differences from {reference}. {says}.", caption)
    return [chart, Table(headings, rows, "", frozenset({2, 3, 4, 5})), *unequal]


def _of(known: pd.DataFrame, key: str, which: str) -> np.ndarray:
    if key == "detection_rate":
        return (known[f"decision{which}"] == "reject").to_numpy(np.float64)
    return known[f"score{which}"].to_numpy(np.float64)


def _reading(low: float, high: float) -> str:
    if low == high == 0:
        return "equal"
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def _curves(evaluated: dict[str, Evaluated], places: dict[str, int]) -> list[Block]:
    blocks: list[Block] = []
    for curve, known in CURVES.items():
        files = {name: evaluated[name].candidate.report / f"{curve}.csv" for name in places}
        points = {name: pd.read_csv(path)[[known.x, known.y]] for name, path in files.items() if path.is_file()}
        points = {name: rows for name, rows in points.items() if len(rows)}
        if points:
            areas = {name: evaluated[name].metrics.get(AREAS[curve]) for name in points}
            alt = "; ".join(f"{name} {figure(area)}" for name, area in areas.items())
            blocks.append(Chart(laid_over.curves(points, places, known.title), f"{known.title}, areas: {alt}."))
    return blocks or [Text("There are no curves: they need both normal and anomalous test samples.")]


def _decisions(tables: dict[str, pd.DataFrame], reference: str, others: list[str]) -> list[Block]:
    """How often the reference decides one thing and another candidate another, one table each."""
    blocks: list[Block] = []
    for name in others[:CROSSED]:
        both = disagreements.paired(tables[reference], tables[name])
        counts = both.groupby(["decision", "decision_other"]).size()
        rows = [[f"{reference}: {here}", *(_cell(counts, here, there) for there in DECISIONS)] for here in DECISIONS]
        headings = ["", *(f"{name}: {there}" for there in DECISIONS)]
        blocks.append(
            Table(headings, rows, f"Test samples by what {reference} and {name} decide", frozenset({1, 2, 3}))
        )
    if len(others) > CROSSED:
        blocks.append(Text(f"Tables of {len(others) - CROSSED} more candidates are left out.", "note"))
    return blocks


def _cell(counts: pd.Series, here: str, there: str) -> str:
    return f"{int(counts.get((here, there), 0)):,}"
