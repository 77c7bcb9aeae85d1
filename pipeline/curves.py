"""The curves of candidates on one grid each, so that those of different runs lie over one another.

A report folder keeps the points of a curve as they came (`roc.csv`, `pr.csv`, `pro.csv`, see evaluation.py). Here they
become values at fixed steps, such as every percent of false alarms: what was reached there, never more.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Curve:
    """Columns `x` and `y` of NAME.csv, on a grid of every `apart` steps from 0 to `end`; `per` steps are 1.

    `at_most`: a value is the best that was reached up to its x; else the first that was reached from it on."""

    title: str
    x: str
    y: str
    end: float = 1.0
    per: int = 100
    apart: int = 1
    at_most: bool = True


CURVES = {
    "roc": Curve("ROC: detection rate over false-alarm rate", "false_alarm_rate", "detection_rate"),
    "pr": Curve("PR: precision over recall", "recall", "precision", at_most=False),
    "pro": Curve(
        "PRO: overlap of regions over false-alarm rate", "false_alarm_rate", "region_overlap", 0.3, 1000, apart=5
    ),
}


def read(report: Path) -> dict[str, pd.DataFrame]:
    """The curves that the report folder holds: `step` (int), `x`, `y`, one row per step of the grid."""
    found = {}
    for name, curve in CURVES.items():
        path = report / f"{name}.csv"
        if path.is_file():
            found[name] = on_grid(pd.read_csv(path), curve)
    return {name: rows for name, rows in found.items() if len(rows)}


def on_grid(points: pd.DataFrame, curve: Curve) -> pd.DataFrame:
    """`points` (of rising x) on the grid of `curve`; empty without a point."""
    steps = np.arange(0, round(curve.end * curve.per) + 1, curve.apart)
    x, y = points[curve.x].to_numpy(float), points[curve.y].to_numpy(float)
    grid = steps / curve.per
    if curve.at_most:  # the last point at or before each x
        at = np.searchsorted(x, grid + 1e-12, side="right") - 1
        known = at >= 0
        y = np.maximum.accumulate(y) if len(y) else y
    else:  # the first point at or after each x
        at = np.searchsorted(x, grid - 1e-12, side="left")
        known = at < len(x)
    rows = pd.DataFrame({"step": steps[known], "x": grid[known], "y": y[at[known]]})
    return rows.reset_index(drop=True)
