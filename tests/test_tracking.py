"""MLflow as assay uses it, on a real SQLite store; servers that are down are closed ports of this machine."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import address, tracking
from pipeline.errors import RegistryError
from pipeline.run_record import Record
from pipeline.tracking import Registry

ROOT = Path(__file__).parents[1]


@pytest.fixture
def registry(store: str) -> Registry:
    return tracking.connect()


@pytest.fixture
def closed() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def record(folder: Path, **changed: object) -> Record:
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model/weights").write_bytes(b"12")
    (folder / "artifacts").mkdir(exist_ok=True)
    (folder / "artifacts/params.yaml").write_text("a: 1\n")
    values = {
        "title": "one",
        "params": {"detector.k": 3},
        "metrics": {"auroc": 0.75},
        "steps": [],
        "tags": {"content_hash": "c1"},
        "artifacts": folder / "artifacts",
        "model": folder / "model",
        "script": ROOT / "pipeline/mlflow_model.py",
        "requirements": ["numpy"],
    }
    return Record(**{**values, **changed})


def test_the_store_is_the_checkouts_own_unless_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert address.tracking_uri() == f"sqlite:///{ROOT.resolve().as_posix()}/mlflow.db"
    assert address.artifact_root(address.tracking_uri()) == (ROOT.resolve() / "mlartifacts").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://registry:5000")
    assert address.tracking_uri() == "http://registry:5000"
    assert address.artifact_root("http://registry:5000") is None


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:se:cr@t@host:1/x", "http://me:***@host:1/x"),
        ("postgresql+psycopg://me:secret@host/db", "postgresql+psycopg://me:***@host/db"),
        (
            "postgresql+psycopg://host/db?user=me&password=se%cr&x=1",
            "postgresql+psycopg://host/db?user=me&password=***&x=1",
        ),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////a/mlflow.db", "sqlite:////a/mlflow.db"),
    ],
)
def test_a_password_is_not_shown(uri: str, shown: str) -> None:
    assert address.shown(uri) == shown


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "mysql+pymysql"])
def test_a_server_that_is_down_ends_in_one_sentence(scheme: str, closed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:secret@127.0.0.1:{closed}")
    with pytest.raises(RegistryError) as raised:
        tracking.connect()
    said = str(raised.value)
    named = {"postgresql": "postgresql+psycopg"}.get(scheme, scheme)
    assert said.startswith(f"the MLflow server at {named}://me:***@127.0.0.1:{closed} does not answer")
    assert "secret" not in said
    assert "\n" not in said


def test_a_server_that_goes_down_meanwhile_ends_in_one_sentence(registry: Registry, closed: int) -> None:
    uri = f"http://me:secret@127.0.0.1:{closed}"
    down = Registry(uri, tracking.mlflow.MlflowClient(uri, uri))
    with pytest.raises(RegistryError, match=rf"MLflow at http://me:\*\*\*@127.0.0.1:{closed} failed to read parts"):
        down.version("parts", 1)


def test_a_store_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, whatever its name may be")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(RegistryError, match=r"mlflow\.db failed to open its store: .*not a database"):
        tracking.connect()


def test_simultaneous_first_starts_make_one_sound_store(tmp_path: Path) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/new/mlflow.db"}
    code = "from pipeline import tracking; tracking.initialise()"
    starts = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for start in starts:
        _, said = start.communicate(timeout=120)
        assert (start.returncode, said) == (0, "")


def test_a_version_holds_its_run_its_tags_and_its_files(registry: Registry, tmp_path: Path) -> None:
    made = registry.register("parts", record(tmp_path), {"content_hash": "c1", "candidate": "one"})
    assert (made.name, made.number) == ("parts", 1)
    assert registry.find("parts", "c1") == [made]
    assert registry.find("parts", "c2") == []
    assert registry.version("parts", 1) == made
    assert registry.version("parts", 2) is None
    assert registry.version("others", 1) is None
    assert registry.newest("parts") == 1
    assert registry.newest("others") == 0
    assert registry.has_files(made)
    assert registry.metrics(made) == {"auroc": 0.75}
    run = registry.client.get_run(made.run_id)
    assert run.data.params == {"detector.k": "3"}
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())
    copied = registry.download(made, tmp_path / "copy")
    assert (copied / "weights").read_bytes() == b"12"


def test_files_of_a_run_come_and_go(registry: Registry, tmp_path: Path) -> None:
    made = registry.register("parts", record(tmp_path), {})
    assert registry.artifact(made, "params.yaml", tmp_path / "copy").read_text() == "a: 1\n"
    (tmp_path / "more.json").write_text("{}")
    registry.upload(made, tmp_path / "more.json", "calibrations")
    assert registry.artifact(made, "calibrations/more.json", tmp_path / "copy").read_text() == "{}"
    with pytest.raises(RegistryError, match=r"failed to give none\.json of parts version 1"):
        registry.artifact(made, "none.json", tmp_path / "copy")


def test_files_that_are_gone_are_noticed(registry: Registry, tmp_path: Path) -> None:
    made = registry.register("parts", record(tmp_path), {})
    shutil.rmtree(tmp_path / "mlartifacts")
    assert not registry.has_files(made)
    with pytest.raises(RegistryError, match="failed to give the files of parts version 1"):
        registry.download(made, tmp_path / "copy")


def test_nothing_is_lost_to_mlflows_limits(registry: Registry, tmp_path: Path) -> None:
    steps = [{"loss": float(step), "other": 1.0} for step in range(700)]
    params = {f"p{i}": i for i in range(150)} | {"long": "x" * 7000, "odd [name]": 1}
    made = registry.register("parts", record(tmp_path, params=params, steps=steps), {})
    run = registry.client.get_run(made.run_id)
    assert len(run.data.params) == 152
    assert run.data.params["long"] == "x" * 6000
    assert run.data.params["odd _name_"] == "1"
    history = registry.client.get_metric_history(made.run_id, "loss")
    assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [(i, float(i)) for i in range(700)]


def test_aliases_and_tags(registry: Registry, tmp_path: Path) -> None:
    made = registry.register("parts", record(tmp_path), {})
    assert registry.alias("parts", "champion") is None
    assert registry.alias("others", "champion") is None
    registry.set_alias("parts", "champion", 1)
    assert registry.alias("parts", "champion") == made
    registry.set_alias("parts", "champion", None)
    registry.set_alias("parts", "champion", None)  # a second time does no harm
    assert registry.alias("parts", "champion") is None
    registry.tag(made, {"verdict": "y" * 6000})
    assert registry.version("parts", 1).tags["verdict"] == "y" * 5000
    registry.untag(made, "verdict")
    assert "verdict" not in registry.version("parts", 1).tags
    registry.note("parts", {"seen": "1"})
    assert registry.notes("parts")["seen"] == "1"
    assert registry.notes("others") == {}


def test_an_alias_that_cannot_be_set_says_why(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="failed to move the alias champion of nobody"):
        registry.set_alias("nobody", "champion", 1)


def test_an_experiment_that_was_deleted_in_the_page_is_used_again(registry: Registry, tmp_path: Path) -> None:
    registry.register("parts", record(tmp_path), {})
    registry.client.delete_experiment(registry.client.get_experiment_by_name("parts").experiment_id)
    assert registry.register("parts", record(tmp_path), {}).number == 2


def test_left_over_runs_are_dropped_by_content(registry: Registry, tmp_path: Path) -> None:
    kept = registry.register("parts", record(tmp_path, tags={"content_hash": "kept"}), {})
    registry.register("parts", record(tmp_path), {})
    registry.drop_runs("parts", "c1")
    registry.drop_runs("others", "c1")
    (left,) = registry.client.search_runs([registry.client.get_experiment_by_name("parts").experiment_id])
    assert left.info.run_id == kept.run_id
