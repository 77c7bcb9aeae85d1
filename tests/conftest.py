"""A home of the tests' own, and what several of them share and is slow to make: a small line, servers, stores."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.browser import browser, context, page, watched  # noqa: F401  fixtures of every test, as the next
from tests.postgres import postgres  # noqa: F401

HOME = pytest.StashKey[Path]()
Once = Callable[[str, Callable[[Path], object]], Path]
# what starts first, so that no worker ends late
LONG = ("tests/end_to_end/", "tests/flows/", "tests/test_promotion.py")
DEMOS = {f"tests/end_to_end/test_{name}.py" for name in ("lines", "faults")}  # they share the lines that ran
MIGRATE = """
import asyncio
from prefect.server.database import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""


def pytest_configure(config: pytest.Config) -> None:
    """Let nothing that a test starts read or write the user's home, settings, stores or servers."""
    home = config.stash[HOME] = Path(tempfile.mkdtemp(prefix="assay-tests-"))
    outside = ("PREFECT_", "MLFLOW_", "DVC_", "ASSAY_", "XDG_", "GIT_")
    for name in [name for name in os.environ if name.startswith(outside)]:
        del os.environ[name]
    os.environ |= {
        "HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home.as_posix()}/mlflow.db",
        "ASSAY_DATABASE_URL": f"sqlite:///{home.as_posix()}/assay.db",
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "dvc-system"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site"),
        "DVC_NO_ANALYTICS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # as in pipeline/stages: servers and stages run beside the tests
    }
    if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; what a clone of the checkout starts has them all
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[HOME], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With -n and loadfile a file goes to one worker, in the order of collection; those of the demos to the same."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "demos" if file in DEMOS else file

    if config.option.dist != "loadfile":
        return None
    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once(name, make)` is a folder that `make` filled, by one worker of pytest for all; not to be changed."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, whole = shared / f"once-{name}", shared / f"once-{name}.made"
        with FileLock(shared / f"once-{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def migrated(once: Once) -> Path:
    """A Prefect database with its tables and nothing in it, which takes seconds to make."""

    def make(folder: Path) -> None:
        there = {"PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db"}
        subprocess.run([sys.executable, "-c", MIGRATE], env=os.environ | there, check=True)

    return once("prefect", make) / "prefect.db"


@pytest.fixture(scope="session")
def prefect(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server with a database of its own, for the whole session."""
    from prefect.testing import utilities

    import flows  # noqa: F401  its settings come before Prefect's

    folder = tmp_path_factory.mktemp("prefect")
    copied(migrated, folder / "prefect-test.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilities, "mkdtemp", lambda: str(folder))  # where the harness would make a database of its own
        with utilities.prefect_test_harness(server_startup_timeout=120):
            yield


@pytest.fixture(scope="session")
def empty_store(once: Once) -> Path:
    """An MLflow database with its tables and nothing in it; making one takes seconds, copying it does not."""

    def make(folder: Path) -> None:
        from pipeline import tracking

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
            tracking.initialise()

    return once("mlflow", make) / "mlflow.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty MLflow store of this test's own, which MLFLOW_TRACKING_URI names."""
    copied(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty database of results and monitoring of this test's own."""
    uri = f"sqlite:///{tmp_path}/assay.db"
    monkeypatch.setenv("ASSAY_DATABASE_URL", uri)
    return uri


@pytest.fixture(scope="session")
def line_that_ran(once: Once) -> Path:
    """A small table line after `evaluate`; not to be changed."""
    from tests import small_line  # imported here: MLflow's settings, made as it loads, must come after pytest_configure

    return once("line", lambda folder: small_line.make(folder / "parts")) / "parts"


@pytest.fixture
def line(line_that_ran: Path, tmp_path: Path) -> Path:
    """A copy of the small line, for this test alone."""
    return Path(shutil.copytree(line_that_ran, tmp_path / "line"))


def copied(database: Path, to: Path) -> None:
    """Copy a SQLite database, what its write-ahead log holds included."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


@pytest.fixture(scope="session")
def promoted(line_that_ran: Path, empty_store: Path, once: Once) -> Path:
    """A folder with the small line after its promotion, and MLflow's store beside it; not to be changed."""
    from tests import small_line

    def make(folder: Path) -> None:
        copied(empty_store, folder / "mlflow.db")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
            small_line.promoted(Path(shutil.copytree(line_that_ran, folder / "line")))

    return once("promoted", make)


@pytest.fixture
def ready(promoted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str) -> Path:
    """The small line with a champion: version 1, the candidate many. A copy for this test alone, as are the databases;
    the artifacts of what was published are shared, so they must not be changed."""
    copied(promoted / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return Path(shutil.copytree(promoted / "line", tmp_path / "line"))
