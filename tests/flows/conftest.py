"""Toy lines: real DVC repositories whose stages copy, count, wait or fail as a test needs."""

import gc
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

ROOT = Path(__file__).parents[2]
# Prefect's clients leave their sockets to the garbage collector
LOOSE_SOCKETS = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("no_socket_outlives_its_test"),
]
# python stage.py NAME OUT IN...: note the start in `ran`, obey NAME.do if it stands, write the inputs' text to OUT
STAGE = """
import sys, time
from pathlib import Path
name, out, *given = sys.argv[1:]
with open("ran", "a") as file:
    file.write(f"{name} ")
order = Path(f"{name}.do")
if order.exists():
    exec(order.read_text())
path = Path(out)
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text("".join(Path(g).read_text() if Path(g).is_file() else str(sorted(Path(g).iterdir())) for g in given))
print(f"wrote {out}")
print(f"{name}: 0.1 s, peak 1 MB")
"""
WAIT = "Path(f'{name}.pid').write_text(str(__import__('os').getpid()))\nwhile not Path('go').exists(): time.sleep(0.05)"
FLOW = """
import signal, sys
from pathlib import Path
from flows import train
from pipeline.ending import one_sentence
from tests.flows.toy import reproduce
signal.signal(signal.SIGTERM, signal.default_int_handler)
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path(sys.argv[1])
with one_sentence(folder / "error.log"), train.alone(folder):
    reproduce(folder)
"""


@dataclass(frozen=True)
class Toy:
    """A line in `folder`."""

    folder: Path

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def ran(self) -> list[str]:
        """The stages that have run since the last call, in the order of their starts."""
        found = self.text("ran").split()
        self.write("ran", "")
        return found

    def start(self) -> subprocess.Popen[str]:
        """Reproduce the line in a process of its own, as a command would."""
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [sys.executable, "-c", FLOW, str(self.folder)],
            env=os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def make(folder: Path, stages: dict[str, object]) -> Toy:
    (folder / ".dvc").mkdir(parents=True)
    toy = Toy(folder)
    toy.write(".dvc/config", "[core]\n    analytics = false\n    check_update = false\n    no_scm = true\n")
    toy.write("dvc.yaml", yaml.safe_dump({"stages": stages}, sort_keys=False))
    toy.write("stage.py", STAGE)
    toy.write("raw.txt", "raw")
    return toy


def stage(name: str, out: str, *given: str) -> dict[str, object]:
    return {"cmd": f"python stage.py {name} {out} {' '.join(given)}", "deps": list(given), "outs": [out]}


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def settled() -> None:
    """What is loaded by now is not looked at by each later collection, which would take half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_socket_outlives_its_test(settled: None) -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture
def toy(tmp_path: Path, prefect: None) -> Iterator[Toy]:
    """raw.txt -> first -> left, right (side by side) -> last."""
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # as flows/server.py sets it
        yield make(
            tmp_path / "toy",
            {
                "last": stage("last", "last.txt", "parts"),
                "left": stage("left", "parts/left.txt", "first.txt"),
                "right": stage("right", "parts/right.txt", "first.txt"),
                "first": stage("first", "first.txt", "raw.txt"),
            },
        )
