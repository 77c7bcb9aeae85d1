"""The database of results and monitoring: a SQLite file of the checkout, or what ASSAY_DATABASE_URL names.

SQLite runs in WAL mode and waits for other writers, so that two of them do not refuse each other.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipeline.address import shown
from pipeline.errors import RegistryError

ROOT = Path(__file__).resolve().parents[1]
URL = "ASSAY_DATABASE_URL"
PATIENCE = 60  # seconds that a writer waits for another one
METADATA = MetaData()  # every table that assay keeps, declared by the module that writes it


def address() -> str:
    """The SQLAlchemy URL of the database."""
    return os.environ.get(URL) or f"sqlite:///{(ROOT / 'assay.db').as_posix()}"


def engine(url: str | None = None) -> Engine:
    """An engine for `url` (by default `address()`). Raises RegistryError for a URL that is none, or without driver."""
    given = url or address()
    try:
        parsed = make_url(given)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed, pool_pre_ping=True)
        found = create_engine(parsed, connect_args={"timeout": PATIENCE})
    except (ArgumentError, ImportError) as error:
        raise RegistryError(f"{URL} must be a SQLAlchemy URL with its driver installed: {error}") from error
    event.listen(found, "connect", _wal)
    event.listen(found, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return found


def _wal(connection: object, _: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # transactions begin where `engine` says
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


@contextmanager
def transaction(url: str | None = None) -> Iterator[Connection]:
    """One transaction in the database, its tables made where they are missing: all of the block or nothing.

    Raises RegistryError when the database cannot be reached or refuses."""
    found = engine(url)
    try:
        with found.begin() as connection:
            METADATA.create_all(connection)
            yield connection
    except SQLAlchemyError as error:
        said = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        raise RegistryError(f"the database {shown(url or address())} failed: {said}") from error
    finally:
        found.dispose()
