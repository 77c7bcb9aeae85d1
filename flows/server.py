"""The Prefect server that a run reports to: the one that is named or runs already, else one of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from flows.settings import ROOT, TEMPORARY_SERVER
from pipeline.address import must_answer
from pipeline.errors import LineError
from pipeline.files import whole_file

HOST = "127.0.0.1"
PORT = 4200  # Prefect's own
ANNOUNCED, STARTING = (
    "ui.url",
    "start.lock",
)  # in Prefect's home: the address of `make ui`'s server; one start at a time
DATABASE = "PREFECT_API_DATABASE_CONNECTION_URL"
ERROR = re.compile(r"[\w.]+(Error|Exception): ")  # the line of a log that says what was wrong
PATIENCE = 120.0  # seconds that a server may take to answer first; a fresh database takes 10 on two cores
# A child that ends when its parent does, even when the parent is killed: then the pipe on its stdin closes.
CHILD = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
def watch():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGINT) if hasattr(os, "killpg") else os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=watch, daemon=True).start()
from runpy import run_module
sys.argv = sys.argv[1:]
run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def home() -> Path:
    """Prefect's folder, which `flows/settings.py` puts into the checkout."""
    return Path(os.environ["PREFECT_HOME"]).expanduser()


def answers(address: str, says: bytes = b"true", patience: float = 2.0) -> bool:
    """Whether a server answers under `address` with `says`, as a Prefect server does under its API's /health."""
    try:
        with urllib.request.urlopen(address, timeout=patience) as reply:
            return reply.status == 200 and reply.read(len(says)) == says
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except (OSError, ValueError):
        return False


def free_port() -> int:
    """A port of the loopback interface that nothing uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def in_use(port: int) -> bool:
    """Whether something listens on `port` of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def start(module: str, *words: str, log: Path, **settings: str) -> subprocess.Popen[bytes]:
    """Start `python -m module words` as a child that ends with this process; what it says goes to the file `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, module, *words],
            cwd=ROOT,
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for us: the servers stop last
        )


def start_prefect(port: int, log: Path, *words: str, **settings: str) -> subprocess.Popen[bytes]:
    """Start a Prefect server on the loopback interface. Raises RegistryError when its database does not answer."""
    database = os.environ.get(DATABASE)
    if database:  # it would wait, and then say it with a stack trace
        must_answer(database, "database of Prefect", DATABASE)
    words = ("server", "start", "--host", HOST, "--port", str(port), "--log-level", "WARNING", *words)
    return start("prefect", *words, log=log, PREFECT_API_URL=api_url(port), **settings)


def api_url(port: int) -> str:
    """The API of a Prefect server on the loopback interface."""
    return f"http://{HOST}:{port}/api"


def stop(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """End a child and all that it started: ask, and after `patience` seconds kill."""
    if process.stdin:
        process.stdin.close()  # it interrupts itself
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:  # Windows
        process.kill()
    process.wait()


def wait(process: subprocess.Popen[bytes], address: str, what: str, log: Path, says: bytes = b"true") -> None:
    """Wait until `what` answers under `address`. Raises LineError when it ends or takes too long."""
    until = time.monotonic() + PATIENCE
    while not answers(address, says):
        if process.poll() is not None or time.monotonic() > until:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            errors = [line for line in said if ERROR.match(line)]
            last = f": {(errors or said)[-1].strip()}" if said else ""
            raise LineError(f"{what} did not start{last} (all it said: {log})")
        time.sleep(0.05)


def reachable() -> str | None:
    """The API address of the server to report to: PREFECT_API_URL's, or the one of `make ui`; None without one.

    Raises LineError when PREFECT_API_URL names a server that does not answer."""
    given = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if given:
        if not answers(f"{given}/health", patience=10):
            raise LineError(
                f"the Prefect server at {given} (PREFECT_API_URL) does not answer; start it, or unset PREFECT_API_URL"
            )
        return given
    try:
        api = (home() / ANNOUNCED).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return api if answers(f"{api}/health") else None


@contextmanager
def dedicated(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A whole Prefect server, page and scheduler included, on `port`; runs on this machine find it meanwhile.

    Raises LineError when the port is in use or the server does not start."""
    if in_use(port):
        raise LineError(f"port {port} of {HOST} is in use; stop what uses it, or choose another with --prefect-port")
    log, announced = home() / f"server-{port}.log", home() / ANNOUNCED
    home().mkdir(parents=True, exist_ok=True)
    with FileLock(home() / STARTING):  # two first starts would both migrate the database
        process = start_prefect(port, log)
        try:
            wait(process, f"{api_url(port)}/health", "Prefect's server", log)
        except BaseException:
            stop(process)
            raise
    try:
        with whole_file(announced) as partial:
            partial.write_text(f"{api_url(port)}\n", encoding="utf-8")
        yield process
    finally:
        announced.unlink(missing_ok=True)
        stop(process)


def _client(api: str) -> dict[Any, Any]:
    """Prefect's settings for flows in this process. No heartbeats: each flow would wait up to 1 s for their end."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY

    return {PREFECT_API_URL: api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}


@contextmanager
def running(meanwhile: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let flows that run in the block report to a server: a reachable one, else one of their own, that ends with them.

    `meanwhile` is called while it starts, and may raise. Raises LineError as `reachable` does, or when our own
    does not start."""
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import temporary_settings

    api = reachable()
    if api:
        meanwhile()
        with temporary_settings(_client(api)):
            yield
        return
    home().mkdir(parents=True, exist_ok=True)
    port, log = free_port(), home() / f"server-{os.getpid()}.log"
    words = ("--no-ui", "--analytics-off", "--no-scheduler", "--no-late-runs")
    with FileLock(home() / STARTING):
        process = start_prefect(port, log, *words, **TEMPORARY_SERVER)
        try:
            meanwhile()
            wait(process, f"{api_url(port)}/health", "Prefect's server", log)
        except BaseException:
            _end(process, log, keep=process.poll() is not None)  # its log says why it ended
            raise
    try:
        with temporary_settings(_client(api_url(port))):
            yield
    finally:
        APILogHandler().flush()
        _end(process, log)


def _end(process: subprocess.Popen[bytes], log: Path, keep: bool = False) -> None:
    stop(process)
    if not keep:
        log.unlink(missing_ok=True)
