"""The encoder of a table: a DataFrame in, a float32 matrix out, always with the columns it was fitted on.

Numbers are standardised and missing ones replaced by the median; booleans become 0 and 1; texts become one
column per value seen in `fit` (one-hot), all zeros for a missing value or one never seen.
"""

from typing import Any, Self

import numpy as np
import pandas as pd
from pandas.api import types

from pipeline.errors import DataError, NotFittedError

NUMBER, BOOLEAN, TEXT = "number", "boolean", "text"
MOST_TEXTS = 1000  # values of one text column; more than that is an identifier, not a category


def kind(column: pd.Series) -> str | None:
    """`number`, `boolean` or `text`; None for a column in which every value is missing.

    Raises DataError for anything else, such as dates or lists."""
    dtype = column.dtype
    if types.is_bool_dtype(dtype):
        return BOOLEAN
    if types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype):
        return None if column.isna().all() else NUMBER
    values = column.cat.categories if isinstance(dtype, pd.CategoricalDtype) else column
    inferred = types.infer_dtype(values, skipna=True)
    if inferred in {"string", "empty"}:
        return TEXT if column.notna().any() else None
    if inferred == "boolean":
        return BOOLEAN
    if inferred in {"integer", "floating", "mixed-integer-float", "decimal"}:
        return NUMBER
    raise DataError(f"column {column.name!r} must hold numbers, booleans or texts, got {inferred} values")


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


def _texts(column: pd.Series) -> np.ndarray:
    """object `(n,)` of str, None for missing values."""
    return column.astype(object).where(column.notna(), None).to_numpy()


class Columns:
    """The encoder of one table's columns. `features_` names the k columns of its matrix."""

    def fit(self, frame: pd.DataFrame) -> Self:
        """Learn kinds, medians, means, deviations and texts of `frame` (n, d).

        Raises DataError for no rows, no columns, names that come twice, infinity, or what has no kind."""
        if not len(frame) or not len(frame.columns):
            raise DataError(f"a table needs at least one row and one column to learn from, got {frame.shape}")
        learned: list[dict[str, Any]] = []
        for position, name in enumerate(names(frame)):
            column = frame.iloc[:, position]
            found = kind(column) or NUMBER
            if found == TEXT:
                levels = sorted(set(_texts(column)) - {None})
                if len(levels) > MOST_TEXTS:
                    raise DataError(
                        f"column {name!r} must hold at most {MOST_TEXTS} different texts to be a category, got "
                        f"{len(levels)}; name it in dataset.drop"
                    )
                commonest = column.astype("str")[column.notna()].mode().iloc[0]
                learned.append({"name": name, "kind": found, "levels": levels, "typical": commonest})
                continue
            numbers = _numbers(column, name)
            known = numbers[~np.isnan(numbers)]
            median = float(np.median(known)) if len(known) else 0.0
            filled = np.where(np.isnan(numbers), median, numbers)
            mean, deviation = (0.0, 1.0) if found == BOOLEAN else _moments(filled)
            learned.append({"name": name, "kind": found, "median": median, "mean": mean, "deviation": deviation})
        self.columns_ = learned
        return self

    @property
    def features_(self) -> list[str]:
        """The names of the k encoded columns: `name`, or `name=text` for one-hot ones."""
        return [
            feature
            for c in self._fitted()
            for feature in ([f"{c['name']}={level}" for level in c["levels"]] if c["kind"] == TEXT else [c["name"]])
        ]

    @property
    def names_(self) -> list[str]:
        """The names of the c columns that the encoder takes."""
        return [c["name"] for c in self._fitted()]

    @property
    def owners_(self) -> np.ndarray:
        """Which of the c columns each of the k encoded ones belongs to: int `(k,)`."""
        widths = [len(c["levels"]) if c["kind"] == TEXT else 1 for c in self._fitted()]
        return np.repeat(np.arange(len(widths)), widths)

    @property
    def typical_(self) -> dict[str, float | bool | str]:
        """A value of each column that nothing is odd about: the median of training, or its commonest text."""
        of = {TEXT: lambda c: c["typical"], BOOLEAN: lambda c: c["median"] > 0.5, NUMBER: lambda c: c["median"]}
        return {c["name"]: of[c["kind"]](c) for c in self._fitted()}

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
        encoded = [self._encode(frame.iloc[:, places[c["name"]]], c) for c in learned]
        return np.concatenate(encoded, axis=1) if encoded else np.zeros((len(frame), 0), np.float32)

    def _encode(self, column: pd.Series, learned: dict[str, Any]) -> np.ndarray:
        """float32 `(n, levels)` or `(n, 1)`."""
        name, wanted, came = learned["name"], learned["kind"], kind(column)
        whole = types.is_integer_dtype(column.dtype)  # codes that look like numbers in one batch are texts still
        if came not in {wanted, None} and not (wanted == TEXT and whole):
            raise DataError(f"column {name!r} must hold {wanted}s as in training, got {came}s")
        if wanted == TEXT:
            texts = np.array([None if text is None else str(text) for text in _texts(column)], dtype=object)
            return (texts[:, None] == np.array(learned["levels"], dtype=object)[None, :]).astype(np.float32)
        numbers = _numbers(column, name)
        filled = np.where(np.isnan(numbers), learned["median"], numbers)
        scaled = (filled - learned["mean"]) / learned["deviation"]
        with np.errstate(over="ignore"):
            narrow = scaled.astype(np.float32)
        if not np.isfinite(narrow).all():
            raise DataError(f"column {name!r} holds a number too far from training to compute with")
        return narrow[:, None]

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


def _moments(numbers: np.ndarray) -> tuple[float, float]:
    """Mean and deviation; deviation 1 for a constant column. Scaled by the largest value, so that none overflows."""
    largest = float(np.abs(numbers).max())
    if largest == 0 or numbers.min() == numbers.max():
        return float(numbers[0]), 1.0
    unit = numbers / largest
    return float(unit.mean() * largest), float(unit.std() * largest) or 1.0
