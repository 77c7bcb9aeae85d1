"""A home of the tests' own, and what several of them share and is slow to make: a small line, servers, stores."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.browser import browser, context, page, watched  # noqa: F401  fixtures of every test, as the next
from tests.postgres import postgres  # noqa: F401

HOME = pytest.StashKey[Path]()


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


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[HOME], ignore_errors=True)


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    """A Prefect server with a database of its own, for the whole session."""
    from prefect.testing.utilities import prefect_test_harness

    import flows  # noqa: F401  its settings come before Prefect's

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing in it; making one takes seconds, copying it does not."""
    from pipeline import tracking

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        tracking.initialise()
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty MLflow store of this test's own, which MLFLOW_TRACKING_URI names."""
    with closing(sqlite3.connect(empty_store)) as ours, closing(sqlite3.connect(tmp_path / "mlflow.db")) as own:
        ours.backup(own)  # the file alone may lack what is still in its write-ahead log
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
def line_that_ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small table line after `evaluate`; not to be changed."""
    from tests import small_line  # imported here: MLflow's settings, made as it loads, must come after pytest_configure

    return small_line.make(tmp_path_factory.mktemp("line") / "parts")


@pytest.fixture
def line(line_that_ran: Path, tmp_path: Path) -> Path:
    """A copy of the small line, for this test alone."""
    return Path(shutil.copytree(line_that_ran, tmp_path / "line"))


def copied(database: Path, to: Path) -> None:
    """Copy a SQLite database, what its write-ahead log holds included."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


@pytest.fixture(scope="session")
def promoted(line_that_ran: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small line after its promotion, and MLflow's store beside it; not to be changed."""
    from tests import small_line

    folder = tmp_path_factory.mktemp("promoted")
    copied(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        small_line.promoted(Path(shutil.copytree(line_that_ran, folder / "line")))
    return folder


@pytest.fixture
def ready(promoted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str) -> Path:
    """The small line with a champion: version 1, the candidate many. A copy for this test alone, as are the databases;
    the artifacts of what was published are shared, so they must not be changed."""
    copied(promoted / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return Path(shutil.copytree(promoted / "line", tmp_path / "line"))
