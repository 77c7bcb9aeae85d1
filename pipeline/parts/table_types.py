"""Which type a column of a table has: decided over all of its rows, also where these come bit by bit, then applied.

The rows of one part of a file get the type of the whole file, however they would look by themselves.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.api import types

from pipeline.parts import times
from pipeline.parts.columns import BOOLEAN, NUMBER, TEXT, TIME, kind

MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")  # texts of a CSV file that stand for a missing value
INTEGER, MOSTLY = "integer", "mostly numbers"  # kinds of a CSV column besides those of columns.py
SPELLINGS = 48  # ways to write true and false in small and capital letters


@dataclass(frozen=True)
class Decided:
    """What the values of a whole column together say about each: its kind, and whether a value is missing.

    `witness`, as text, is a value that decides how all are written: a number with decimals, the most exact date."""

    kind: str | None = None
    gaps: bool = False
    witness: str = ""

    def meta(self) -> dict[str, Any]:
        """As plain JSON values; `Decided(**meta)` is equal."""
        return asdict(self)


class Texts:
    """Decides for a column of texts, as CSV files hold them: numbers when more than half of its values are numbers,
    booleans when all are `true` or `false`, dates when all are dates in ISO 8601, else categories."""

    def __init__(self) -> None:
        self._fits = {INTEGER, NUMBER, BOOLEAN, TIME}
        self._gaps = False
        self._known = self._bad = 0

    def add(self, column: pa.Array | pa.ChunkedArray) -> Self:
        """Count in some rows."""
        value = _values(column)
        self._gaps |= value.null_count > 0
        known = len(value) - value.null_count
        if known:
            fits, bad = self._found(value.drop_null())
            self._fits &= fits
            self._known, self._bad = self._known + known, self._bad + bad
        return self

    def _found(self, value: pa.Array | pa.ChunkedArray) -> tuple[set[str], int]:
        """The kinds that all of these values, none missing, fit into, and how many are no numbers."""
        fits = {INTEGER} if INTEGER in self._fits and _cast(value, pa.int64()) is not None else set()
        numbers = _cast(value, pa.float64())
        if numbers is not None:
            fits.add(NUMBER)
            if not pc.any(pc.is_nan(numbers)).as_py():
                return fits, 0
        counts = pc.value_counts(value)
        levels = counts.field("values")
        if len(levels) <= SPELLINGS and set(pc.utf8_lower(levels).to_pylist()) <= {"true", "false"}:
            fits.add(BOOLEAN)
        if TIME in self._fits and times.written(levels.to_pandas()) is not None:
            fits.add(TIME)
            return fits, len(value)
        odd = np.isnan(_numbers(levels))
        return fits, int(counts.field("counts").to_numpy()[odd].sum())

    def decided(self) -> Decided:
        """The verdict over all rows so far."""
        for found in (INTEGER, NUMBER, BOOLEAN, TIME):
            if found in self._fits:
                return Decided(found, self._gaps)
        return Decided(MOSTLY if self._bad * 2 < self._known else TEXT, self._gaps)


class Typed:
    """Decides for a column that has a type already, as Parquet files hold them: its kind where it is a `feature`, a
    witness where its values are `written`."""

    def __init__(self, feature: bool = True, written: bool = False) -> None:
        self._feature, self._written = feature, written
        self._found = Decided()

    def add(self, column: pd.Series) -> Self:
        """Count in some rows. Raises DataError for what is no usable kind of feature."""
        old = self._found
        found = kind(column) if self._feature and old.kind is None else old.kind
        gaps = old.gaps or bool(column.isna().any())
        self._found = Decided(found, gaps, _witness(column, old.witness) if self._written else "")
        return self

    def decided(self) -> Decided:
        """The verdict over all rows so far."""
        return self._found


def feature(column: pd.Series, texts: bool, decided: Decided | None = None) -> tuple[pd.Series, np.ndarray]:
    """A column with its type, and the rows, bool `(n,)`, whose text does not fit into it.

    Numbers become float64, or stay integers where none is missing; booleans stay; dates become those of UTC; texts
    become categories. What is not `decided` is decided over these rows, see Texts."""
    none = np.zeros(len(column), bool)
    if texts:
        value = pa.array(column, pa.string())
        return _from_texts(_values(value), decided or Texts().add(value).decided(), none)
    whole = decided or Typed().add(column).decided()
    if whole.kind == NUMBER and types.is_integer_dtype(column.dtype) and not whole.gaps:
        return column.astype(column.dtype.name.lower()), none
    if whole.kind == BOOLEAN:
        return column.astype("boolean" if whole.gaps else "bool"), none
    if whole.kind == TIME:
        return times.dates(column), none
    if whole.kind in {NUMBER, None}:
        return pd.Series(column.to_numpy(np.float64, na_value=np.nan), name=column.name), none
    return _category(column), none


def as_whole(column: pd.Series, decided: Decided) -> pd.Series:
    """Rows of a typed column as pandas would have read them with all the others: where values are missing, integers
    are floats and booleans are objects."""
    if not decided.gaps or not isinstance(column.dtype, np.dtype):
        return column
    return column.astype({"i": np.float64, "u": np.float64, "b": object}.get(column.dtype.kind, column.dtype))


def texts(column: pd.Series, witness: str = "") -> pd.Series:
    """Values as text, "" for missing ones; whole numbers without decimals, so that 1, 1.0 and "1" are one.

    How exactly numbers and dates are written depends on all of them, or on the `witness` of a larger whole."""
    if witness:
        more = pd.Series([witness]).astype(column.dtype)
        return texts(pd.concat([column, more], ignore_index=True)).iloc[:-1].set_axis(column.index)
    if types.is_float_dtype(column.dtype) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return column.astype("str").fillna("").str.strip()


def _witness(column: pd.Series, before: str) -> str:
    """The value that says the most about how to write all values of a column of numbers or dates; "" for others."""
    known = column.dropna()
    if types.is_float_dtype(column.dtype):
        odd = known[known % 1 != 0]
        return before or (repr(float(odd.iloc[0])) if len(odd) else "")
    dates = isinstance(column.dtype, np.dtype | pd.DatetimeTZDtype) and column.dtype.kind == "M"
    if not dates or not len(known):
        return before
    told = [*([pd.Timestamp(before)] if before else []), *known]
    return max(told, key=_exactness).isoformat()


def _exactness(date: pd.Timestamp) -> int:
    """How small the smallest unit is that a date needs: 0 for days, 1 for seconds, more for their decimals."""
    rest = date.microsecond * 1000 + date.nanosecond
    decimals = len(f"{rest:09d}".rstrip("0"))
    return 1 + decimals if rest else int(date != date.normalize())


def _values(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Texts without blanks around them, null where one stands for a missing value."""
    stripped = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(stripped, pa.array(MISSING)), pa.scalar(None, pa.string()), stripped)


