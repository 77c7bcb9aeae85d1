"""Tables on disk: CSV, Parquet and NPZ files as typed columns, with every row that cannot be used told apart.

A part of a table (see table_cuts.py) is a Parquet file whose schema's metadata say what the rest of the table decides.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api import types
from pyarrow import parquet

from pipeline.errors import DataError
from pipeline.parts import times
from pipeline.parts.table_streams import LINE, REFUSED, npz, stream, understood
from pipeline.parts.table_types import Decided, as_whole

SUFFIXES = (".csv", ".parquet", ".npz")
PART = b"assay part of a table"  # key in the metadata of a part's schema
AGAIN = "assay\x1fagain"  # column of a part, besides those of its table: whether the row's id came before


@dataclass
class Raw:
    """A table as it came. `columns` are texts where `texts`; `number` is each row's number in the file, from 1.

    `rejected` are rows that do not even have the right number of fields: number, reason, the row itself. `name` is that
    of the file. Of a part of a larger whole: `decided` are types of columns, `again` are rows whose id came before, and
    `prefix` begins the ids that rows are given."""

    columns: dict[str, pd.Series]
    number: np.ndarray
    texts: bool
    rejected: list[tuple[int, str, str]] = field(default_factory=list)
    name: str = ""
    decided: dict[str, Decided] = field(default_factory=dict)
    again: np.ndarray | None = None
    prefix: str = ""

    @property
    def is_part(self) -> bool:
        """Whether there is more of the table elsewhere."""
        return self.again is not None

    def line(self, position: int) -> str:
        """One row as readable text, for the quarantine."""
        row = {name: column.iloc[position] for name, column in self.columns.items()}
        return json.dumps({k: None if pd.isna(v) else v for k, v in row.items()}, default=str, ensure_ascii=False)


def find(source: Path) -> Path:
    """The table behind `source`: the file itself, or the only table file of a folder. Raises DataError."""
    found = found_in(source)
    if len(found) != 1:
        came = f"{len(found)}: {', '.join(p.name for p in found[:5])}"
        raise DataError(f"folder {source.name} must hold exactly one {' or '.join(SUFFIXES)} file, got {came}")
    return found[0]


def found_in(source: Path) -> list[Path]:
    """The file itself, or all table files of a folder, sorted. Raises DataError when there is none."""
    if source.is_dir():
        found = sorted(p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"folder {source.name} must hold exactly one {' or '.join(SUFFIXES)} file, got none")
        return found
    if not source.is_file() or source.suffix.lower() not in SUFFIXES:
        raise DataError(f"a table must be a {' or '.join(SUFFIXES)} file or a folder with one, got {source.name}")
    return [source]


def read(path: Path, label: str) -> Raw:
    """Read a table file, or a part of one; `label` is how the column `y` of an NPZ file is called.

    Raises DataError, naming the file, when it is empty, cannot be read, or has a column name twice or none."""
    with understood(path):
        suffix = path.suffix.lower()
        meta = (parquet.read_schema(path).metadata or {}) if suffix == ".parquet" else {}
        if PART in meta:
            return _part(path, json.loads(meta[PART]))
        if suffix == ".npz":
            raw = _typed(npz(path, label), path.name)
        else:
            rows = stream(path, label)
            raw = _texts(list(rows.chunks()), path.name) if rows.texts else _typed(pd.read_parquet(path), path.name)
    if not len(raw.number) and not raw.rejected:
        raise DataError(f"{path.name} must hold at least one row, got none")
    return raw


def _typed(frame: pd.DataFrame, name: str, first: int = 1) -> Raw:
    frame = frame.reset_index(drop=True)
    number = np.arange(first, first + len(frame))
    return Raw({str(c): frame[c] for c in frame.columns}, number, False, name=name)


def _texts(chunks: list[pa.Table], name: str, first: int = 1) -> Raw:
    """The rows of a CSV file from that numbered `first` on, those that are REFUSED apart."""
    if not chunks:
        return Raw({}, np.zeros(0, np.int64), True, name=name)
    table = pa.concat_tables(chunks)
    number = np.arange(first, first + len(table))
    good = table[REFUSED].is_null().to_numpy()
    told = table.select([REFUSED, LINE])
    if not good.all():
        table, told = table.filter(good), told.filter(~good)
    rejected = [] if good.all() else list(zip(number[~good].tolist(), *told.to_pydict().values(), strict=True))
    columns = {c: table[c].to_pandas() for c in table.column_names if c not in (REFUSED, LINE)}
    return Raw(columns, number[good], True, rejected, name)


def _part(path: Path, meta: dict[str, Any]) -> Raw:
    first, decided = meta["first"], {name: Decided(**given) for name, given in meta["decided"].items()}
    if meta["texts"]:
        table = parquet.read_table(path)
        again = table[AGAIN].to_numpy()
        raw = _texts([table.drop_columns(AGAIN)], meta["name"], first)
    else:
        frame = pd.read_parquet(path)
        again = frame.pop(AGAIN).to_numpy(bool)
        raw = _typed(frame, meta["name"], first)
        raw.columns = {name: as_whole(column, decided[name]) for name, column in raw.columns.items()}
    raw.again, raw.prefix, raw.decided = again[raw.number - first], meta["prefix"], decided
    return raw


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
