"""The run log, in SQL: what every run read, with which model, what came out, and how it ended.

It reports on the work and never decides over it: where the database cannot be written, the run says so once on stderr
and goes on. A run that was killed leaves no word; the next run on its machine finds that its process is gone and marks
it as ended by force (should that be wrong, after a jump of the clock, the run itself corrects it at its end).
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

import pandas as pd
import psutil
from sqlalchemy import Column, Float, Integer, String, Table, Text, insert, select, update

from pipeline import database, urls
from pipeline.errors import AssayError, RegistryError

RUNNING, DONE, FAILED, KILLED = "running", "done", "failed", "ended by force"
LONGEST = 2000  # characters of an error
SAME = 1.0  # seconds by which two readings of when one process was created may differ

RUNS = Table(
    "runs",
    database.METADATA,
    Column("id", String(32), primary_key=True),
    Column("flow", String(64), nullable=False),
    Column("line", Text, nullable=False),
    Column("source", Text),  # what was read, passwords left out
    Column("data_hash", String(64)),
    Column("model", Text),  # name and version
    Column("out", Text),  # counts, folder
    Column("verdict", Text),
    Column("started", String(32), nullable=False),  # UTC, ISO 8601
    Column("ended", String(32)),  # None while it runs, and where nobody knows
    Column("status", String(16), nullable=False),
    Column("error", Text),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("created", Float, nullable=False),  # when that process was, in seconds since 1970
)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass
class Entry:
    """A row of the table `runs` while its run is at work; `note` adds to it."""

    flow: str
    line: str
    source: str | None
    data_hash: str | None = None
    model: str | None = None
    out: str | None = None
    verdict: str | None = None
    id: str = field(default_factory=lambda: uuid4().hex)
    started: str = field(default_factory=lambda: _now())
    ended: str | None = None
    status: str = RUNNING
    error: str | None = None
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    created: float = field(default_factory=lambda: psutil.Process().create_time())

    def __post_init__(self) -> None:
        self._lost = False

    def note(
        self,
        source: str | None = None,
        data_hash: str | None = None,
        model: str | None = None,
        out: str | None = None,
        verdict: str | None = None,
    ) -> None:
        """Record what is known by now; what is None stays as it was."""
        self.source = urls.source(source) if source is not None else self.source
        self.data_hash, self.model = data_hash or self.data_hash, model or self.model
        self.out, self.verdict = out or self.out, verdict or self.verdict
        if not self._lost:  # else at the end once more, rather than waiting for an absent database again and again
            self._write()

    def _begin(self) -> None:
        try:
            mark_killed()
        except RegistryError as error:
            self._lose(error)
        else:
            self._write()

    def _end(self, status: str, error: str | None = None) -> None:
        self.status, self.error, self.ended = status, error and error[:LONGEST], _now()
        self._write()

    def _write(self) -> None:
        row = asdict(self)
        try:
            with database.transaction() as connection:
                if not connection.execute(update(RUNS).where(RUNS.c.id == self.id).values(row)).rowcount:
                    connection.execute(insert(RUNS).values(row))
        except RegistryError as error:
            self._lose(error)

    def _lose(self, error: RegistryError) -> None:
        if not self._lost:
            print(f"the run log misses this run: {error}", file=sys.stderr, flush=True)
        self._lost = True


@contextmanager
def run(flow: str, line: str, source: str | None = None) -> Iterator[Entry]:
    """Log a run of `flow` over `line` that reads `source`: its start, what is noted, and how the block ends.

    Raises only what the block raises."""
    entry = Entry(flow, line, None if source is None else urls.source(source))
    entry._begin()
    try:
        yield entry
    except BaseException as error:
        with suppress(Exception):  # the block's own error counts
            entry._end(FAILED, _sentence(error))
        raise
    entry._end(DONE)


def _sentence(error: BaseException) -> str:
    if isinstance(error, AssayError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"{type(error).__name__}: {error}"


def mark_killed() -> int:
    """Mark runs of this machine whose process is gone as ended by force; how many. Raises RegistryError."""
    running = select(RUNS.c.id, RUNS.c.pid, RUNS.c.created).where(
        RUNS.c.status == RUNNING, RUNS.c.host == socket.gethostname()
    )
    said = f"its process is gone without a word (noticed {_now()})"
    with database.transaction() as connection:
        gone = [row.id for row in connection.execute(running) if not _lives(row.pid, row.created)]
        for one in gone:
            connection.execute(update(RUNS).where(RUNS.c.id == one).values(status=KILLED, error=said))
    return len(gone)


def _lives(pid: int, created: float) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - created) < SAME
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # there is one, of which nothing may be known
        return True


def last(line: str | None = None, count: int = 20) -> pd.DataFrame:
    """The newest `count` runs, of `line` or of all, newest first: the columns of RUNS. Raises RegistryError."""
    wanted = select(RUNS).order_by(RUNS.c.started.desc(), RUNS.c.id).limit(count)
    with database.transaction() as connection:
        rows = connection.execute(wanted if line is None else wanted.where(RUNS.c.line == line)).all()
    return pd.DataFrame(rows, columns=list(RUNS.c.keys()), dtype=object)
