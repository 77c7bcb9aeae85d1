"""A line on PostgreSQL alone: MLflow's registry, Prefect's runs and our results each in a database of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from sqlalchemy.engine import make_url

from tests import small_line
from tests.end_to_end.conftest import Checkout
from tests.postgres import connect, free_port

LINE = "lines/postgres"


@pytest.fixture(scope="module")
def line(checkout: Checkout) -> Path:
    """A small table line in the clone, made as a user makes one."""
    checkout.run("python", "-m", "pipeline.line", LINE, "--like", "examples/wdbc")
    folder = checkout.path / LINE
    small_line.table(150, 30, seed=0).to_csv(folder / "data/raw/parts.csv", index=False)
    small_line.table(20, 6, seed=1).drop(columns="label").to_csv(folder / "incoming.csv", index=False)
    given = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    given |= small_line.PARAMS | {"root": given["root"]}
    given["dataset"] = given["dataset"] | {"watch": "data/raw"}
    given["candidates"] = {"many": given["candidates"]["many"]}
    (folder / "params.yaml").write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return folder


def test_a_line_runs_on_postgresql(line: Path, checkout: Checkout, postgres: Callable[[], str]) -> None:
    registry, runs, results = postgres(), postgres(), postgres()
    before = {path.name for path in checkout.path.glob("*.db*")}
    said = checkout.train(
        LINE,
        MLFLOW_TRACKING_URI=registry,
        PREFECT_API_DATABASE_CONNECTION_URL=runs.replace("+psycopg", "+asyncpg"),
        ASSAY_DATABASE_URL=results,
    )
    assert "champion" in said
    with connect(registry) as store:
        champion = store.execute("SELECT name, version FROM registered_model_aliases WHERE alias = 'champion'")
        assert champion.fetchall() == [("parts", 1)]
    with connect(runs) as store:
        flows = store.execute(
            "SELECT flow.name, flow_run.state_type::text FROM flow_run JOIN flow ON flow.id = flow_run.flow_id"
        )
        assert set(flows) >= {("train", "COMPLETED"), ("promote", "COMPLETED"), ("score", "COMPLETED")}
    (folder,) = (line / "scores").iterdir()
    with connect(results) as store:
        batches = store.execute("SELECT name, version, batch, samples FROM monitoring_batches").fetchall()
        assert batches == [("parts", 1, folder.name, 26)]
        logged = store.execute("SELECT flow, line, model FROM runs ORDER BY flow").fetchall()
        assert ("score", LINE, "parts version 1") in logged
    assert {path.name for path in checkout.path.glob("*.db*")} == before  # nothing went into SQLite by mistake


@contextmanager
def started(service: dict[str, Any], checkout: Checkout, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A service of compose.yaml as a process of this machine, until it is healthy by its own health check."""
    environment = {**checkout.environment(), **service["environment"]}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / service["command"][0]), *service["command"][1:]],
            cwd=checkout.path,
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def healthy(service: dict[str, Any], process: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether the health check of a service succeeds within the time that compose.yaml gives it to start."""
    code = service["healthcheck"]["test"][3]
    until = time.monotonic() + int(service["healthcheck"]["start_period"].removesuffix("s"))
    while process.poll() is None and time.monotonic() < until:
        if not subprocess.run([sys.executable, "-c", code], capture_output=True).returncode:
            return True
        time.sleep(0.5)
    print(log.read_text())
    return False


def test_the_services_of_compose_yaml_work_together(
    line: Path, checkout: Checkout, postgres: Callable[[], str], tmp_path: Path
) -> None:
    """Docker apart: the commands, variables and health checks of compose.yaml as processes beside a real PostgreSQL."""
    server = make_url(postgres())
    with connect(server.render_as_string()) as store:
        store.execute("CREATE ROLE assay LOGIN SUPERUSER")
        store.execute("CREATE DATABASE assay OWNER assay")
        for statement in (checkout.path / "compose/databases.sql").read_text(encoding="utf-8").splitlines():
            store.execute(statement)
    ports = {name: str(free_port()) for name in ("5000", "4200", "8080")}
    text = (checkout.path / "compose.yaml").read_text(encoding="utf-8")
    text = re.sub(r"\$\{POSTGRES_PASSWORD:\?[^}]*\}", "s3cret", text)
    text = re.sub(r"lines/\$\{ASSAY_LINE:\?[^}]*\}", LINE, text)
    text = re.sub(r"\$\{ASSAY_WEBHOOK_URL:-\}", '""', text)
    for name, own in {
        "@postgres:5432": f"@127.0.0.1:{server.port}",
        "//mlflow:": "//127.0.0.1:",
        "//prefect:": "//127.0.0.1:",
        "0.0.0.0": "127.0.0.1",
        "=/artifacts": f"={tmp_path}/artifacts",
        "/tmp/prefect": f"{tmp_path}/prefect",
        **ports,
    }.items():
        text = text.replace(name, own)
    services = yaml.safe_load(text)["services"]
    services["worker"]["environment"]["PREFECT_RUNNER_SERVER_PORT"] = ports["8080"]
    logs = {name: tmp_path / f"{name}.log" for name in services}
    with (
        started(services["mlflow"], checkout, logs["mlflow"]) as mlflow,
        started(services["prefect"], checkout, logs["prefect"]) as prefect,
    ):
        assert healthy(services["mlflow"], mlflow, logs["mlflow"])
        assert healthy(services["prefect"], prefect, logs["prefect"])
        asked = f"http://127.0.0.1:{ports['5000']}/api/2.0/mlflow/experiments/search?max_results=1"
        hosts = {f"mlflow:{ports['5000']}": 200, "elsewhere": 403}
        assert {host: requests.get(asked, headers={"Host": host}).status_code for host in hosts} == hosts
        with started(services["worker"], checkout, logs["worker"]) as worker:
            assert healthy(services["worker"], worker, logs["worker"])
            said = checkout.run("python", "-m", "flows.train", "--line", LINE, **services["worker"]["environment"])
            assert "champion" in said
    assert list((tmp_path / "artifacts").rglob("state.safetensors"))
    url = server.set(username="assay", database="prefect").render_as_string()
    with connect(url) as store:
        assert store.execute("SELECT count(*) FROM deployment").fetchone()[0] > 0
