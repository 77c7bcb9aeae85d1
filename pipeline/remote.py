"""Bring what an fsspec URL names to this machine: a file, a folder, what a glob matches, a manifest with its files."""

import errno
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from glob import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pipeline import globs
from pipeline.errors import DataError
from pipeline.urls import clean, shown

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

NAMING = ("path", "mask")  # columns of a manifest that name files
ROWS = 10_000  # rows of a manifest held in memory at a time
TRIED = 10  # files that a table must name before it is taken for what it seems to be
AT_ONCE = 16  # files of a manifest that are fetched side by side where the file system can


def download(source: str, out: Path) -> Path:
    """The file or folder at the URL `source`, under `out`; see sources.fetch. Raises DataError."""
    import fsspec
    from fsspec.core import url_to_fs

    protocol = source.partition("://")[0]
    told = shown(source)
    try:
        files, path = url_to_fs(source)
        if not files.exists(path):
            return _matching(files, path, told, out, protocol)
        if files.isdir(path):
            base = path.rstrip("/")
            found = _below(files.find(path), base, told)
            if not found:
                raise DataError(f"source {told} is an empty folder (read through fsspec's {protocol} file system)")
            return _get(files, base, found, out)
        target = out / (Path(urlsplit(path).path).name or "download")
        out.mkdir(parents=True, exist_ok=True)
        files.get_file(path, str(target))
        _along(files, path, target)
        return target
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"source {told} needs a package that is not installed: {clean(error, source)} (fsspec's {protocol})"
        ) from None
    except ValueError as error:
        known = "" if protocol.split("::")[0] in fsspec.available_protocols() else "is not a protocol that fsspec knows"
        raise DataError(f"source {told} {known or 'cannot be read'}: {clean(error, source)}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}:
            raise  # our own disk, not the source's
        raise DataError(f"source {told} cannot be read: {clean(error, source)}") from None


def _matching(files: "AbstractFileSystem", path: str, told: str, out: Path, protocol: str) -> Path:
    """The files that the pattern `path` names; where it is none, what was asked for does not exist."""
    web = "://" in path  # a query begins with the wildcard ?
    pattern = globs.parted(path.partition("?")[0], files.exists, "*[") if web else globs.parted(path, files.exists)
    if pattern is None:
        raise DataError(f"source {told} does not exist (read through fsspec's {protocol} file system)")
    fixed, rest = pattern
    if "local" in files.protocol:
        return globs.linked(fixed, rest, out, told)
    base = fixed.rstrip("/")
    globs.inside(rest, told)
    found: list[str] = []
    for name, info in files.glob(f"{escape(base)}/{rest}" if fixed else rest, detail=True).items():
        found += files.find(name) if info["type"] == "directory" else [name]
    return _get(files, base, globs.taken(_below(found, base, told), rest, told), out)


def _below(found: Iterable[str], base: str, told: str) -> list[str]:
    """Names relative to the folder `base`; object stores list the folder itself, too."""
    names = {name.removeprefix(base).lstrip("/") for name in found if not name.endswith("/")}
    return [globs.inside(name, told) for name in sorted(names - {""})]


def _get(files: "AbstractFileSystem", base: str, names: list[str], out: Path) -> Path:
    targets = [out / name for name in names]
    for folder in {target.parent for target in targets}:
        folder.mkdir(parents=True, exist_ok=True)
    files.get([f"{base}/{name}" if base else name for name in names], [str(target) for target in targets])
    return out


def _along(files: "AbstractFileSystem", path: str, table: Path) -> None:
    """Fetch the files that a manifest names. A table whose column `path` names no file beside it is just a table."""
    sure = False
    for names in _named(table):
        if not sure and not any(files.exists(place) for name in names[:TRIED] for place in _places(path, name)):
            return
        sure = True
        one = partial(_fetch, files, path, table.parent)
        if files.async_impl:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(one, names))
        else:
            list(map(one, names))


def _named(table: Path) -> Iterator[list[str]]:
    """The files that the rows of a table name, some rows at a time; nothing for a table without a column `path`."""
    try:
        for rows in _rows(table):
            cells = [cell for row in rows for cell in row]
            names = dict.fromkeys(str(cell).strip().replace("\\", "/") for cell in cells if isinstance(cell, str))
            yield [name for name in names if name and not name.startswith("/") and ".." not in name.split("/")]
    except ValueError:  # of pandas and pyarrow: who reads the table will say what is wrong with it
        return


def _rows(table: Path) -> Iterator[Any]:
    import pandas as pd
    import pyarrow.parquet as pq

    if table.suffix.lower() == ".csv":
        options: dict[str, Any] = {"dtype": str, "encoding": "utf-8-sig", "skipinitialspace": True}
        if "path" in pd.read_csv(table, nrows=0, **options).columns:
            with pd.read_csv(table, usecols=lambda name: name in NAMING, chunksize=ROWS, **options) as parts:
                yield from (part.to_numpy(object) for part in parts)
    elif table.suffix.lower() == ".parquet":
        with pq.ParquetFile(table) as file:
            columns = [name for name in NAMING if name in file.schema_arrow.names]
            if "path" in columns:
                for part in file.iter_batches(ROWS, columns=columns):
                    yield zip(*(part.column(name).to_pylist() for name in columns), strict=True)


def _places(path: str, name: str) -> list[str]:
    """Where a file may lie that the manifest at `path` names: beside it, or beside its folder."""
    path, mark, query = path.partition("?") if "://" in path else (path, "", "")
    name = quote(name) if "://" in path else name
    folder = path.rpartition("/")[0]
    above = [] if urlsplit(folder).path.strip("/") == "" else [folder.rpartition("/")[0]]
    return [f"{place}/{name}{mark}{query}" if place or path.startswith("/") else name for place in [folder, *above]]


def _fetch(files: "AbstractFileSystem", path: str, folder: Path, name: str) -> None:
    """One file that a manifest names; ingest will say that it is missing where it is."""
    target = folder / PurePosixPath(name)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    for place in _places(path, name):
        try:
            files.get_file(place, str(target))
            return
        except FileNotFoundError:
            target.unlink(missing_ok=True)
