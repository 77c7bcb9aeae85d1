"""The encoder of a table: a DataFrame in, a float32 matrix out, always with the columns it was fitted on.

Numbers are standardised and missing ones replaced by the median; booleans become 0 and 1; texts become one
column per value seen in `fit` (one-hot), all zeros for a missing value or one never seen; free texts become a few
numbers (see free_texts.py), all zeros for a missing one; dates become days, time of day and day of the week (see
times.py). A missing value is never odd by itself: a column that tells whether there was one is for the source to add.
(Such columns for all were tried: they drown the others when values are missing at random.)
"""

from typing import Any, Self

import numpy as np
import pandas as pd
from pandas.api import types

from pipeline.errors import DataError, NotFittedError
from pipeline.parts import free_texts, times
from pipeline.parts.free_texts import MOST_TEXTS
from pipeline.parts.standard import moments

NUMBER, BOOLEAN, TEXT, FREE, TIME = "number", "boolean", "text", "free text", "time"


def kind(column: pd.Series) -> str | None:
    """`number`, `boolean`, `text` (a category or free text) or `time`; None for a column in which every value is
    missing.

    Raises DataError for anything else, such as lists, or texts among numbers."""
    dtype = column.dtype
    if types.is_bool_dtype(dtype):
        return BOOLEAN
    if types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype):
        return None if column.isna().all() else NUMBER
    if not column.notna().any():
        return None
    if isinstance(dtype, pd.StringDtype):
        return TEXT
    values = column.cat.categories if isinstance(dtype, pd.CategoricalDtype) else column
    inferred = types.infer_dtype(values, skipna=True)
    if inferred in {"string", "empty"}:
        return TEXT
    if inferred == "boolean":
        return BOOLEAN
    if inferred in {"integer", "floating", "mixed-integer-float", "decimal"}:
        return NUMBER
    if inferred in {"datetime64", "datetime", "date"}:
        return TIME
    raise DataError(f"column {column.name!r} must hold numbers, booleans, texts or dates, got {inferred} values")


def names(frame: pd.DataFrame) -> list[str]:
    """The column names as texts. Raises DataError when one comes twice."""
    listed = [str(name) for name in frame.columns]
    twice = [name for name in dict.fromkeys(listed) if listed.count(name) > 1] if len(set(listed)) < len(listed) else []
    if twice:
        raise DataError(f"column names must be unique, got {twice[0]!r} {listed.count(twice[0])} times")
    return listed


def _numbers(column: pd.Series, name: str) -> np.ndarray:
    """float64 `(n,)` with NaN for missing values. Raises DataError for infinity."""
    values = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
    numbers = values.to_numpy(np.float64, na_value=np.nan)
    endless = np.flatnonzero(np.isinf(numbers))
    if len(endless):
        raise DataError(f"column {name!r} must hold finite numbers, got {numbers[endless[0]]} in row {endless[0] + 1}")
    return numbers


class Columns:
    """The encoder of one table's columns. `features_` names the k columns of its matrix."""

    def fit(self, frame: pd.DataFrame) -> Self:
        """Learn kinds, medians, means, deviations and texts of `frame` (n, d).

        Raises DataError for no rows, no columns, names that come twice, infinity, identifiers, or what has no kind."""
        if not len(frame) or not len(frame.columns):
            raise DataError(f"a table needs at least one row and one column to learn from, got {frame.shape}")
        listed = names(frame)
        self.columns_ = [_learn(frame.iloc[:, position], name) for position, name in enumerate(listed)]
        return self

    @property
    def features_(self) -> list[str]:
        """The names of the k encoded columns: `name`, `name=text` for one-hot ones, `name:part` for dates and free
        texts."""
        return [feature for c in self._fitted() for feature in _features(c)]

    @property
    def names_(self) -> list[str]:
        """The names of the c columns that the encoder takes."""
        return [c["name"] for c in self._fitted()]

    @property
    def owners_(self) -> np.ndarray:
        """Which of the c columns each of the k encoded ones belongs to: int `(k,)`."""
        widths = [len(_features(c)) for c in self._fitted()]
        return np.repeat(np.arange(len(widths)), widths)

    @property
    def typical_(self) -> dict[str, float | bool | str | pd.Timestamp]:
        """A value of each column that nothing is odd about: the median of training, its commonest text, or the free
        text nearest to the middle of all."""
        of = {NUMBER: lambda c: c["median"], BOOLEAN: lambda c: c["median"] > 0.5, TIME: times.typical}
        return {c["name"]: of[c["kind"]](c) if c["kind"] in of else c["typical"] for c in self._fitted()}

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """float32 `(n, k)`; the frame's columns may come in any order.

        Raises DataError naming the column that is missing, unknown, of another kind, or infinite."""
        learned = self._fitted()
        came = names(frame)
        wanted = [c["name"] for c in learned]
        if missing := sorted(set(wanted) - set(came)):
            raise DataError(f"column {missing[0]!r} is missing; the model was trained on {', '.join(wanted)}")
        if extra := sorted(set(came) - set(wanted)):
            raise DataError(f"column {extra[0]!r} is unknown; the model was trained on {', '.join(wanted)}")
        places = {name: position for position, name in enumerate(came)}
        ends = np.cumsum([len(_features(c)) for c in learned])
        encoded = np.empty((len(frame), ends[-1] if len(ends) else 0), np.float32)
        for c, start, end in zip(learned, [0, *ends], ends, strict=False):
            _encode(frame.iloc[:, places[c["name"]]], c, encoded[:, start:end])
        return encoded

    def _fitted(self) -> list[dict[str, Any]]:
        if not hasattr(self, "columns_"):
            raise NotFittedError("Columns.fit must be called first")
        return self.columns_

    def meta(self) -> list[dict[str, Any]]:
        """The fitted state as plain JSON values; Python writes floats so that they read back to the same bits."""
        return self._fitted()

    def from_meta(self, meta: list[dict[str, Any]]) -> Self:
        """Take over what `meta()` gave."""
        self.columns_ = [dict(learned) for learned in meta]
        return self


