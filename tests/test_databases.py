"""Databases by URL: SQLite under two writers, PostgreSQL where it is installed, and what is said where none answers."""

import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from pipeline import address, database, tracking
from pipeline.errors import LineError, RegistryError
from tests.postgres import connect, free_port

ROOT = Path(__file__).parents[1]

LOG_RUNS = """
import sys
from pipeline import tracking
client = tracking.connect().client
(experiment,) = client.search_experiments(filter_string="name = 'parts'")
print(flush=True)
sys.stdin.read()
for _ in range(5):
    run = client.create_run(experiment.experiment_id)
    for step in range(5):
        client.log_metric(run.info.run_id, "loss", step, step=step)
    client.set_terminated(run.info.run_id)
"""


def test_every_call_gives_an_empty_database_of_its_own(postgres: Callable[[], str]) -> None:
    first, second = postgres(), postgres()
    with connect(first) as connection:
        connection.execute("CREATE TABLE t (x int)")
    with connect(second) as connection:
        (tables,) = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert (first != second, tables) == (True, 0)


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as store:
        return store.execute(query).fetchall()


def test_two_processes_log_runs_into_one_sqlite_store_at_once(store: str, tmp_path: Path) -> None:
    tracking.connect().client.create_experiment("parts")
    command = [sys.executable, "-c", LOG_RUNS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen(command, cwd=ROOT, env=os.environ, **pipes) for _ in range(2)]
    for writer in writers:
        writer.stdout.readline()  # both are connected before either begins
    said = []
    ends = [threading.Thread(target=lambda w=writer: said.append(w.communicate(timeout=60)[1])) for writer in writers]
    for end in ends:
        end.start()
    for end in ends:
        end.join()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert said == ["", ""]
    assert rows(tmp_path / "mlflow.db", "SELECT count(*) FROM runs WHERE status = 'FINISHED'") == [(10,)]
    assert rows(tmp_path / "mlflow.db", "SELECT count(*) FROM metrics") == [(50,)]


def test_a_writer_of_the_sqlite_store_does_not_stop_readers_and_others_wait_for_it(store: str, tmp_path: Path) -> None:
    client = tracking.connect().client
    assert rows(tmp_path / "mlflow.db", "PRAGMA journal_mode") == [("wal",)]
    with closing(sqlite3.connect(tmp_path / "mlflow.db", check_same_thread=False, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        assert [found.name for found in client.search_experiments()] == ["Default"]
        assert time.monotonic() - began < 0.5
        threading.Timer(0.6, lambda: other.execute("COMMIT")).start()
        client.create_experiment("parts")
        assert time.monotonic() - began >= 0.6


def test_a_store_that_another_process_holds_stays_in_its_mode(store: str, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(address, "PATIENCE", 0.1)
            address.write_ahead(f"sqlite:///{path}")
        other.execute("COMMIT")
        assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    address.write_ahead(f"sqlite:///{path}")
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]
    address.write_ahead(f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()


def test_prefect_opens_sqlite_in_wal_mode_and_waits_a_minute(tmp_path: Path) -> None:
    code = f"""
import asyncio, flows
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy import text
async def main():
    engine = await AioSqliteConfiguration("sqlite+aiosqlite:///{tmp_path}/prefect.db").engine()
    async with engine.connect() as connection:
        for pragma in ("journal_mode", "busy_timeout"):
            print((await connection.execute(text("PRAGMA " + pragma))).scalar())
    await engine.dispose()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["wal", "60000"], done.stderr


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://me@host/db", "postgresql+psycopg://me@host/db"),
        ("postgres://me@host/db", "postgresql+psycopg://me@host/db"),
        ("postgresql+psycopg2://me@host/db", "postgresql+psycopg2://me@host/db"),
        ("http://postgresql://", "http://postgresql://"),
        ("sqlite:////a/mlflow.db", "sqlite:////a/mlflow.db"),
    ],
)
def test_postgresql_without_a_driver_gets_the_one_that_is_installed(given: str, used: str) -> None:
    assert address.with_driver(given) == used


@pytest.mark.parametrize("driver", ["", "+psycopg"])
def test_versions_and_aliases_in_postgresql(
    driver: str, postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url.replace("+psycopg", driver))
    client = tracking.connect().client
    client.create_registered_model("parts")
    client.create_model_version("parts", "file:///nowhere", None)
    client.set_registered_model_alias("parts", "champion", "1")
    assert tracking.connect().alias("parts", "champion").number == 1
    with connect(url) as connection:
        found = connection.execute("SELECT name, alias, version FROM registered_model_aliases").fetchall()
    assert found == [("parts", "champion", 1)]


def test_results_in_postgresql_are_all_or_nothing(postgres: Callable[[], str]) -> None:
    url = postgres()
    with database.transaction(url) as connection:
        connection.execute(text("CREATE TABLE t (x int)"))
    with pytest.raises(ZeroDivisionError), database.transaction(url) as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
        raise ZeroDivisionError
    with database.transaction(url.replace("+psycopg", "")) as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 0


def test_a_role_that_postgresql_does_not_know_ends_in_one_sentence(
    postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres().replace("postgres@", "stranger:se%3Acret@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    for ask in (tracking.connect, lambda: database.transaction(url).__enter__()):
        began = time.monotonic()
        with pytest.raises(RegistryError, match='role "stranger" does not exist') as raised:
            ask()
        assert time.monotonic() - began < 5
        assert "cret" not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_postgresql_that_is_down_or_silent_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "PATIENCE", 2.0)
    monkeypatch.setattr(database, "ANSWER", 2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (free_port(), silent.getsockname()[1]):
            url = f"postgresql+psycopg://me:secret@127.0.0.1:{port}/db"
            monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
            for ask in (tracking.connect, lambda u=url: database.transaction(u).__enter__()):
                began = time.monotonic()
                with pytest.raises(RegistryError, match=f"127.0.0.1:{port}/db") as raised:
                    ask()
                assert time.monotonic() - began < 10
                assert "secret" not in str(raised.value)
                assert "\n" not in str(raised.value)


def test_a_database_of_prefect_that_is_down_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import server

    url = f"postgresql+asyncpg://me:secret@127.0.0.1:{free_port()}/db"
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", url)
    with pytest.raises(RegistryError, match="^the database of Prefect at postgresql.*does not answer") as raised:
        server.start_prefect(free_port(), tmp_path / "log")
    assert "secret" not in str(raised.value)
    assert not (tmp_path / "log").exists()


def test_a_server_that_ends_is_told_by_its_error_and_not_by_its_last_line(tmp_path: Path) -> None:
    from flows import server

    log = tmp_path / "log"
    log.write_text("Traceback\n  raise\na.b.DBAPIError: no such role\n\nFatal Python error\n  <no Python frame>\n")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
        with pytest.raises(LineError, match=r"^P did not start: a\.b\.DBAPIError: no such role \(all it said: "):
            server.wait(ended, f"http://127.0.0.1:{free_port()}", "P", log)
