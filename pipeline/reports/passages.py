"""Passages that reports have in common: rates in words, thresholds by group, why alarms are alarms, drift over time."""

import json
import math

import numpy as np
import pandas as pd

from pipeline import metrics
from pipeline.reports import charts
from pipeline.reports.document import NONE, Block, Chart, Table, Text, short
from pipeline.threshold import Calibration

BATCHES = 60  # in a picture of drift
LISTED = 12  # of them in words
PERCENT = "\N{NO-BREAK SPACE}%"  # a number keeps its unit
GROUPS = 50  # groups, classes and the like in a table
COLUMNS = 3  # that say why a sample is an alarm
DRIFT = (
    "Above: the share of alarms of each batch, against what the promise allows. Below: evidence that scores are no "
    "longer those of the calibration; by chance it hardly ever reaches the threshold."
)


def share(value: float) -> str:
    """A rate for people: `4.33 %`."""
    digits = ".2f" if 0.9995 <= value < 1 else ".2g" if value < 0.01 else ".3g"
    return f"{100 * value:{digits}}{PERCENT}"


def rate(hits: int, n: int) -> str:
    """A rate with its 95 % interval: `4.33 % (1.2 to 9.8 %)`; a dash where nothing was counted."""
    return f"{share(hits / n)} ({between(hits, n)})" if n else NONE


def between(hits: int, n: int) -> str:
    """The 95 % interval of a rate."""
    low, high = metrics.interval(hits, n)
    return f"{share(low).removesuffix(PERCENT)} to {share(high)}"


def figure(value: float | None) -> str:
    """A figure with four digits; a dash for one that is not known."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.4g}"


def counted(count: int, one: str, many: str = "") -> str:
    """`1 alarm`, `2,000 alarms`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def more(count: int, shown: int, where: str) -> str:
    """What a bounded table leaves out; empty where it is whole."""
    return f"and {count - shown:,} more, in {where}" if count > shown else ""


def thresholds(calibration: Calibration) -> list[Block]:
    """A table of the thresholds of groups that have their own; nothing without any."""
    if not calibration.own:
        return []
    rows = [
        [short(name), figure(own["alarm"]), figure(own["review"])]
        for name, own in list(calibration.own.items())[:GROUPS]
    ]
    note = more(len(calibration.own), len(rows), "the calibration file")
    by = calibration.plan.by
    return [Table([by or "", "alarm above", "review above"], rows, f"Thresholds by {by}", frozenset({1, 2}), note)]


def because(text: object) -> str:
    """Why an alarm is one (see explanation.py), in a line: the columns that added most to its score."""
    try:
        named = json.loads(text) if isinstance(text, str) and text else []
    except ValueError:
        named = []
    told = [f"{each['column']} = {short(each['value'], 40)} (+{each['adds']:.3g})" for each in named[:COLUMNS]]
    rest = f", {counted(len(named) - COLUMNS, 'more', 'more')}" if len(named) > COLUMNS else ""
    return short(", ".join(told), 300) + rest


def over_time(history: pd.DataFrame, what: str) -> list[Block]:
    """Batches that monitoring recorded (see monitoring/record.py), as a picture and the last ones in a table."""
    if history.empty:
        return [
            Text(f"No batch has been recorded for {what} yet: monitoring begins with the first one that is scored.")
        ]
    shown = history.tail(BATCHES)
    last = shown.iloc[-1]
    drifted, broken = (int(shown[name].astype(bool).sum()) for name in ("drift", "broken"))
    alt = f"{counted(len(shown), 'batch', 'batches')} of {what}: {last['says']}. "
    alt += f"Drift was found in {drifted}, a broken promise in {broken}."
    rows = [_batch(row) for row in shown.tail(LISTED).iloc[::-1].itertuples()]
    earlier = more(len(history), len(rows), "the database (make monitor)")
    headings = ["batch", "started", "samples", "alarms", "allowed", "martingale", "found"]
    return [
        Text(f"{last['says'][0].upper()}{last['says'][1:]}.", "bad" if last["drift"] or last["broken"] else "plain"),
        Chart(charts.drift(shown), alt, DRIFT),
        Table(headings, rows, "The last batches", frozenset({2, 3, 4, 5}), earlier),
    ]


def _batch(row: tuple) -> list[str]:
    found = ["drift"] * bool(row.drift) + ["promise broken"] * bool(row.broken)
    found += [] if found or row.warnings == "[]" else ["warning"]
    power = float(row.martingale)
    return [
        f"{row.number}: {short(row.batch, 40)}",
        row.started[:16].replace("T", " "),
        f"{row.samples:,}",
        *(NONE if pd.isna(value) else share(value) for value in (row.alarm_rate, row.allowed)),
        f"{10**power:.3g}" if abs(power) < 300 else f"1e{power:.0f}",
        ", ".join(found) or NONE,
    ]


def spread(name: str, scores: np.ndarray) -> str:
    """Scores in words: `52 normals from 0.1 to 0.4, half of them below 0.2`."""
    if not len(scores):
        return f"no {name}"
    low, middle, high = (f"{value:.4g}" for value in np.quantile(scores.astype(np.float64), (0, 0.5, 1)))
    return f"{len(scores):,} {name} from {low} to {high}, half of them below {middle}"
