"""Table files read bit by bit: chunks of rows, whatever the number of all rows, from CSV, Parquet and NPZ files.

Only an NPZ file is held in memory as a whole.
"""

import codecs
import csv
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from pipeline.errors import DataError

BLOCK = 1 << 18  # bytes of a CSV file that are read at a time, where rows are not longer; Arrow holds dozens of them
HEAD = 1 << 20  # bytes that must hold a CSV file's names of columns
BUFFER = 1 << 18  # bytes of a column that are read at a time
ROWS, VALUES = 1 << 14, 1 << 21  # rows, and values in all their columns, held at a time
REFUSED, LINE = "assay\x1frefused", "assay\x1fline"  # columns besides those of a CSV file


@dataclass(frozen=True)
class Stream:
    """A table file to read bit by bit: its column names, whether it has `texts`, and who reads it."""

    path: Path
    names: list[str]
    texts: bool
    begin: Callable[[list[str] | None], Iterator[pa.Table]]

    def chunks(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows from the first on, some thousand at a time; of texts REFUSED and LINE stand besides the columns, for
        rows that have the wrong number of fields. Columns that are not wanted may come, too.

        Raises DataError when the file cannot be read."""
        with understood(self.path):
            chunks = self.begin(columns)
        while True:
            with understood(self.path):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk


def stream(path: Path, label: str) -> Stream:
    """Open a table file; `label` is how the column `y` of an NPZ file is called.

    Raises DataError, naming the file, when it is empty, cannot be read, or has a column name twice or none."""
    with understood(path):
        if path.suffix.lower() == ".csv":
            return _csv(path)
        if path.suffix.lower() == ".npz":
            table = pa.Table.from_pandas(npz(path, label), preserve_index=False)
            rows = most_rows(table.num_columns)
            starts = range(0, len(table), rows)
            return Stream(path, table.column_names, False, lambda _: (table.slice(start, rows) for start in starts))
        names = parquet.read_schema(path).names
        _unique(names, path)
        return Stream(path, [str(name) for name in names], False, lambda columns: _parquet(path, columns))


def most_rows(columns: int) -> int:
    """How many rows of so many columns are held at a time."""
    return min(ROWS, max(VALUES // max(columns, 1), 1))


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """What libraries raise for a file that they do not understand, as a DataError that names it."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, BadZipFile, EOFError, ValueError, csv.Error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # not what is in the file
            raise
        raise DataError(f"{path.name} cannot be read as a {path.suffix} table: {_first(error)}") from error


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _unique(names: Sequence[str], path: Path) -> None:
    for place, name in enumerate(names):
        if not name:
            raise DataError(f"{path.name} must name every column, column {place + 1} has no name")
        if name in names[:place]:
            raise DataError(f"{path.name} must name every column once, got {name!r} {list(names).count(name)} times")


def _csv(path: Path) -> Stream:
    with path.open("rb") as file:
        data = file.read(HEAD)
        whole = len(data) < HEAD
        file.seek(0)
        for _ in codecs.iterdecode(iter(lambda: file.read(HEAD), b""), "utf-8"):
            pass  # raises UnicodeDecodeError
    if not data.strip():
        raise DataError(f"{path.name} must hold column names and rows, it is empty")
    head = codecs.getincrementaldecoder("utf-8-sig")().decode(data)
    first = head.lstrip("\r\n").splitlines()[0]
    delimiter = max(",;\t", key=first.count)
    lines = io.StringIO(head, newline="")
    reader = csv.reader(lines, delimiter=delimiter)
    names = [name.strip() for name in next(line for line in reader if line)]
    _unique(names, path)
    if all(_is_number(name) for name in names):
        raise DataError(f"the first line of {path.name} must hold the names of its columns, got {first[:80]!r}")
    if whole and not lines.read().strip("\r\n"):
        return Stream(path, names, True, lambda _: iter(()))
    block = max(BLOCK, 4 * max(len(line) for line in data.splitlines()))
    return Stream(path, names, True, lambda _: _csv_rows(path, names, delimiter, reader.line_num, block))


def _csv_rows(path: Path, names: list[str], delimiter: str, skipped: int, block: int) -> Iterator[pa.Table]:
    """The rows of a CSV file as texts; each refused one, with nothing but missing values, where it came."""
    from pyarrow import csv as arrow_csv

    refused: deque[tuple[int, str, str]] = deque()

    def refuse(row: "arrow_csv.InvalidRow") -> str:
        reason = f"must have {row.expected_columns} fields, got {row.actual_columns}"
        refused.append((row.number - skipped, reason, row.text))
        return "skip"

    reader = arrow_csv.open_csv(
        path,
        arrow_csv.ReadOptions(use_threads=False, skip_rows=skipped, column_names=names, block_size=block),
        arrow_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=refuse, newlines_in_values=True),
        arrow_csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False),
    )
    begin = 1  # number of the first row that was not given yet
    for batch in reader:
        end, some = begin + len(batch), []
        while refused and refused[0][0] <= end:
            some.append(refused.popleft())
            end += 1
        yield _with_refused(pa.Table.from_batches([batch]), begin, some)
        begin = end
    if refused:
        yield _with_refused(reader.schema.empty_table(), begin, list(refused))


def _with_refused(good: pa.Table, begin: int, refused: list[tuple[int, str, str]]) -> pa.Table:
    n = len(good) + len(refused)
    place = np.array([number - begin for number, _, _ in refused], np.int64)
    is_good = np.ones(n, bool)
    is_good[place] = False
    told = np.full((2, n), None, object)
    if refused:
        told[:, place] = [[reason for _, reason, _ in refused], [line for _, _, line in refused]]
        good = good.take(pa.array(np.cumsum(is_good) - 1, mask=~is_good))
    for name, texts in zip((REFUSED, LINE), told, strict=True):
        good = good.append_column(name, pa.array(texts, pa.string()) if refused else pa.nulls(n, pa.string()))
    return good


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(path: Path, columns: list[str] | None) -> Iterator[pa.Table]:
    with parquet.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
        size = most_rows(len(file.schema_arrow.names))
        for batch in file.iter_batches(size, columns=columns, use_threads=False):
            yield pa.Table.from_batches([batch])


def npz(path: Path, label: str) -> pd.DataFrame:
    """The columns x0, x1, ... of an NPZ file, and its `y` as the column `label`. Raises DataError without an X."""
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
    return pd.DataFrame(columns, index=range(len(x)))
