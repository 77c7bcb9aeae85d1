"""Turn `dataset.source` into a local folder or file: a demo, a path, an archive, a SQL query or an fsspec URL."""

import errno
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pipeline.errors import DataError, ParamsError

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
    - anything else with `://`, read through fsspec.

    Raises ParamsError for an unknown demo, DataError for everything else that cannot be had. No message and no
    traceback shows the password or the query string of a URL.
    """
    work.mkdir(parents=True, exist_ok=True)
    if source.startswith("demo:"):
        return _demo(source, work)
    if source.startswith("sql:"):
        return _query(source.removeprefix("sql:").strip(), work / "query.parquet")
    if "://" in source:
        return _unpacked(_download(source, work / "download"), work)
    local = Path(source).expanduser()
    if not local.exists():
        raise DataError(
            f"source {source!r} does not exist: it must be a local file or folder, a URL with ://, sql:SELECT ..."
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


def _download(source: str, out: Path) -> Path:
    """A file, or a folder with all that is in it, through fsspec."""
    import fsspec
    from fsspec.core import url_to_fs

    protocol = source.partition("://")[0]
    shown = _shown(source)
    try:
        files, path = url_to_fs(source)
        if not files.exists(path):
            raise DataError(f"source {shown} does not exist (read through fsspec's {protocol} file system)")
        if files.isdir(path):
            files.get(path.rstrip("/") + "/", f"{out}/", recursive=True)
            if not out.is_dir() or not any(out.rglob("*")):
                raise DataError(f"source {shown} is an empty folder (read through fsspec's {protocol} file system)")
            return out
        target = out / (Path(urlsplit(path).path).name or "download")
        out.mkdir(parents=True, exist_ok=True)
        files.get_file(path, str(target))
        return target
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"source {shown} needs a package that is not installed: {_clean(error, source)} (fsspec's {protocol})"
        ) from None
    except ValueError as error:
        known = "" if protocol.split("::")[0] in fsspec.available_protocols() else "is not a protocol that fsspec knows"
        raise DataError(f"source {shown} {known or 'cannot be read'}: {_clean(error, source)}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}:
            raise  # our own disk, not the source's
        raise DataError(f"source {shown} cannot be read: {_clean(error, source)}") from None


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
        raise DataError(f"{SQL_URL} needs a driver that is not installed: {_clean(error, url)}") from None
    except DBAPIError as error:
        raise DataError(f"the SQL query {query[:80]!r} fails: {_clean(error.orig or error, url)}") from None
    except (SQLAlchemyError, ValueError) as error:
        raise DataError(f"{SQL_URL} must be a SQLAlchemy URL that can be opened: {_clean(error, url)}") from None
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


def _shown(url: str) -> str:
    """A URL without user, password, query and fragment."""
    protocol, _, rest = url.partition("://")
    return f"{protocol}://{rest.split('?')[0].split('#')[0].rpartition('@')[2]}"


def _secrets(url: str) -> set[str]:
    """What must not be shown of a URL (or of several chained with `::`): passwords, tokens, values of the query."""
    found: set[str] = set()
    for part in url.split("::"):
        rest = part.partition("://")[2]
        # up to the last @ as well as up to the first slash: a password may hold either, unquoted
        for user in (rest.rpartition("@")[0], rest.split("/")[0].rpartition("@")[0]):
            name, _, password = user.partition(":")
            found.add(password or name)
        found |= {value for _, value in parse_qsl(urlsplit(part).query)}
    return found - {""}


def _clean(error: BaseException, url: str) -> str:
    """The first line of an error's message, without the secrets that `url` holds."""
    text = " ".join((str(error).splitlines() or [type(error).__name__])[0].split()).replace(url, _shown(url))
    for secret in sorted(_secrets(url), key=len, reverse=True):
        for form in {secret, unquote(secret), quote(secret, safe="")}:
            text = text.replace(form, "***")
    return text
