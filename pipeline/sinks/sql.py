"""The scores of every batch in one SQL table, of the database that ASSAY_DATABASE_URL names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
from pydantic import StringConstraints
from sqlalchemy import Column, Connection, DateTime, Double, Integer, MetaData, Table, Text, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from pipeline import database
from pipeline.errors import DeliveryError

KEY = ("model_name", "model_version", "id")
ROWS = 10_000  # rows held in memory at a time
NUMBERED = re.compile(r"(^|/)row-\d{7,}$")  # an id that ingest gave to a row without one
INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}  # who knows ON CONFLICT DO UPDATE


@dataclass(frozen=True)
class Sql:
    """One row per sample and version of the model in `table`, which is made where it is missing: the last score that a
    version gave to an id. All rows of a batch come in one transaction.

    Rows without an id of their own are called row-0000001 and so on in every batch: in the table the beginning of the
    batch's data hash stands before these."""

    table: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")] = "scores"
    """The table's name; made where it is missing."""

    def deliver(self, scores: Path, report: dict[str, Any]) -> str:
        table, count = _table(self.table), 0
        with database.transaction() as connection:
            statement = _upsert(connection, table)
            database.make(connection, table.metadata)
            _must_fit(connection, table)
            for rows in _rows(scores, report):
                connection.execute(statement, rows)
                count += len(rows)
        return f"wrote {count:,} rows to the table {self.table}"


def _table(name: str) -> Table:
    return Table(
        name,
        MetaData(),
        Column("model_name", Text, primary_key=True),
        Column("model_version", Integer, primary_key=True, autoincrement=False),
        Column("id", Text, primary_key=True),
        Column("batch", Text, nullable=False),
        Column("score", Double, nullable=False),
        Column("p_value", Double),
        Column("decision", Text, nullable=False),
        Column("because", Text),
        Column("scored_at", DateTime(timezone=True), nullable=False),  # UTC
        sqlite_with_rowid=False,
    )


def _upsert(connection: Connection, table: Table) -> Insert:
    if connection.dialect.name not in INSERTS:
        raise DeliveryError(
            f"the sink sql needs {' or '.join(INSERTS)} in {database.URL}, got {connection.dialect.name}"
        )
    statement = INSERTS[connection.dialect.name](table)
    others = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in KEY}
    return statement.on_conflict_do_update(index_elements=list(KEY), set_=others)


def _must_fit(connection: Connection, table: Table) -> None:
    """Raise DeliveryError for a table of that name that is somebody else's."""
    there = inspect(connection)
    columns = {column["name"]: column for column in there.get_columns(table.name)}
    wrong = [f"{name} is missing" for name in table.columns.keys() if name not in columns]  # noqa: SIM118
    wrong += [
        f"{name} needs a value"
        for name, column in columns.items()
        if name not in table.columns and not column["nullable"] and column["default"] is None
    ]
    keys = [there.get_pk_constraint(table.name)["constrained_columns"]]
    keys += [unique["column_names"] for unique in there.get_unique_constraints(table.name)]
    if not wrong and set(KEY) not in map(set, keys):
        wrong = [f"its key is ({', '.join(keys[0]) or 'none'}) and not ({', '.join(KEY)})"]
    if wrong:
        raise DeliveryError(
            f"the table {table.name} must have the columns {', '.join(table.columns.keys())} with the key"
            f" ({', '.join(KEY)}), but {'; '.join(wrong)}: name another one in table of the sink sql (params.yaml)"
        )


def _rows(scores: Path, report: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Some rows of the file at a time."""
    all_have = {
        "model_name": report["name"],
        "model_version": int(report["version"]),
        "batch": report["batch"],
        "scored_at": datetime.fromisoformat(report["started"]).astimezone(UTC),
        "because": None,
    }
    with pq.ParquetFile(scores) as file:
        columns = ["id", "score", "p_value", "decision"]
        columns += ["because"] if "because" in file.schema_arrow.names else []
        for group in range(file.num_row_groups):  # all at once would hold more, the further they are read
            for part in file.iter_batches(ROWS, [group], columns):
                rows = [all_have | row for row in part.to_pylist()]
                for row in rows:
                    row["because"] = row["because"] or None
                    if NUMBERED.search(row["id"]):
                        row["id"] = f"{report['data_hash'][:12]}/{row['id']}"
                if rows:
                    yield rows
