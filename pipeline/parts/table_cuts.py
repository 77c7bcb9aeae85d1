"""A batch of table rows cut into parts: each part is a Parquet file that is read by itself as if all were read.

What only the whole can tell goes with each part: the number of its first row and the type of each column into the
metadata of its schema, beside the rows which of them bear an id that came before. Memory does not grow with the number
of rows, but for one bit per row, where rows have ids; only an NPZ file is held as a whole.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.parts.table_files import AGAIN, PART, found_in
from pipeline.parts.table_streams import REFUSED, Stream, most_rows, stream
from pipeline.parts.table_types import Decided, Texts, Typed, as_whole, texts
from pipeline.protocols import Cut

BUCKETS = 256  # files that ids are sorted into, so that those of one fit into memory
WAITING = 1 << 16  # ids that are sorted together
BYTES = 1 << 25  # of rows that wait to be worked on together
KEYS = ("the first of two", "the other of two")  # of 16 bytes: two hashes of 64 bits, so that no two ids share both
SEEN = np.dtype([("one", "<u8"), ("two", "<u8"), ("place", "<i8")])
WRITTEN = ("severity", "time")  # roles for which it does not matter how a value is written


@dataclass(frozen=True)
class _File:
    """A table file with its name and what begins the ids of rows that have none."""

    rows: Stream
    name: str
    prefix: str


def cut(source: Path, size: int, out: Path, label: str, roles: Mapping[str, str], drop: list[str]) -> Cut:
    """Parts of at most `size` rows under `out`, file by file where `source` is a folder with several table files.

    `roles` names the columns that are no features by what they are for, `drop` others; `label` is how the column `y` of
    an NPZ file is called. No part for a table without rows. `content` is a hash of the file, or of the names and hashes
    of several. Raises DataError for a file that cannot be understood or does not stay as it is, and for files with
    different columns."""
    out.mkdir(parents=True, exist_ok=True)
    paths = found_in(source)
    names = [path.relative_to(source).as_posix() if len(paths) > 1 else path.name for path in paths]
    with (
        _unchanged(paths),
        ThreadPoolExecutor(1, thread_name_prefix="hash") as pool,
        TemporaryDirectory(dir=out) as work,
    ):
        hashes = pool.map(sha256, paths)
        files = [
            _File(stream(path, label), name, f"{name}/" if len(paths) > 1 else "")
            for path, name in zip(paths, names, strict=True)
        ]
        _same_columns(files)
        features = set(files[0].rows.names) - set(roles.values()) - set(drop)
        plain = {name for role, name in roles.items() if role not in WRITTEN}
        ids = _Ids(Path(work))
        decided = _decided(files, features, plain, roles.get("id"), ids)
        parts = _write(files, decided, ids.again(), size, out)
        found = list(hashes)
    whole = "\n".join(f"{digest}  {name}" for digest, name in zip(found, names, strict=True))
    return Cut(parts, found[0] if len(found) == 1 else hashlib.sha256(whole.encode()).hexdigest())


@contextmanager
def _unchanged(paths: list[Path]) -> Iterator[None]:
    """Raises DataError when a file is gone, or another, at the end; that explains other errors as well."""
    before = [_stamp(path) for path in paths]
    try:
        yield
    finally:
        for path, stamp in zip(paths, before, strict=True):
            if _stamp(path) != stamp:
                how = "changed" if path.exists() else "vanished"
                raise DataError(f"{path.name} must stay as it is while it is read, it {how}")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _same_columns(files: list[_File]) -> None:
    first = files[0]
    for file in files[1:]:
        odd = sorted(set(first.rows.names) ^ set(file.rows.names))
        if odd:
            only = first.name if odd[0] in first.rows.names else file.name
            raise DataError(f"{file.name} must have the columns of {first.name}, column {odd[0]!r} is only in {only}")


def _decided(
    files: list[_File], features: set[str], plain: set[str], name: str | None, ids: "_Ids"
) -> list[dict[str, Decided]]:
    """The types of columns of each file, over all CSV files together; ids go where they are counted."""
    tallies = {feature: Texts() for feature in sorted(features)}
    decided = []
    for file in files:
        typed: dict[str, Typed] = {}
        for chunk in _gathered(file.rows):
            if file.rows.texts:
                good = chunk[REFUSED].is_null().to_numpy()
                some = chunk if good.all() else chunk.filter(good)
                for feature, tally in tallies.items():
                    tally.add(some[feature])
                if name in some.column_names:
                    ids.add(texts(some[name].to_pandas()), good)
                else:
                    ids.skip(len(good))
                continue
            for column, values in chunk.to_pandas().items():
                typed.setdefault(str(column), Typed(column in features, column in plain)).add(
                    values.rename(str(column))
                )
        found = {column: tally.decided() for column, tally in typed.items()}
        decided.append(found)
        if not file.rows.texts:
            _count(file, name, found, ids)
    verdict = {feature: tally.decided() for feature, tally in tallies.items()}
    return [verdict if file.rows.texts else found for file, found in zip(files, decided, strict=True)]


def _count(file: _File, name: str | None, decided: dict[str, Decided], ids: "_Ids") -> None:
    """Count the ids of a typed file, whose text depends on all of them."""
    for chunk in file.rows.chunks([name] if name in decided else file.rows.names[:1]):
        if name in decided:
            column = as_whole(chunk.to_pandas()[name], decided[name])
            ids.add(texts(column, decided[name].witness), np.ones(len(chunk), bool))
        else:
            ids.skip(len(chunk))


class _Ids:
    """Tells which rows have an id that came before, from hashes of all ids in files."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / f"{bucket:03d}" for bucket in range(BUCKETS)]
        self._rows = 0
        self._waiting: list[np.ndarray] = []

    def skip(self, rows: int) -> None:
        """Rows without ids."""
        self._rows += rows

    def add(self, ids: pd.Series, has: np.ndarray) -> None:
        """The ids of those of the next rows that have one, bool `(n,)`."""
        place = self._rows + np.flatnonzero(has)
        self._rows += len(has)
        known = (ids != "").to_numpy()
        values = ids.to_numpy(object)[known]
        seen = np.empty(len(values), SEEN)
        for field, key in zip(("one", "two"), KEYS, strict=True):
            seen[field] = pd.util.hash_array(values, hash_key=key, categorize=False)
        seen["place"] = place[known]
        self._waiting.append(seen)
        if sum(len(some) for some in self._waiting) >= WAITING:
            self._sort()

    def _sort(self) -> None:
        """Bring the ids that wait to the files of their buckets."""
        seen = np.concatenate([np.empty(0, SEEN), *self._waiting])
        self._waiting = []
        bucket = (seen["one"] % BUCKETS).astype(np.int64)
        seen = seen[np.argsort(bucket, kind="stable")]
        ends = np.cumsum(np.bincount(bucket, minlength=BUCKETS))
        for path, start, end in zip(self._paths, [0, *ends], ends, strict=False):
            if end > start:
                with path.open("ab") as file:
                    seen[start:end].tofile(file)

    def again(self) -> "_Bits":
        """One bit per row."""
        self._sort()
        found = _Bits(self._rows)
        for path in filter(Path.exists, self._paths):
            seen = np.fromfile(path, SEEN)
            seen = seen[np.lexsort((seen["place"], seen["two"], seen["one"]))]
            same = (seen["one"][1:] == seen["one"][:-1]) & (seen["two"][1:] == seen["two"][:-1])
            found.set(seen["place"][1:][same])
        return found


