"""What a table must be to learn from, as Great Expectations checks."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types
from scipy.stats import rankdata

from pipeline.parts.table_files import plain
from pipeline.protocols import ANOMALOUS, NORMAL, Check

MISSING = 0.2  # share of missing values of a column above which a warning is given
TYPES = ["bool", "boolean", "str", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
LEAK = 0.9999  # AUROC of a single column, or share of rows that it labels rightly, that gives the label away
ENOUGH = 10  # normals and anomalies each from which a leak is told from chance
WIDE = 50  # columns above which only those that fail are listed one by one


def suite(
    table: pd.DataFrame, rows: pd.DataFrame, rejected: int, asked: Mapping[str, str], least: int
) -> tuple[pd.DataFrame, list[Check]]:
    """The frame to check and its checks: `table` (n, d) are features, `rows` its manifest.

    Columns of facts, named `assay: ...`, stand beside the features: a fact about the whole table is the same in every
    row. `asked` are the columns that params name by what they are for, `least` the normals that a dataset needs."""
    label = rows["label"].to_numpy()
    frame = pd.concat([rows[["id", "label"]].reset_index(drop=True), plain(table)], axis=1)
    facts: dict[str, Any] = {"normals": int((label == NORMAL).sum()), "anomalies": int((label == ANOMALOUS).sum())}
    facts["rejected"] = rejected
    same = rows.groupby("sha256")["label"]
    facts["labels"] = same.transform("nunique").to_numpy()
    facts["copies"] = rows.groupby(["sha256", "label"])["id"].transform("size").to_numpy()

    facts["infinite values"], endless = _endless(table)

    def between(fact: str, low: float | None, high: float | None, critical: bool, says: str) -> Check:
        options = {"column": f"assay: {fact}", "min_value": low, "max_value": high}
        each = isinstance(facts[fact], np.ndarray)
        return Check("ExpectColumnValuesToBeBetween" if each else "ExpectColumnMaxToBeBetween", options, critical, says)

    near = _near(asked.get("label"), table)
    few = f"fewer than {least} rows are normal (dataset.label {asked.get('label')!r}{near}; dataset.min_normals)"
    checks = [
        Check("ExpectColumnValuesToBeUnique", {"column": "id"}, True, "two rows have the same id"),
        between("normals", least, None, True, few),
        between("anomalies", 1, None, False, "no row is anomalous (label 1): nothing to evaluate on"),
        between("rejected", None, 0, False, "rows were quarantined (data/quarantine/rejected.csv says why)"),
        between("infinite values", None, 0, True, f"rows hold infinity in {', '.join(endless) or 'no column'}"),
        between("labels", None, 1, True, "rows with identical features have different labels"),
        between("copies", None, 1, False, "rows with the same label have identical features"),
    ]
    for role, name in asked.items():
        if role in ("id", "label"):
            continue
        facts[role] = int((rows[role].notna() & (rows[role].astype("str") != "")).sum())
        says = f"no row has a {role}: column {name!r} (dataset.{role}) is absent or empty{_near(name, table)}"
        checks.append(between(role, 1, None, True, says))
    for name in table.columns:
        checks += _column(table[name], len(table.columns) > WIDE)
    for name in table.columns:
        leak = gives_away(table[name], label)
        measured = types.is_float_dtype(table[name].dtype)
        says = f"column {name!r} alone tells the label: name it in dataset.drop unless it is known before the label is"
        if leak is not None and leak >= LEAK:
            facts[f"leak {name}"] = leak
            checks.append(between(f"leak {name}", None, LEAK, not measured, says))
    return frame.assign(**{f"assay: {name}": value for name, value in facts.items()}), checks


def _near(name: str | None, table: pd.DataFrame) -> str:
    near = get_close_matches(name, [str(c) for c in table.columns], n=2) if name else []
    return f", did you mean {' or '.join(map(repr, near))}?" if near else ""


def _column(column: pd.Series, failing_only: bool) -> list[Check]:
    """The checks of one feature: its type, missing values, more than one value."""
    name, options = column.name, {"column": column.name}
    found = [
        (
            isinstance(column.dtype, pd.CategoricalDtype) or str(column.dtype) in TYPES,
            "ExpectColumnValuesToBeInTypeList",
            {**options, "type_list": TYPES},
            True,
            f"column {name!r} must hold numbers, booleans or texts",
        ),
        (
            not column.isna().mean() > MISSING,
            "ExpectColumnValuesToNotBeNull",
            {**options, "mostly": 1 - MISSING},
            False,
            f"column {name!r} misses more than {MISSING:.0%} of its values",
        ),
        (
            column.nunique() > 1,
            "ExpectColumnUniqueValueCountToBeBetween",
            {**options, "min_value": 2},
            False,
            f"column {name!r} holds only one value",
        ),
    ]
    return [Check(*check) for passes, *check in found if not (failing_only and passes)]


def _endless(table: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """How many infinite values each row holds, int `(n,)`, and the columns that hold any."""
    numbers = table.select_dtypes("number")
    endless = (
        np.isinf(numbers.to_numpy(np.float64, na_value=np.nan)) if len(numbers.columns) else np.zeros((len(table), 0))
    )
    return endless.sum(axis=1).astype(np.int64), [
        str(c) for c, odd in zip(numbers, endless.any(axis=0), strict=True) if odd
    ]


def gives_away(column: pd.Series, label: np.ndarray) -> float | None:
    """How well one column alone tells the known labels, 0.5 to 1; None with too few of either kind.

    The AUROC of numbers in the better direction, or, for texts, the share of rows right when each value that comes
    more than once stands for its commoner label (a value that comes once counts half)."""
    known = (label == NORMAL) | (label == ANOMALOUS)
    anomalous = label[known] == ANOMALOUS
    n, bad = len(anomalous), int(anomalous.sum())
    if min(bad, n - bad) < ENOUGH:
        return None
    values = column[known].reset_index(drop=True)
    if types.is_numeric_dtype(values.dtype):
        ranks = rankdata(values.to_numpy(np.float64, na_value=-np.inf))
        area = (ranks[anomalous].sum() - bad * (bad + 1) / 2) / (bad * (n - bad))
        return float(max(area, 1 - area))
    texts = values.astype(object).where(values.notna(), None)
    counts = pd.crosstab(texts.fillna("").to_numpy(), anomalous)
    single = counts.sum(axis=1) == 1
    return float((counts.max(axis=1).where(~single, 0.5)).sum() / n)
