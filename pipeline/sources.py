"""Turn a source into a local folder or file: a demo, a path, a glob, an archive, a SQL query or an fsspec URL."""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipeline import globs, remote
from pipeline.errors import DataError, ParamsError
from pipeline.urls import clean

DEMOS = ("demo:textures", "demo:textures/batch", "demo:wdbc", "demo:wdbc/batch")
SQL_URL = "ASSAY_SQL_URL"
ROWS = 50_000  # rows of a SQL result held in memory at a time


def fetch(source: str, work: Path) -> Path:
    """The local folder or file behind `source`; what is made, downloaded or extracted goes under `work`.

    `source` is one of
    - `demo:textures`, `demo:wdbc` (and `/batch` of each): see pipeline/demos.py;
    - a local folder or file, returned as it is; `~` stands for the home folder;
    - a zip or tar archive (.zip .tar .tar.gz .tgz .tar.bz2 .tar.xz), local or behind a URL, which is extracted;
    - `sql:SELECT ...`, run with the SQLAlchemy URL in the environment variable ASSAY_SQL_URL, as a Parquet file
      (rows come in the database's order: write ORDER BY where equal runs must give equal bytes);
    - a glob such as `incoming/2026-*/**/*.csv`, local or behind a URL: a folder of links (or copies) with names
      relative to the part before the first wildcard. A folder that matches stands for all files in it; hidden files
      match only where the glob names the dot. What is there by the name as it is written is no glob;
    - anything else with `://`, read through fsspec. A .csv or .parquet file is a manifest when one of the first files
      that its column `path` names is there, beside it or beside its folder; then all of those come along, and those of
      its column `mask`. Files that are missing are for `ingest` to tell; a table that names no such file is a table.

    Raises ParamsError for an unknown demo, DataError for everything else that cannot be had. No message and no
    traceback shows the password or the query string of a URL.
    """
    work.mkdir(parents=True, exist_ok=True)
    if source.startswith("demo:"):
        return _demo(source, work)
    if source.startswith("sql:"):
        return _query(source.removeprefix("sql:").strip(), work / "query.parquet")
    if "://" in source:
        return _unpacked(remote.download(source, work / "download"), work)
    local = Path(source).expanduser()
    if not local.exists():
        pattern = globs.parted(local.as_posix(), lambda path: Path(path).exists())
        if pattern is not None:
            return globs.linked(*pattern, work / "matched", repr(source))
        raise DataError(
            f"source {source!r} does not exist: it must be a local file, folder or glob, a URL with ://, sql:SELECT ..."
            f" or one of {', '.join(DEMOS)}"
        )
    return _unpacked(local.resolve(), work)


def _demo(source: str, work: Path) -> Path:
    if source not in DEMOS:
        near = get_close_matches(source, DEMOS, n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ParamsError(f"source must be one of the demos {', '.join(DEMOS)}, got {source!r} (params.yaml){hint}")
    from pipeline import demos

    name, _, batch = source.removeprefix("demo:").partition("/")
    return {"textures": demos.textures, "wdbc": demos.wdbc}[name](work / name, batch == "batch")


def _unpacked(path: Path, work: Path) -> Path:
    from pipeline import archives

    if not path.is_file() or not archives.is_archive(path):
        return path
    return archives.extract(path, work / "extracted")


def _query(query: str, target: Path) -> Path:
    """The rows of a SELECT as one Parquet file, streamed: memory does not grow with the result."""
    url = os.environ.get(SQL_URL, "")
    if not url:
        raise DataError(
            f"a source sql:SELECT ... needs the SQLAlchemy URL of the database in {SQL_URL}, which is empty"
        )
    if not re.match(r"(select|with)\b", query, re.IGNORECASE):
        raise DataError(f"a source sql:... must be a SELECT (or WITH ... SELECT), got {query[:80]!r}")
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        parsed = make_url(url)
        _refuse_missing_sqlite(parsed)
        engine = create_engine(parsed)
        try:
            with engine.connect() as connection:
                # the driver gets the text as it stands: neither : nor % begins a parameter
                options = {"stream_results": True, "max_row_buffer": ROWS, "no_parameters": True}
                result = connection.execution_options(**options).exec_driver_sql(query)
                _write_rows(list(result.keys()), result.partitions(ROWS), target)
        finally:
            engine.dispose()
    except ImportError as error:
        raise DataError(f"{SQL_URL} needs a driver that is not installed: {clean(error, url)}") from None
    except DBAPIError as error:
        raise DataError(f"the SQL query {query[:80]!r} fails: {clean(error.orig or error, url)}") from None
    except (SQLAlchemyError, ValueError) as error:
        raise DataError(f"{SQL_URL} must be a SQLAlchemy URL that can be opened: {clean(error, url)}") from None
    return target


def _refuse_missing_sqlite(url: Any) -> None:
    """SQLite would make an empty database where there is none."""
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return
    if not Path(name).exists():
        raise DataError(f"{SQL_URL} names a SQLite file that does not exist: {name}")


def _write_rows(columns: list[str], partitions: Any, target: Path) -> None:
    """Rows in parts as one Parquet file: a column that is empty or whole numbers at first may widen later."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    doubled = sorted({name for name in columns if columns.count(name) > 1})
    if doubled:
        raise DataError(f"the SQL query gives the column {doubled[0]!r} twice; name columns apart with AS")
    parts: list[Path] = []
    schemas: list[pa.Schema] = []
    for rows in partitions:
        table = pa.table(
            {name: _column(name, values) for name, values in zip(columns, zip(*rows, strict=True), strict=True)}
        )
        parts.append(target.with_name(f"{target.stem}-{len(parts):06d}.part"))
        schemas.append(table.schema)
        pq.write_table(table, parts[-1])
    if not parts:
        raise DataError("the SQL query gives no rows")
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"a column of the SQL query changes its type between rows: {error}") from None
    with pq.ParquetWriter(target, schema) as writer:
        for path in parts:
            writer.write_table(pq.read_table(path).cast(schema))
            path.unlink()


def _column(name: str, values: tuple[Any, ...]) -> Any:
    import pyarrow as pa

    try:
        column = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        kinds = sorted({type(value).__name__ for value in values if value is not None})
        raise DataError(
            f"column {name!r} of the SQL query must hold one type of value, got {', '.join(kinds)}"
        ) from None
    return column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column