class _Bits:
    """One bit for each of n rows, all unset at first."""

    def __init__(self, n: int) -> None:
        self._bytes = np.zeros(n // 8 + 1, np.uint8)

    def set(self, places: np.ndarray) -> None:
        """Set the bits of some rows."""
        np.bitwise_or.at(self._bytes, places >> 3, (1 << (places & 7)).astype(np.uint8))

    def get(self, start: int, n: int) -> np.ndarray:
        """Those of n rows from `start` on, bool `(n,)`."""
        some = self._bytes[start >> 3 : (start + n + 7) >> 3]
        return np.unpackbits(some, bitorder="little")[start & 7 :][:n].astype(bool)


def _write(files: list[_File], decided: list[dict[str, Decided]], again: _Bits, size: int, out: Path) -> list[Path]:
    parts: list[Path] = []
    place = 0
    for file, types in zip(files, decided, strict=True):
        meta = {"name": file.name, "prefix": file.prefix, "texts": file.rows.texts}
        meta["decided"] = {name: one.meta() for name, one in types.items()}
        for number, group in groupby(_slices(file.rows, size), key=lambda piece: piece[0]):
            parts.append(out / f"{len(parts):05d}.parquet")
            told = json.dumps(meta | {"first": number * size + 1})
            with ExitStack() as stack:
                writer = None
                for _, table in group:
                    table = table.append_column(AGAIN, pa.array(again.get(place, len(table))))
                    place += len(table)
                    if writer is None:
                        schema = table.schema.with_metadata({**(table.schema.metadata or {}), PART: told})
                        writer = stack.enter_context(
                            parquet.ParquetWriter(
                                parts[-1], schema, compression="lz4", use_dictionary=False, write_statistics=False
                            )
                        )
                    writer.write_table(table)
    return parts


def _slices(rows: Stream, size: int) -> Iterator[tuple[int, pa.Table]]:
    """All rows, in pieces that lie within one part, each behind that part's number within the file."""
    number = 0
    for table in _gathered(rows):
        while len(table):
            piece = table.slice(0, size - number % size)
            yield number // size, piece
            number += len(piece)
            table = table.slice(len(piece))


def _gathered(rows: Stream) -> Iterator[pa.Table]:
    """The chunks of a stream, small ones together."""
    most = most_rows(len(rows.names))
    waiting: list[pa.Table] = []
    for chunk in chain(rows.chunks(), [None]):
        if chunk is not None:
            waiting.append(chunk)
        enough = sum(len(t) for t in waiting) >= most or sum(t.nbytes for t in waiting) >= BYTES
        if waiting and (enough or chunk is None):
            yield pa.concat_tables(waiting)
            waiting = []
            pa.default_memory_pool().release_unused()
