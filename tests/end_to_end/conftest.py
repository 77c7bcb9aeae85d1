"""A clone of this checkout in an empty place with an empty HOME, as a stranger would have it."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.files import sha256
from tests import tracked

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Checkout:
    """A clone; `run` runs a command in it (or in one of its lines) as its own process."""

    path: Path
    home: Path
    marks: dict[str, dict[str, str]] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        outside = ("MLFLOW_", "PREFECT_", "DVC_", "ASSAY_", "OMP_NUM_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(outside)}
        return kept | {
            "HOME": str(self.home),
            "PYTHONPATH": str(self.path),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self, *command: str, line: str = ".", **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.path / line,
            env=self.environment() | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, line: str = ".", expect: int | None = 0, **settings: str) -> str:
        process = self.start(*command, line=line, **settings)
        said, _ = process.communicate(timeout=280)
        assert expect is None or process.returncode == expect, f"{' '.join(command)} ended with {said[-3000:]}"
        return said

    def train(self, line: str = ".", expect: int | None = 0, **settings: str) -> str:
        return self.run("python", "-m", "flows.train", "--line", line, expect=expect, **settings)

    def repro(self, line: str = ".", *words: str, expect: int | None = 0, **settings: str) -> str:
        return self.run("dvc", "repro", *words, line=line, expect=expect, **settings)

    def lock(self, line: str = ".") -> str:
        return (self.path / line / "dvc.lock").read_text(encoding="utf-8")


def clone(to: Path) -> Checkout:
    """Copy what git tracks or would track (links as links) to `to`/checkout, as one commit of its own."""
    place, home = to / "checkout", to / "home"
    home.mkdir()
    tracked.copy(place)
    checkout = Checkout(place, home)
    checkout.run("git", "init", "--quiet")
    checkout.run("git", "add", "--all")
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    checkout.run("git", *who, "commit", "--quiet", "--message", "as cloned")
    return checkout


def kept(checkout: Checkout) -> dict[str, str]:
    """Content hashes of what the top line reads and makes."""
    return {name: sha256(checkout.path / name) for name in ("dvc.lock", "params.yaml", "models", "reports", "data")}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """One clone for all tests that leave its lines as they found them."""
    return clone(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="session")
def textures(checkout: Checkout) -> str:
    """What the image demo said on its first run."""
    said = checkout.train()
    checkout.marks["textures"] = kept(checkout)
    return said


@pytest.fixture(scope="session")
def wdbc(checkout: Checkout, textures: str) -> str:
    """What the table demo said on its first run, after the image demo."""
    return checkout.train("examples/wdbc")
