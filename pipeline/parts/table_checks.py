"""What a table must be to learn from, as Great Expectations checks."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types
from scipy.stats import rankdata

from pipeline.parts import free_texts, times
from pipeline.parts.table_files import plain
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN, Check
from pipeline.samples import presumed_normal

MISSING = 0.2  # share of missing values of a column above which a warning is given
TYPES = ["bool", "boolean", "str", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
TYPES += ["datetime64[us]"]
LEAK = 0.9999  # AUROC of a single column, or share of rows that it labels rightly, that gives the label away
ENOUGH = 10  # normals and anomalies each from which a leak is told from chance
ROWS = 20  # rows from which numbers that all differ are told from chance
WIDE = 50  # columns above which only those that fail are listed one by one


def suite(
    table: pd.DataFrame, rows: pd.DataFrame, rejected: int, asked: Mapping[str, str], least: int
) -> tuple[pd.DataFrame, list[Check]]:
    """The frame to check and its checks: `table` (n, d) are features, `rows` its manifest.

    Columns of facts, named `assay: ...`, stand beside the features: a fact about the whole table is the same in every
    row. `asked` are the columns that params name by what they are for, `least` the normals that a dataset needs."""
    label = rows["label"].to_numpy()
    dated = [name for name in table.columns if isinstance(table[name].dtype, pd.DatetimeTZDtype)]
    table = table.assign(**{name: table[name].dt.tz_convert(None) for name in dated})  # GX knows no others
    frame = pd.concat([rows[["id", "label"]].reset_index(drop=True), plain(table)], axis=1)
    normal, labelled = int(presumed_normal(label).sum()), int((label != UNKNOWN).sum())
    facts: dict[str, Any] = {"normals": normal, "anomalies": int((label == ANOMALOUS).sum()), "rejected": rejected}
    facts |= {"labelled": labelled, "unlabelled": 0 if (label == NORMAL).any() else normal}
    known = rows["label"].where(rows["label"] != UNKNOWN)
    facts["labels"] = known.groupby(rows["sha256"]).transform("nunique").to_numpy()
    facts["copies"] = rows.groupby(["sha256", "label"])["id"].transform("size").to_numpy()

    facts["infinite values"], endless = _endless(table)

    def between(fact: str, low: float | None, high: float | None, critical: bool, says: str) -> Check:
        options = {"column": f"assay: {fact}", "min_value": low, "max_value": high}
        each = isinstance(facts[fact], np.ndarray)
        return Check("ExpectColumnValuesToBeBetween" if each else "ExpectColumnMaxToBeBetween", options, critical, says)

    few = f"fewer than {least} rows are normal, or unlabelled where none is labelled normal (dataset.min_normals)"
    alone = (
        "no row is labelled normal, so unlabelled rows stand for normal: anomalies among them blur what is learned, and"
        " make the promised false-alarm rate stricter, not looser"
    )
    checks = [
        Check("ExpectColumnValuesToBeUnique", {"column": "id"}, True, "two rows have the same id"),
        between("normals", least, None, True, few),
        between("unlabelled", None, 0, False, alone),
        between("anomalies", 1, None, False, "no row is anomalous (label 1): nothing to evaluate on"),
        between("rejected", None, 0, False, "rows were quarantined (data/quarantine/rejected.csv says why)"),
        between("infinite values", None, 0, True, f"rows hold infinity in {', '.join(endless) or 'no column'}"),
        between("labels", None, 1, True, "rows with identical features have different labels"),
        between("copies", None, 1, False, "rows with the same label have identical features"),
    ]
    for role, name in asked.items():
        near = _near(name, table)
        if role == "id" or (role == "label" and name == "label" and not near):
            continue
        if role != "label":
            facts[role] = int((rows[role].notna() & (rows[role].astype("str") != "")).sum())
        mend = "; set dataset.label to null where there are no labels" if role == "label" else ""
        says = f"no row has a {role}: column {name!r} (dataset.{role}) is absent or empty{near}{mend}"
        checks.append(between("labelled" if role == "label" else role, 1, None, True, says))
    for name in table.columns:
        checks += _column(table[name], len(table.columns) > WIDE)
    for name in table.columns:
        if (odd := _tells(table[name], label)) is not None:
            fact, value, most, critical, says = odd
            facts[fact] = value
            checks.append(between(fact, None, most, critical, says))
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
            f"column {name!r} must hold numbers, booleans, texts or dates",
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


def _tells(column: pd.Series, label: np.ndarray) -> tuple[str, float, float, bool, str] | None:
    """What is wrong with a feature that names its row, or tells the label: a fact, its value, the most that it may be,
    whether that is critical, and what it says; None for a sound one."""
    name, place = column.name, identifies(column)
    leak = gives_away(column if place is None else pd.Series(place), label)
    told = leak is not None and leak >= LEAK
    if place is None:
        says = f"column {name!r} alone tells the label: name it in dataset.drop unless it is known before the label is"
        return (f"leak {name}", leak, LEAK, not types.is_float_dtype(column.dtype), says) if told else None
    different = column.nunique()
    unlearnable = isinstance(column.dtype, pd.CategoricalDtype) and different > free_texts.MOST_TEXTS
    mend = "dataset.time" if types.is_datetime64_any_dtype(column.dtype) else "dataset.id"
    why = ", and it tells the label, as in a file where anomalies come last" if told else ""
    says = f"column {name!r} differs from row to row as an identifier does{why}: name it as {mend} or in dataset.drop"
    return f"identifier {name}", different, 0, told or unlearnable, says


def _endless(table: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """How many infinite values each row holds, int `(n,)`, and the columns that hold any."""
    numbers = table.select_dtypes("number")
    endless = (
        np.isinf(numbers.to_numpy(np.float64, na_value=np.nan)) if len(numbers.columns) else np.zeros((len(table), 0))
    )
    return endless.sum(axis=1).astype(np.int64), [
        str(c) for c, odd in zip(numbers, endless.any(axis=0), strict=True) if odd
    ]


def identifies(column: pd.Series) -> np.ndarray | None:
    """Which place each row has by a column that is an identifier, float64 `(n,)`; None for other columns.

    Identifiers are whole numbers that all differ and only rise, only fall, or leave few out (such as numbers dealt
    out, then shuffled); dates that all differ and only rise or fall; and short texts of which nearly all differ."""
    known = column.dropna()
    if len(known) < ROWS:
        return None
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = sorted(str(text) for text in known.unique())
        if len(levels) <= free_texts.UNIQUE * len(known) or free_texts.median_words(levels) >= free_texts.WORDS:
            return None
        return column.cat.codes.to_numpy(np.float64)  # categories are sorted
    dates = types.is_datetime64_any_dtype(column.dtype)
    if len(known) < len(column) or types.is_bool_dtype(column.dtype) or not known.is_unique:
        return None
    values = times.microseconds(column) if dates else column.to_numpy(np.float64)
    steps = np.diff(values)
    ordered = bool((steps > 0).all() or (steps < 0).all())
    if dates:
        return values.astype(np.float64) if ordered else None
    whole = bool((values % 1 == 0).all())
    return values if whole and (ordered or np.ptp(values) < 2 * len(values)) else None


def gives_away(column: pd.Series, label: np.ndarray) -> float | None:
    """How well one column alone tells the known labels, 0.5 to 1; None with too few of either kind.

    The AUROC of numbers or dates in the better direction, or, for texts, the share of rows right when each value that
    comes more than once stands for its commoner label (a value that comes once counts half)."""
    known = (label == NORMAL) | (label == ANOMALOUS)
    anomalous = label[known] == ANOMALOUS
    n, bad = len(anomalous), int(anomalous.sum())
    if min(bad, n - bad) < ENOUGH:
        return None
    values = column[known].reset_index(drop=True)
    if types.is_datetime64_any_dtype(values.dtype):
        values = pd.Series(times.microseconds(values))
    if types.is_numeric_dtype(values.dtype):
        ranks = rankdata(values.to_numpy(np.float64, na_value=-np.inf))
        area = (ranks[anomalous].sum() - bad * (bad + 1) / 2) / (bad * (n - bad))
        return float(max(area, 1 - area))
    texts = values.astype(object).where(values.notna(), None)
    counts = pd.crosstab(texts.fillna("").to_numpy(), anomalous)
    single = counts.sum(axis=1) == 1
    return float((counts.max(axis=1).where(~single, 0.5)).sum() / n)
