"""Tables on disk: CSV, Parquet and NPZ files as typed columns, with every row that cannot be used told apart."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.api import types

from pipeline.errors import DataError
from pipeline.parts import times
from pipeline.parts.columns import BOOLEAN, NUMBER, TIME, kind

SUFFIXES = (".csv", ".parquet", ".npz")
MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")  # texts of a CSV file that stand for a missing value


@dataclass
class Raw:
    """A table as it came. `columns` are texts where `texts`; `number` is each row's number in the file, from 1.

    `rejected` are rows that do not even have the right number of fields: number, reason, the row itself."""

    columns: dict[str, pd.Series]
    number: np.ndarray
    texts: bool
    rejected: list[tuple[int, str, str]] = field(default_factory=list)

    def line(self, position: int) -> str:
        """One row as readable text, for the quarantine."""
        row = {name: column.iloc[position] for name, column in self.columns.items()}
        return json.dumps({k: None if pd.isna(v) else v for k, v in row.items()}, default=str, ensure_ascii=False)


def find(source: Path) -> Path:
    """The table behind `source`: the file itself, or the only table file of a folder. Raises DataError."""
    if source.is_dir():
        found = sorted(p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
        if len(found) != 1:
            came = f"{len(found)}: {', '.join(p.name for p in found[:5])}" if found else "none"
            raise DataError(f"folder {source.name} must hold exactly one {' or '.join(SUFFIXES)} file, got {came}")
        return found[0]
    if not source.is_file() or source.suffix.lower() not in SUFFIXES:
        raise DataError(f"a table must be a {' or '.join(SUFFIXES)} file or a folder with one, got {source.name}")
    return source


def read(path: Path, label: str) -> Raw:
    """Read a table file; `label` is how the column `y` of an NPZ file is called.

    Raises DataError, naming the file, when it is empty, cannot be read, or has a column name twice or none."""
    readers = {".csv": _csv, ".parquet": _parquet, ".npz": lambda p: _npz(p, label)}
    try:
        raw = readers[path.suffix.lower()](path)
    except (pa.ArrowException, UnicodeDecodeError, BadZipFile, EOFError, ValueError, csv.Error) as error:
        raise DataError(f"{path.name} cannot be read as a {path.suffix} table: {_first(error)}") from error
    if not len(raw.number) and not raw.rejected:
        raise DataError(f"{path.name} must hold at least one row, got none")
    return raw


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _unique(names: Sequence[str], path: Path) -> None:
    for place, name in enumerate(names):
        if not name:
            raise DataError(f"{path.name} must name every column, column {place + 1} has no name")
        if name in names[:place]:
            raise DataError(f"{path.name} must name every column once, got {name!r} {list(names).count(name)} times")


def _csv(path: Path) -> Raw:
    from pyarrow import csv as arrow_csv

    data = path.read_bytes()
    if not data.strip():
        raise DataError(f"{path.name} must hold column names and rows, it is empty")
    data.decode("utf-8")
    head = data[: 1 << 20].decode("utf-8-sig", errors="ignore")
    first = head.lstrip("\r\n").splitlines()[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
    names = [name.strip() for name in next(line for line in reader if line)]
    _unique(names, path)
    if all(_is_number(name) for name in names):
        raise DataError(f"the first line of {path.name} must hold the names of its columns, got {first[:80]!r}")
    rejected: list[tuple[int, str, str]] = []
    skipped = reader.line_num

    def refuse(row: "arrow_csv.InvalidRow") -> str:
        reason = f"must have {row.expected_columns} fields, got {row.actual_columns}"
        rejected.append((row.number - skipped, reason, row.text))
        return "skip"

    table = arrow_csv.read_csv(
        io.BytesIO(data),
        arrow_csv.ReadOptions(use_threads=False, skip_rows=skipped, column_names=names),
        arrow_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=refuse, newlines_in_values=True),
        arrow_csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False),
    )
    numbers = np.arange(1, table.num_rows + len(rejected) + 1)
    number = np.delete(numbers, [n - 1 for n, _, _ in rejected])
    return Raw({name: table.column(name).to_pandas() for name in names}, number, True, rejected)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(path: Path) -> Raw:
    from pyarrow import parquet

    names = parquet.read_schema(path).names
    _unique(names, path)
    frame = pd.read_parquet(path).reset_index(drop=True)
    return Raw({str(name): frame[name] for name in frame.columns}, np.arange(1, len(frame) + 1), False)


def _npz(path: Path, label: str) -> Raw:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if "X" not in arrays or arrays["X"].ndim != 2 or arrays["X"].dtype.kind not in "biuf":
        came = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
        raise DataError(f"{path.name} must hold an array X of numbers (rows, columns), got {came}")
    x = arrays["X"]
    width = len(str(max(x.shape[1] - 1, 0)))
    columns = {f"x{i:0{width}d}": pd.Series(x[:, i]) for i in range(x.shape[1])}
    if "y" in arrays:
        if arrays["y"].shape != (len(x),):
            raise DataError(f"y of {path.name} must hold one label per row of X, {len(x)}, got {arrays['y'].shape}")
        columns[label] = pd.Series(arrays["y"])
    return Raw(columns, np.arange(1, len(x) + 1), False)


def feature(column: pd.Series, texts: bool) -> tuple[pd.Series, np.ndarray]:
    """A column with its type, and the rows, bool `(n,)`, whose text does not fit into it.

    Numbers become float64, or stay integers where none is missing; booleans stay; dates become those of UTC; texts
    become categories. A CSV column holds numbers when more than half of its values are numbers, booleans when all are
    `true` or `false`, dates when all are dates in ISO 8601."""
    none = np.zeros(len(column), bool)
    if not texts:
        found = kind(column)
        if found == NUMBER and types.is_integer_dtype(column.dtype) and not column.isna().any():
            return column.astype(column.dtype.name.lower()), none
        if found == BOOLEAN:
            return column.astype("boolean" if column.isna().any() else "bool"), none
        if found == TIME:
            return times.dates(column), none
        if found in {NUMBER, None}:
            return pd.Series(column.to_numpy(np.float64, na_value=np.nan), name=column.name), none
        return _category(column), none
    stripped = pc.utf8_trim_whitespace(pa.array(column, pa.string()))
    value = pc.if_else(pc.is_in(stripped, pa.array(MISSING)), pa.scalar(None, pa.string()), stripped)
    missing = value.is_null().to_numpy(zero_copy_only=False)
    for dtype in (pa.int64(), pa.float64()):
        try:
            numbers = value.cast(dtype)
        except pa.ArrowInvalid:
            continue
        whole = dtype == pa.int64() and not missing.any()
        return pd.Series(numbers.to_numpy(zero_copy_only=False).astype(np.int64 if whole else np.float64)), none
    lowered = set(pc.unique(pc.utf8_lower(value)).to_pylist()) - {None}
    if lowered <= {"true", "false"}:
        booleans = pc.equal(pc.utf8_lower(value), "true").to_pandas()
        return booleans.astype("boolean" if missing.any() else "bool"), none
    if (dates := times.written(value.to_pandas())) is not None:
        return dates, none
    numbers = pd.to_numeric(value.to_pandas(), errors="coerce").to_numpy(np.float64)
    bad = np.isnan(numbers) & ~missing
    if bad.sum() * 2 < (~missing).sum():
        return pd.Series(numbers), bad
    return _category(value.to_pandas()), none


def _category(column: pd.Series) -> pd.Series:
    texts = column.astype(object).where(column.notna(), None)
    return pd.Series(pd.Categorical(texts, categories=sorted(set(texts) - {None})), name=column.name)


def content(frame: pd.DataFrame) -> list[str]:
    """A SHA-256 per row over the names and values of its columns: equal rows, equal hashes, whatever the order of
    columns, and whether whole numbers are stored as integers or not."""
    names = sorted(str(name) for name in frame.columns)
    start = hashlib.sha256(json.dumps(names).encode())
    parts = [_bytes(frame[name]) for name in names]
    rows = np.ascontiguousarray(np.concatenate(parts, axis=1)) if parts else np.zeros((len(frame), 0), np.uint8)
    hashes = []
    for row in rows:
        digest = start.copy()
        digest.update(row)
        hashes.append(digest.hexdigest())
    return hashes


def _bytes(column: pd.Series) -> np.ndarray:
    """uint8 `(n, 8)` of a column of numbers, booleans or dates, `(n, 16)` of texts."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        texts = [hashlib.sha256(str(text).encode()).digest()[:16] for text in column.cat.categories]
        table = np.frombuffer(b"".join([*texts, bytes(16)]), np.uint8).reshape(-1, 16)
        return table[column.cat.codes.to_numpy()]
    if types.is_datetime64_any_dtype(column.dtype):
        return times.microseconds(column).astype("<i8")[:, None].view(np.uint8)
    values = column.to_numpy(np.float64, na_value=np.nan) + 0.0  # -0.0 becomes 0.0
    values[np.isnan(values)] = np.nan
    return values.astype("<f8")[:, None].view(np.uint8)


def stacked(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Frames of the same columns under one another, in the first one's order of columns, with the categories of all.

    Raises DataError when one lacks a column or has another."""
    if not frames:
        return pd.DataFrame()
    first = frames[0]
    for frame in frames[1:]:
        odd = sorted({str(c) for c in frame.columns} ^ {str(c) for c in first.columns})
        if odd:
            raise DataError(f"tables that belong together must have the same columns, {odd[0]!r} is not in all of them")
    categories = [c for c in first.columns if any(isinstance(f[c].dtype, pd.CategoricalDtype) for f in frames)]
    levels = {c: sorted({str(v) for f in frames for v in f[c].dropna().unique()}) for c in categories}
    same = [frame[list(first.columns)].copy() for frame in frames]
    for frame in same:
        for name in categories:
            frame[name] = frame[name].astype(pd.CategoricalDtype(levels[name]))
    return pd.concat(same)


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy with categories as texts (None where missing)."""
    texts = [name for name in frame.columns if isinstance(frame[name].dtype, pd.CategoricalDtype)]
    return frame.assign(**{name: frame[name].astype(object).where(frame[name].notna(), None) for name in texts})
