"""Databases by URL: SQLite under two writers, PostgreSQL where it is installed."""

from collections.abc import Callable

from tests.postgres import connect


def test_every_call_gives_an_empty_database_of_its_own(postgres: Callable[[], str]) -> None:
    first, second = postgres(), postgres()
    with connect(first) as connection:
        connection.execute("CREATE TABLE t (x int)")
    with connect(second) as connection:
        (tables,) = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert (first != second, tables) == (True, 0)