def _learn(column: pd.Series, name: str) -> dict[str, Any]:
    """All that is kept of one column, as plain JSON values."""
    found = kind(column) or NUMBER
    if found == TEXT:
        return {"name": name, **_learn_texts(column, name)}
    if found == TIME:
        return {"name": name, "kind": found, **times.learn(column)}
    numbers = _numbers(column, name)
    known = numbers[~np.isnan(numbers)]
    median = float(np.median(known)) if len(known) else 0.0
    filled = np.where(np.isnan(numbers), median, numbers)
    mean, deviation = (0.0, 1.0) if found == BOOLEAN else moments(filled)
    return {"name": name, "kind": found, "median": median, "mean": mean, "deviation": deviation}


def _learn_texts(column: pd.Series, name: str) -> dict[str, Any]:
    codes, texts = free_texts.split(column)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    found = free_texts.role(texts, int(counts.sum()))
    if found == "identifier":
        raise DataError(
            f"column {name!r} must hold at most {MOST_TEXTS} different texts to be a category, got {len(texts)}, nearly"
            " one for each row: an identifier tells nothing; name it in dataset.drop"
        )
    if found == "free text":
        return {"kind": FREE, **free_texts.learn(codes, texts)}
    commonest = min(text for text, count in zip(texts, counts, strict=True) if count == counts.max())
    return {"kind": TEXT, "levels": sorted(texts), "typical": commonest}


def _features(learned: dict[str, Any]) -> list[str]:
    """The encoded columns of one column."""
    if learned["kind"] == TEXT:
        return [f"{learned['name']}={level}" for level in learned["levels"]]
    parts = {FREE: free_texts.names, TIME: times.names}
    return parts[learned["kind"]](learned) if learned["kind"] in parts else [learned["name"]]


def _encode(column: pd.Series, learned: dict[str, Any], out: np.ndarray) -> None:
    """Fill `out`, float32 (n, features of this column). Raises DataError for another kind, or numbers too large."""
    name, wanted, came = learned["name"], learned["kind"], kind(column)
    if wanted == TIME and came == TEXT and (read := times.written(column)) is not None:
        column, came = read, TIME  # dates come as texts where a batch comes as JSON
    whole = types.is_integer_dtype(column.dtype)  # codes that look like numbers in one batch are texts still
    fits = came in {wanted, None} or (wanted == FREE and came == TEXT) or (wanted == TEXT and whole)
    if not fits:
        raise DataError(f"column {name!r} must hold {wanted}s as in training, got {came}s")
    if wanted == TEXT:
        _one_hot(column, learned["levels"], out)
        return
    with np.errstate(over="ignore"):
        if wanted == FREE:
            out[:] = free_texts.encode(*free_texts.split(column), learned)
        elif wanted == TIME:
            out[:] = times.encode(column, learned)
        else:
            numbers = _numbers(column, name)
            filled = np.where(np.isnan(numbers), learned["median"], numbers)
            out[:, 0] = (filled - learned["mean"]) / learned["deviation"]
    if not np.isfinite(out).all():
        raise DataError(f"column {name!r} holds a number too far from training to compute with")


def _one_hot(column: pd.Series, levels: list[str], out: np.ndarray) -> None:
    """1 in the column of each row's level; nothing for a missing value or one that is no level."""
    codes, texts = free_texts.split(column)
    place = {level: position for position, level in enumerate(levels)}
    chosen = np.array([*(place.get(text, -1) for text in texts), -1])[codes]
    rows = np.flatnonzero(chosen >= 0)
    out[:] = 0
    out[rows, chosen[rows]] = 1
