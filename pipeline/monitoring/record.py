"""What monitoring keeps in SQL: one row per batch, and per version and calibration the state of what runs over batches.

A batch is recorded once, however often it is asked for and by however many processes: its row and the state that has
seen it are written in one transaction, which only goes through if the state is the one that was read. Batches are in
the order of their `number`; clocks are told, and order nothing. Martingales are told as logarithms to base 10.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Integer,
    LargeBinary,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from pipeline.database import METADATA, transaction
from pipeline.errors import RegistryError
from pipeline.monitoring import judged
from pipeline.monitoring.judged import Seen, State
from pipeline.monitoring.reference import Reference
from pipeline.params import Params
from pipeline.threshold import Calibration

ATTEMPTS = 100  # to write while others do

BATCHES = Table(
    "monitoring_batches",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("name", String(250), nullable=False),
    Column("batch", String(250), nullable=False),
    Column("version", Integer, nullable=False),
    Column("calibration", String(64), nullable=False),
    Column("started", String(40), nullable=False),
    *(Column(name, Integer) for name in judged.COUNTS),
    *(Column(name, Float) for name in judged.FIGURES),
    *(Column(name, Boolean, nullable=False) for name in ("drift", "broken")),
    *(Column(name, Text, nullable=False) for name in ("inputs", "warnings", "says")),
    UniqueConstraint("name", "batch"),
)
STATES = Table(
    "monitoring_states",
    METADATA,
    Column("name", String(250), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("calibration", String(64), primary_key=True),
    Column("batches", Integer, nullable=False),
    Column("martingale", LargeBinary, nullable=False),
    Column("alarms", Text, nullable=False),
)


@dataclass(frozen=True)
class Verdict:
    """What monitoring says of one batch. `drift`: the martingale reached its threshold in it; `broken`: the evidence
    against the promised alarm rate did. `new` is False for a batch that had been recorded before."""

    number: int
    drift: bool
    broken: bool
    warnings: list[str]
    says: str
    new: bool


def record(params: Params, report: dict[str, Any]) -> Verdict:
    """Record the scored batch of a report (see results.py; with its `folder`), with the calibration that judged it and
    the reference of its version. Raises RegistryError when they, or the database, cannot be reached."""
    from pipeline.monitoring import look_up  # needs MLflow, which takes seconds to load

    found = _stored(report)
    if found is not None:
        return found
    calibration, reference = look_up.of(report)
    return add(params, report, Path(report["folder"]), calibration, reference)


def add(
    params: Params, report: dict[str, Any], folder: Path, calibration: Calibration, reference: Reference | None
) -> Verdict:
    """The same with all that it takes at hand; without a reference drift of inputs is unknown."""
    found = _stored(report)
    if found is not None:
        return found
    seen = Seen.of(params.monitor, report, folder, calibration, reference)
    key = {"name": report["name"], "version": report["version"], "calibration": seen.key}
    for _ in range(ATTEMPTS):
        before, state = _state(key)
        row, state = seen.judge(state)
        row |= {**key, "batch": report["batch"], "started": report["started"]}
        if _write(key, before, state, row):
            break
        if (found := _stored(report)) is not None:  # another process has recorded it meanwhile
            return found
    else:
        raise RegistryError(f"batch {report['batch']} could not be recorded: others keep writing to {report['name']}")
    written = _stored(report)
    assert written is not None
    return Verdict(**{**vars(written), "new": True})


def history(name: str, last: int | None = None) -> pd.DataFrame:
    """The batches of a registered name (the `last` ones), one row each, the oldest first."""
    query = select(BATCHES).where(BATCHES.c.name == name).order_by(BATCHES.c.number.desc())
    with transaction() as connection:
        rows = connection.execute(query if last is None else query.limit(last)).mappings().all()
    return pd.DataFrame([dict(row) for row in reversed(rows)], columns=list(BATCHES.c.keys()))


def _stored(report: dict[str, Any]) -> Verdict | None:
    wanted = (BATCHES.c.name == report["name"]) & (BATCHES.c.batch == report["batch"])
    with transaction() as connection:
        row: Row | None = connection.execute(select(BATCHES).where(wanted)).first()
    if row is None:
        return None
    return Verdict(row.number, row.drift, row.broken, json.loads(row.warnings), row.says, False)


def _of(key: dict[str, Any]) -> Any:
    return (
        (STATES.c.name == key["name"])
        & (STATES.c.version == key["version"])
        & (STATES.c.calibration == key["calibration"])
    )


def _state(key: dict[str, Any]) -> tuple[int, State | None]:
    """How many batches the state has seen, and the state; 0 and None before the first."""
    with transaction() as connection:
        row = connection.execute(select(STATES).where(_of(key))).first()
    return (0, None) if row is None else (row.batches, (bytes(row.martingale), row.alarms))


def _write(key: dict[str, Any], before: int, state: State, row: dict[str, Any]) -> bool:
    """Write the row and the state that has seen it; False, and nothing written, when another process was faster."""
    values = {"batches": before + 1, "martingale": state[0], "alarms": state[1]}
    try:
        with transaction() as connection:
            try:
                if before == 0:
                    connection.execute(insert(STATES).values(**key, **values))
                else:
                    seen = _of(key) & (STATES.c.batches == before)
                    if connection.execute(update(STATES).where(seen).values(**values)).rowcount != 1:
                        return False
                connection.execute(insert(BATCHES).values(**row))
            except IntegrityError as error:
                raise _Lost from error
    except _Lost:
        return False
    return True


class _Lost(Exception):
    """Another process wrote first."""
