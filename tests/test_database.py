"""The database: two writers at once lose nothing, two starters make one set of tables, each fault is one sentence."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert, text

from pipeline import database as db
from pipeline.errors import DataError, RegistryError

# each waits for the same moment, then makes the tables and writes
WRITER = """
import sys, time
from sqlalchemy import Column, Integer, Table, Text, insert
from pipeline import database
columns = Column("id", Integer, primary_key=True), Column("who", Text), Column("n", Integer)
seen = Table("seen", database.METADATA, *columns)
who, start = sys.argv[1], float(sys.argv[2])
time.sleep(max(0, start - time.time()))
for n in range(int(sys.argv[3])):
    with database.transaction() as connection:
        connection.execute(insert(seen).values(who=who, n=n))
"""


def write_from_two_processes(folder: Path, transactions: int) -> None:
    (folder / "writer.py").write_text(WRITER)
    start = str(time.time() + 1.5)
    processes = [
        subprocess.Popen(
            [sys.executable, folder / "writer.py", who, start, str(transactions)],
            cwd=db.ROOT,
            env={**os.environ, "PYTHONPATH": str(db.ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for who in "ab"
    ]
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said


def written() -> list[tuple[str, int, int]]:
    query = "SELECT who, count(*), count(DISTINCT n) FROM seen GROUP BY who ORDER BY who"
    with db.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_two_processes_write_to_sqlite(database: str, tmp_path: Path) -> None:
    """From the first moment on: who creates the file switches its journal, and the other must wait for that."""
    write_from_two_processes(tmp_path, 200)
    assert written() == [("a", 200, 200), ("b", 200, 200)]
    with sqlite3.connect(tmp_path / "assay.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_two_processes_make_tables_in_postgresql(
    postgres: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(db.URL, postgres())
    write_from_two_processes(tmp_path, 25)
    assert written() == [("a", 25, 25), ("b", 25, 25)]


def test_who_makes_tables_waits_for_another_one(postgres: Callable[[], str]) -> None:
    url, done = postgres(), []
    other = threading.Thread(target=lambda: done.append(count(url)))
    with db.transaction(url) as connection:
        db.make(connection, THINGS.metadata)
        connection.execute(insert(THINGS).values(note="a"))
        other.start()
        other.join(0.3)
        assert not done
    other.join(10)
    assert done == [1]


def test_a_switch_of_the_journal_waits_for_the_one_who_holds_it(tmp_path: Path) -> None:
    """SQLite itself refuses at once here, whatever its timeout."""
    holder = sqlite3.connect(tmp_path / "assay.db", isolation_level=None, check_same_thread=False)
    holder.execute("CREATE TABLE t (x)")
    holder.execute("BEGIN IMMEDIATE")
    impatient = sqlite3.connect(tmp_path / "assay.db", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        impatient.execute("PRAGMA journal_mode=WAL")
    threading.Timer(0.2, holder.execute, ["COMMIT"]).start()
    started = time.monotonic()
    db._wal(impatient, None)
    assert time.monotonic() - started >= 0.15
    assert impatient.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    impatient.close()
    holder.close()


THINGS = Table("things", MetaData(), Column("id", Integer, primary_key=True), Column("note", Text))


def count(url: str) -> int:
    with db.transaction(url) as connection:
        db.make(connection, THINGS.metadata)
        return connection.execute(text("SELECT count(*) FROM things")).scalar_one()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/assay.db" if request.param == "sqlite" else request.getfixturevalue("postgres")()


def test_all_of_a_block_or_nothing(url: str) -> None:
    with pytest.raises(DataError, match="^stop$"), db.transaction(url) as connection:
        db.make(connection, THINGS.metadata)
        connection.execute(insert(THINGS).values(note="a"))
        raise DataError("stop")
    assert count(url) == 0
    with db.transaction(url) as connection:
        connection.execute(insert(THINGS).values(note="a"))
    assert count(url) == 1


def test_what_the_database_refuses_is_a_sentence(url: str) -> None:
    with (
        pytest.raises(RegistryError, match=r"^the database .+ failed: .*(nowhere).*") as caught,
        db.transaction(url) as connection,
    ):
        connection.execute(text("SELECT * FROM nowhere"))
    assert "\n" not in str(caught.value)


def test_a_full_disk(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/assay.db"
    count(url)
    with (
        pytest.raises(RegistryError, match=rf"^the database sqlite:///{tmp_path}/assay.db failed: .*disk is full"),
        db.transaction(url) as connection,
    ):
        connection.execute(insert(THINGS).values(note="kept?"))
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # no page more than there are
        connection.execute(insert(THINGS).values(note="x" * 100_000))
    assert count(url) == 0


def test_a_file_that_may_only_be_read(tmp_path: Path) -> None:
    count(f"sqlite:///{tmp_path}/assay.db")
    with (
        pytest.raises(RegistryError, match=r"^the database sqlite:///file.*/assay.db failed: .*readonly"),
        db.transaction(f"sqlite:///file:{tmp_path}/assay.db?mode=ro&uri=true") as connection,
    ):
        connection.execute(insert(THINGS).values(note="a"))


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with (
        pytest.raises(RegistryError, match=r"/none/assay.db failed: unable to open database file$"),
        db.transaction(f"sqlite:///{tmp_path}/none/assay.db"),
    ):
        pass


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("no url", "must be a SQLAlchemy URL with its driver installed"),
        ("nosuch://me:hush-hush@host/db", "must be a SQLAlchemy URL with its driver installed"),
        ("oracle+cx_oracle://me:hush-hush@host/db", "must be a SQLAlchemy URL with its driver installed"),
        ("postgresql+psycopg://me:hush-hush@host:port/db", "must be a SQLAlchemy URL with its driver installed"),
        (
            "postgresql+psycopg://me:hush-hush@127.0.0.1:9/db?application_name=hush",
            "the database postgresql+psycopg://me:***@127.0.0.1:9/db failed: ",
        ),
        ("postgresql+psycopg://127.0.0.1:9/db?user=me&password=hush-hush", "the database postgresql+psycopg://127"),
    ],
)
def test_databases_that_cannot_be_had(url: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(db.URL, url)
    with pytest.raises(RegistryError) as caught, db.transaction():
        pass
    assert sentence in str(caught.value)
    assert "hush" not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)
