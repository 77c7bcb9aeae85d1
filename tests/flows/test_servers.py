"""The servers of `make ui` and of a single run, on free ports, for real."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows import server, ui
from flows.settings import ROOT
from pipeline.errors import LineError
from tests.conftest import copied
from tests.flows.conftest import until

RUN = """
from prefect import flow
from prefect.settings import PREFECT_API_URL
from flows import server

@flow(name="tiny")
def tiny():
    return PREFECT_API_URL.value()

with server.running():
    print(tiny())
"""


@dataclass
class Pages:
    """`make ui` at work."""

    process: subprocess.Popen[str]
    mlflow: int
    prefect: int
    environment: dict[str, str]

    def run(self) -> str:
        """The API that a flow in another process reported to."""
        return subprocess.check_output([sys.executable, "-c", RUN], cwd=ROOT, env=self.environment, text=True).strip()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, migrated: Path) -> Iterator[Pages]:
    home = tmp_path_factory.mktemp("ui")
    (home / "prefect").mkdir()
    copied(migrated, home / "prefect/prefect.db")
    copied(empty_store, home / "mlflow.db")
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {
        "PREFECT_HOME": str(home / "prefect"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
    }
    mlflow, prefect = server.free_port(), server.free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.ui", "--mlflow-port", str(mlflow), "--prefect-port", str(prefect)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield Pages(process, mlflow, prefect, environment)
    process.kill()
    process.wait()


def test_both_pages_answer_and_runs_go_there_until_ctrl_c(pages: Pages) -> None:
    assert pages.process.stdout is not None
    told = [pages.process.stdout.readline().rstrip() for _ in range(3)]
    assert told == [
        f"MLflow   http://127.0.0.1:{pages.mlflow}",
        f"Prefect  http://127.0.0.1:{pages.prefect}",
        "Ctrl-C ends both",
    ]
    for port, word in ((pages.mlflow, b"MLflow"), (pages.prefect, b"Prefect")):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as reply:
            assert word in reply.read()
    assert pages.run() == f"http://127.0.0.1:{pages.prefect}/api"
    pages.process.send_signal(signal.SIGINT)
    rest, _ = pages.process.communicate(timeout=60)
    assert (pages.process.returncode, rest) == (0, "both ended\n")
    assert not server.in_use(pages.mlflow)
    assert not server.in_use(pages.prefect)
    own = pages.run()  # a server of its own, over the same database
    assert own not in ("", f"http://127.0.0.1:{pages.prefect}/api")
    assert not server.in_use(int(own.split(":")[2].split("/")[0]))


def test_a_server_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from flows import server\n"
        "child = server.start('http.server', '--bind', '127.0.0.1', sys.argv[1], log=Path(sys.argv[2]))\n"
        "time.sleep(600)"
    )
    port = server.free_port()
    parent = subprocess.Popen([sys.executable, "-c", code, str(port), str(tmp_path / "log")], cwd=ROOT)
    until(lambda: server.in_use(port), "the child")
    parent.kill()
    parent.wait()
    until(lambda: not server.in_use(port), "the child to end")


def test_a_port_in_use_is_one_sentence(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty_store}")
    with socket.create_server((server.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LineError, match=rf"port {port} of 127\.0\.0\.1 is in use; .*--mlflow-port"):
            ui.main("--mlflow-port", str(port))
        with pytest.raises(LineError, match=rf"port {port} of 127\.0\.0\.1 is in use; .*--prefect-port"), \
                server.dedicated(port):  # fmt: skip
            pass


def test_a_named_server_that_is_down_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.free_port()}/api")
    said = r"^the Prefect server at http://127\.0\.0\.1:\d+/api \(PREFECT_API_URL\) does not answer"
    with pytest.raises(LineError, match=said), server.running():
        pass
