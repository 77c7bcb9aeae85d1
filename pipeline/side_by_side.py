"""What all candidates of a line came to, in files whose names and columns line up: for `dvc metrics` and `dvc plots`.

DVC's lists of metrics and plots cannot be written for each candidate of a line, so these files hold all of them.
"""

import json
from pathlib import Path

import pandas as pd

from pipeline import curves
from pipeline.errors import LineError
from pipeline.files import write_json
from pipeline.params import Params
from pipeline.stages import CANDIDATES


def write(params: Params, line: Path, out: Path) -> list[str]:
    """Fill the folder `out`; the names of the candidates.

    `metrics/NAME.json`: the figures of a candidate without those of single defects, groups or severities;
    `curves.csv`: candidate, curve, step, x, y; `histogram.csv`: candidate, class, low, high, count, share (of the
    class). Raises LineError for a candidate without a report."""
    names = list(params.candidates)
    points, bins = [], []
    for name in names:
        report = line / CANDIDATES / name
        if not (report / "metrics.json").is_file():
            raise LineError(
                f"{report / 'metrics.json'} is needed to compare {name} and is missing; run dvc repro first"
            )
        found = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
        write_json(out / "metrics" / f"{name}.json", {key: value for key, value in found.items() if "." not in key})
        for curve, rows in curves.read(report).items():
            points.append(rows.assign(candidate=name, curve=curves.CURVES[curve].title))
        bins += _bins(report, name)
    _table(points, ["candidate", "curve", "step", "x", "y"], out / "curves.csv")
    _table(bins, ["candidate", "class", "low", "high", "count", "share"], out / "histogram.csv")
    return names


def _bins(report: Path, name: str) -> list[pd.DataFrame]:
    path = report / "histogram.csv"
    if not path.is_file():
        return []
    rows = pd.read_csv(path)
    found = []
    for kind in ("normal", "anomalous"):
        if rows[kind].sum():
            known = rows.assign(candidate=name, count=rows[kind], share=rows[kind] / rows[kind].sum())
            found.append(known.assign(**{"class": kind}))
    return found


def _table(parts: list[pd.DataFrame], columns: list[str], path: Path) -> None:
    """A CSV file with equal bytes for equal rows; one empty row where there is none, since DVC cannot plot no row."""
    rows = pd.concat(parts)[columns] if parts else pd.DataFrame([dict.fromkeys(columns)])
    rows.round(9).to_csv(path, index=False, lineterminator="\n")
