"""The deployments of prefect.yaml with the times of a line's params, in a real Prefect server."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows import serve, slots
from flows.settings import ROOT
from flows.train import ONE_AT_A_TIME
from pipeline.errors import ParamsError
from tests import small_line
from tests.flows.conftest import until

SCHEDULE = {"train": "30 3 * * 1-5", "score": "*/20 * * * *", "timezone": "Europe/Berlin"}


@pytest.fixture
def scheduled(tmp_path: Path) -> Path:
    """The folder of a line with params that name its times."""
    small_line.write(tmp_path, small_line.PARAMS | {"schedule": SCHEDULE})
    return tmp_path


def test_params_say_when(scheduled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = serve.deployments(scheduled)
    assert [(d.flow_name, d.entrypoint, d.parameters["line"], d.concurrency_limit) for d in found] == [
        ("train", "flows/train.py:train", str(scheduled), 1),
        ("score", "flows/score.py:score", str(scheduled), 1),
        ("calibrate", "flows/calibrate.py:calibrate", str(scheduled), 1),
        ("monitor", "flows/monitor.py:monitor", str(scheduled), 1),
        ("labels", "flows/label.py:labels", str(scheduled), 1),
    ]
    assert all(d.schedules in (None, []) for d in found[2:])  # a person starts them
    strategies = [d.concurrency_options and d.concurrency_options.collision_strategy for d in found]
    assert strategies == ["CANCEL_NEW", "CANCEL_NEW", None, None, None]
    crons = [d.schedules[0].schedule for d in found[:2]]
    assert [(c.cron, c.timezone) for c in crons] == [
        ("30 3 * * 1-5", "Europe/Berlin"),
        ("*/20 * * * *", "Europe/Berlin"),
    ]
    assert len({d.name for d in found} | {d.name for d in serve.deployments(ROOT)}) == 10


def test_the_file_says_the_same_as_the_defaults() -> None:
    told = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert {d["entrypoint"]: d["schedules"] for d in told if "schedules" in d} == {
        "flows/train.py:train": [{"cron": "0 2 * * *", "timezone": "UTC"}],
        "flows/score.py:score": [{"cron": "0 * * * *", "timezone": "UTC"}],
    }


@pytest.mark.parametrize(("key", "value"), [("train", "every night"), ("timezone", "Berlin")])
def test_times_that_are_none(key: str, value: str, scheduled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    small_line.write(scheduled, small_line.PARAMS | {"schedule": SCHEDULE | {key: value}})
    with pytest.raises(ParamsError, match=rf"schedule\.train must be a cron expression.*{value}"):
        serve.deployments(scheduled)


def registered(client: SyncPrefectClient, name: str) -> bool:
    try:
        return bool(client.read_deployment_by_name(name).schedules)
    except ObjectNotFound:
        return False


def test_serving_registers_them_until_ctrl_c(scheduled: Path, prefect: None) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.serve", "--line", str(scheduled)],
        cwd=ROOT,
        env=os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(7)]
    try:
        assert told[0].endswith(": 30 3 * * 1-5 Europe/Berlin\n"), told + process.stdout.readlines()
        assert told[2].endswith(": when a person runs it\n")
        assert told[5] == f'"assay: retrain {scheduled}" is set up\n'
        assert told[6].startswith("serving at http://127.0.0.1:")
        slug = told[0].split(":")[0]
        with get_client(sync_client=True) as client:
            until(lambda: registered(client, slug), "the deployment")
            served = client.read_deployment_by_name(slug)
            limits = [client.read_global_concurrency_limit_by_name(name).limit for name in (ONE_AT_A_TIME, slots.GPU)]
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert (served.schedules[0].schedule.cron, served.parameters) == (
        "30 3 * * 1-5",
        {"line": str(scheduled), "score_after": True},
    )
    assert limits == [1, 1]
    assert "Traceback" not in rest
