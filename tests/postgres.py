"""A real PostgreSQL for the tests, where it is installed: one server per worker of pytest."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from glob import glob
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

PATIENCE = 30.0  # seconds in which a server must answer
# what is written here is thrown away: nothing needs to survive a crash, and nothing but loopback is listened to
OPTIONS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "unix_socket_directories=",
    "max_wal_size=64MB",
)


def binaries() -> Path | None:
    """The folder with `initdb` and `postgres`; the newest of Debian's, else what PATH has; None without any."""
    found = sorted(glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: float(Path(path).parts[-3]))
    path = found[-1] if found else shutil.which("initdb")
    return path and Path(path).resolve().parent


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A server with its data in a temporary folder and the programs of `folder`; its address without a database."""
    who: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        entry = _unprivileged()
        who = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    home = Path(tempfile.mkdtemp(prefix="assay-postgres-"))
    try:
        if who:
            os.chown(home, who["user"], who["group"])
        data, log = home / "data", home / "log"
        shared: dict[str, Any] = {**who, "cwd": home, "env": {**os.environ, "HOME": str(home), "LC_ALL": "C"}}
        initdb = (folder / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        made = subprocess.run(initdb, capture_output=True, text=True, **shared)
        assert made.returncode == 0, made.stderr
        for _ in range(5):  # another program may take the free port first
            port = free_port()
            with log.open("wb") as out:
                options = [word for option in (*OPTIONS, "listen_addresses=127.0.0.1") for word in ("-c", option)]
                command = (folder / "postgres", "-D", data, "-p", str(port), *options)
                process = subprocess.Popen(command, stdout=out, stderr=out, **shared)
            try:
                if _answers(process, port, data):
                    yield f"postgresql+psycopg://postgres@127.0.0.1:{port}"
                    return
            finally:
                process.send_signal(signal.SIGQUIT)  # at once: the data go
                process.wait(PATIENCE)
        raise AssertionError(f"PostgreSQL does not start: {log.read_text()[-2000:]}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listened on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect(url: str) -> psycopg.Connection:
    """A connection of psycopg's own to a SQLAlchemy URL."""
    return psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """A function that makes an empty database and gives its URL, postgresql+psycopg://..., on a server of this session.

    Skips where PostgreSQL is not installed."""
    folder = binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    numbers = count(1)
    with server(folder) as address:

        def database() -> str:
            name = f"test_{next(numbers)}"
            with connect(f"{address}/postgres") as connection:
                connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            return f"{address}/{name}"

        yield database


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _answers(process: subprocess.Popen[bytes], port: int, data: Path) -> bool:
    """Wait until the server with these data takes connections at `port`; False when it ended instead."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(psycopg.OperationalError):
            with connect(f"postgresql://postgres@127.0.0.1:{port}/postgres?connect_timeout=5") as connection:
                (found,) = connection.execute("SHOW data_directory").fetchone()  # type: ignore[misc]
            if found == str(data):
                return True
        time.sleep(0.05)
    return False