def _cast(value: pa.Array | pa.ChunkedArray, dtype: pa.DataType) -> pa.Array | pa.ChunkedArray | None:
    """The texts as numbers; None when one is no number."""
    try:
        return value.cast(dtype)
    except pa.ArrowInvalid:
        return None


def _numbers(value: pa.Array) -> np.ndarray:
    """float64 `(n,)`, NaN for a text that is no number."""
    return pd.to_numeric(value.to_pandas(), errors="coerce").to_numpy(np.float64)


def _from_texts(value: pa.Array, decided: Decided, none: np.ndarray) -> tuple[pd.Series, np.ndarray]:
    if decided.kind in {INTEGER, NUMBER}:
        whole = decided.kind == INTEGER
        numbers = value.cast(pa.int64() if whole else pa.float64()).to_numpy(zero_copy_only=False)
        return pd.Series(numbers.astype(np.int64 if whole and not decided.gaps else np.float64)), none
    if decided.kind == BOOLEAN:
        booleans = pc.equal(pc.utf8_lower(value), "true").to_pandas()
        return booleans.astype("boolean" if decided.gaps else "bool"), none
    if decided.kind == TIME:
        dates = times.written(value.to_pandas())
        return pd.Series(pd.NaT, index=range(len(value)), dtype=times.DTYPE) if dates is None else dates, none
    if decided.kind == MOSTLY:
        numbers = _numbers(value)
        return pd.Series(numbers), np.isnan(numbers) & value.is_valid().to_numpy(zero_copy_only=False)
    return _category(value.to_pandas()), none


def _category(column: pd.Series) -> pd.Series:
    values = column.astype(object).where(column.notna(), None)
    levels = pd.Index(sorted(set(values) - {None}), dtype="str")  # also where there is none
    return pd.Series(pd.Categorical(values, categories=levels), name=column.name)
