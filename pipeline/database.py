"""The database of results and monitoring: a SQLite file of the checkout, or what ASSAY_DATABASE_URL names.

SQLite runs in WAL mode and waits for other writers, so that two of them do not refuse each other.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipeline.address import with_driver
from pipeline.errors import RegistryError
from pipeline.urls import hidden

ROOT = Path(__file__).resolve().parents[1]
URL = "ASSAY_DATABASE_URL"
PATIENCE = 60  # seconds that a writer waits for another one
ANSWER = 10  # seconds that a server has to let us in
CREATING = 0x6173736179  # PostgreSQL's advisory lock of those who make tables
METADATA = MetaData()  # every table that assay keeps, declared by the module that writes it


def address() -> str:
    """The SQLAlchemy URL of the database."""
    return os.environ.get(URL) or f"sqlite:///{(ROOT / 'assay.db').as_posix()}"


def engine(url: str | None = None) -> Engine:
    """An engine for `url` (by default `address()`). Raises RegistryError for a URL that is none, or without driver."""
    given = with_driver(url or address())
    try:
        parsed = make_url(given)
        if parsed.get_backend_name() != "sqlite":
            known = parsed.drivername.endswith(("psycopg", "psycopg2")) and "connect_timeout" not in parsed.query
            return create_engine(parsed, connect_args={"connect_timeout": ANSWER} if known else {})
        found = create_engine(parsed, connect_args={"timeout": PATIENCE})
    except (ArgumentError, ImportError, ValueError) as error:
        said = hidden(str(error), given)
        raise RegistryError(f"{URL} must be a SQLAlchemy URL with its driver installed: {said}") from None
    event.listen(found, "connect", _wal)
    event.listen(found, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return found


def _wal(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions begin where `engine` says
    last = time.monotonic() + PATIENCE
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL").close()
            connection.execute("PRAGMA synchronous=NORMAL").close()
            return
        except sqlite3.OperationalError as error:  # SQLite does not wait for another one that changes the mode
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > last:
                raise
        time.sleep(0.01)


def make(connection: Connection, metadata: MetaData) -> None:
    """Make the tables of `metadata` that are missing, whoever else does so at the same time."""
    there = inspect(connection)
    if all(there.has_table(table.name, table.schema) for table in metadata.sorted_tables):
        return
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CREATING})
    metadata.create_all(connection)


@contextmanager
def transaction(url: str | None = None) -> Iterator[Connection]:
    """One transaction in the database, its tables made where they are missing: all of the block or nothing.

    Raises RegistryError when the database cannot be reached or refuses, also because its disk is full."""
    given = url or address()
    found = engine(given)
    try:
        with found.begin() as connection:
            make(connection, METADATA)
            yield connection
    except SQLAlchemyError as error:
        said = hidden(str(getattr(error, "orig", None) or error), given)[:300]
        shown = found.url.set(query={}).render_as_string(hide_password=True)
        raise RegistryError(f"the database {shown} failed: {said}") from None
    finally:
        found.dispose()
