"""What Prefect's server does by itself, in a real one: trainings that batches start, calls of a webhook, waiting."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.concurrency.sync import concurrency
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending, Running

from flows import automations, events, leftovers, serve, server, slots, train
from flows.settings import ROOT
from pipeline import runlog
from pipeline.errors import LineError, ParamsError
from tests import small_line
from tests.flows.conftest import LOOSE_SOCKETS, until

pytestmark = LOOSE_SOCKETS


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what it gets in its server's `got`."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(json.loads(body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Person(http.server.ThreadingHTTPServer):
    """A chat that takes webhooks."""

    got: list[dict[str, Any]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/secret"


@pytest.fixture
def person() -> Iterator[Person]:
    with Person(("127.0.0.1", 0), Receiver) as server_:
        server_.got = []
        thread = threading.Thread(target=server_.serve_forever, daemon=True)
        thread.start()
        yield server_
        server_.shutdown()
        thread.join()


@pytest.fixture
def client(prefect: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    monkeypatch.chdir(ROOT)  # entrypoints start here
    with get_client(sync_client=True) as found:
        for automation in found.read_automations():  # of other tests
            found.delete_automation(automation.id)
        yield found


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """The folder of a line that has params and nothing else: its training fails at once."""
    small_line.write(tmp_path, small_line.PARAMS)
    return tmp_path


def ours(client: SyncPrefectClient) -> dict[str, UUID]:
    found = [a for a in client.read_automations() if a.name.startswith(automations.OURS)]
    assert len({a.name for a in found}) == len(found)
    return {a.name: a.id for a in found}


def runs(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    return client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])))


def registered(line: Path) -> UUID:
    """The deployment of the line's training."""
    return next(d for d in serve.deployments(line) if d.flow_name == "train").apply()


def test_setting_up_twice_changes_nothing(client: SyncPrefectClient, line: Path, person: Person) -> None:
    deployment = registered(line)
    said = automations.set_up(client, {str(line): deployment}, person.url)
    first = ours(client)
    assert sorted(first) == [f"assay: retrain {line}", automations.TOLD, automations.ENDED]
    assert len(said) == 3
    assert not any("secret" in one for one in said)
    client.pause_automation(first[automations.TOLD])  # a person's word
    assert automations.set_up(client, {str(line): deployment}, person.url) == []
    assert ours(client) == first
    assert client.read_automation(first[automations.TOLD]).enabled is False
    block = client.read_block_document_by_name(automations.BLOCK, "webhook", include_secrets=False)
    assert "secret" not in str(block.data)


def test_what_changed_is_set_up_anew(
    client: SyncPrefectClient, line: Path, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = registered(line)
    automations.set_up(client, {str(line): deployment}, person.url)
    first = ours(client)
    monkeypatch.setattr(automations, "COOL_DOWN", timedelta(hours=1))
    assert automations.set_up(client, {str(line): deployment}, person.url) == [
        f'"assay: retrain {line}" is set up anew'
    ]
    assert ours(client) == first
    assert client.read_automation(first[f"assay: retrain {line}"]).trigger.within == timedelta(hours=1)


def test_what_nobody_wants_is_removed(client: SyncPrefectClient, line: Path, tmp_path: Path, person: Person) -> None:
    deployment = registered(line)
    gone = tmp_path / "gone"
    automations.set_up(client, {str(line): deployment, str(gone): deployment}, person.url)
    said = automations.set_up(client, {}, person.url)
    assert set(said) == {
        f'"assay: retrain {gone}" is removed',
        f'"assay: retrain {line}" stays, though {line} is not served here',
    }
    said = automations.set_up(client, {str(line): None}, None)  # schedule.retrain: never, no address
    assert ours(client) == {}
    assert len(said) == 3
    assert automations.set_up(client, {str(line): None}, None) == []


@pytest.mark.parametrize("given", ["hooks.example.com/secret", "ftp://example.com/secret", "https:///secret"])
def test_an_address_that_is_none_is_not_shown(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_WEBHOOK_URL", given)
    with pytest.raises(ParamsError, match="^ASSAY_WEBHOOK_URL must be an address") as caught:
        automations.address()
    assert "secret" not in str(caught.value)


def test_drift_starts_one_training_however_many_batches_say_so(
    client: SyncPrefectClient, line: Path, tmp_path: Path, person: Person
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    small_line.write(other, small_line.PARAMS)
    deployment, unmoved = registered(line), registered(other)
    automations.set_up(client, {str(line): deployment, str(other): unmoved}, person.url)
    for number in range(3):
        events.emit("assay.drift", str(line), {"batch": f"b{number}", "says": 'the "scores" drift'})
    events.emit("assay.promise-broken", str(line), {"batch": "b2", "says": "too many alarms"})
    events.emit("assay.alarms", str(line), {"batch": "b2", "alarms": 3})
    until(lambda: len(person.got) == 5, "the calls")
    until(lambda: runs(client, deployment), "the training")
    (run,) = runs(client, deployment)
    assert (run.state.name, run.parameters["line"]) == ("Scheduled", str(line))
    assert runs(client, unmoved) == []
    assert {got["text"] for got in person.got} == {
        f'assay: drift in {line}: the "scores" drift',
        f"assay: promise-broken in {line}: too many alarms",
        f'assay: alarms in {line}: {{"alarms": 3, "batch": "b2"}}',
    }
    assert person.got[0]["line"] == str(line)


def test_a_served_line_trains_by_itself_and_says_that_it_failed(
    client: SyncPrefectClient, line: Path, person: Person, database: str
) -> None:
    environment = {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.serve", "--line", str(line)],
        cwd=ROOT,
        env=os.environ | environment | {"ASSAY_WEBHOOK_URL": person.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        told = [next(process.stdout)]
        while not told[-1].startswith("serving at"):
            told.append(next(process.stdout))
        assert f'"assay: retrain {line}" is set up\n' in told
        with pytest.raises(LineError, match="is served already"), serve._alone([line]):
            pass
        emitted = 0.0

        def called() -> bool:
            """Whether both calls came. Prefect takes a moment to heed a new automation: an event may come too early."""
            nonlocal emitted
            if time.monotonic() > emitted + 20:
                events.emit("assay.drift", str(line), {"batch": "b", "says": "the scores drift"})
                emitted = time.monotonic()
            return {"assay.drift", "prefect.flow-run.Failed"} <= {got["event"] for got in person.got}

        until(called, "the calls")
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert "secret" not in "".join(told) + rest
    assert {got["event"] for got in person.got} == {"assay.drift", "prefect.flow-run.Failed"}
    (failed,) = (got for got in person.got if got["event"] == "prefect.flow-run.Failed")  # one training, however often
    assert failed["text"].startswith(f"assay: run train {line} failed: Flow run encountered an exception")
    row = runlog.last(str(line)).iloc[0]
    assert (row.flow, row.source, row.status) == ("train", "data/raw/parts.csv", "failed")
    assert row.error in failed["text"]


def test_a_server_that_is_gone_fails_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.free_port()}/api"}):
        events.emit("assay.drift", "lines/a", {"batch": "b"})
    said = capsys.readouterr().err
    assert said.startswith("Prefect was not told of assay.drift of lines/a, so nothing reacts to it: ")
    assert said.count("\n") == 1


def test_a_training_of_another_line_waits_for_its_turn(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.upsert_global_concurrency_limit_by_name(train.ONE_AT_A_TIME, 1)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "served")
    began = threading.Event()

    @flow(name="second", persist_result=False)
    def second() -> None:
        with train._slot():
            began.set()

    thread = threading.Thread(target=second)
    with concurrency(train.ONE_AT_A_TIME):
        thread.start()
        assert not began.wait(1.5)
    assert began.wait(60)
    thread.join()


def test_a_run_that_is_due_while_the_one_before_is_at_work_is_cancelled(client: SyncPrefectClient, line: Path) -> None:
    deployment = registered(line)
    first, second = (client.create_flow_run_from_deployment(deployment) for _ in range(2))
    client.set_flow_run_state(first.id, Pending())
    assert client.set_flow_run_state(second.id, Pending()).state.name == "Cancelled"
    client.set_flow_run_state(first.id, Running())
    third = client.create_flow_run_from_deployment(deployment)
    assert client.set_flow_run_state(third.id, Pending()).state.name == "Cancelled"


def test_a_run_whose_server_was_killed_gives_its_slot_back(client: SyncPrefectClient, line: Path) -> None:
    deployment = registered(line)
    dead, new = (client.create_flow_run_from_deployment(deployment) for _ in range(2))
    client.set_flow_run_state(dead.id, Pending())
    client.set_flow_run_state(dead.id, Running())
    assert leftovers.clear(client, deployment) == [f"{dead.name} was ended by force"]
    assert client.read_flow_run(dead.id).state.name == "Crashed"
    assert client.set_flow_run_state(new.id, Pending()).state.name == "Pending"


def _schedule(deployment: UUID, span: dict[str, Any]) -> None:
    """Let Prefect make runs of a deployment by its cron expression, as its scheduler does."""
    for _ in range(5):
        reply = httpx.post(f"{PREFECT_API_URL.value()}/deployments/{deployment}/schedule", json=span, timeout=30)
        if reply.status_code == 200:
            return
        time.sleep(0.5)  # its database may be locked
    pytest.fail(f"Prefect cannot schedule runs (with SQLAlchemy 2.1 Prefect 3.8.8 cannot): {reply.text}")


def test_of_runs_that_were_missed_one_is_left(client: SyncPrefectClient, line: Path) -> None:
    deployment = next(d for d in serve.deployments(line) if d.flow_name == "score").apply()
    now = datetime.now(UTC)
    span = {"start_time": (now - timedelta(hours=10)).isoformat(), "end_time": (now + timedelta(hours=2)).isoformat()}
    _schedule(deployment, span | {"min_runs": 12, "max_runs": 12})
    by_hand = client.create_flow_run_from_deployment(deployment)
    before = sorted(run.expected_start_time for run in runs(client, deployment) if run.id != by_hand.id)
    past = [when for when in before if when < now]
    assert len(past) == 10
    (said,) = leftovers.clear(client, deployment)
    assert said.startswith(f"10 runs were missed since {past[0]:%Y-%m-%d %H:%M} UTC")
    left = sorted(run.expected_start_time for run in runs(client, deployment) if run.id != by_hand.id)
    assert left == [past[-1], *before[10:]]
    assert client.read_flow_run(by_hand.id).state.name == "Scheduled"
    assert leftovers.clear(client, deployment) == []


@pytest.mark.parametrize(
    ("devices", "given", "found"),
    [
        ([], None, False),
        (["nvidia0", "nvidiactl"], None, True),
        (["nvidiactl"], None, False),
        (["nvidia0"], "", False),
        (["nvidia0"], "-1", False),
        (["nvidia0"], "0", True),
        ([], "0", False),
    ],
)
def test_a_gpu_is_found_by_its_device_files(
    devices: list[str], given: str | None, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in devices:
        (tmp_path / name).touch()
    monkeypatch.setattr(slots, "DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert slots.visible() is found


def test_only_what_computes_on_a_gpu_waits_for_it(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.upsert_global_concurrency_limit_by_name(slots.GPU, 1)

    def held(name: str) -> int:
        with slots.stage(name):
            return client.read_global_concurrency_limit_by_name(slots.GPU).active_slots

    monkeypatch.setattr(slots, "visible", lambda: True)
    assert held("train@knn") == 0  # a person's run
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "served")
    assert [held(name) for name in ("train@knn", "publish", "ingest", "validate")] == [1, 1, 0, 0]
    monkeypatch.setattr(slots, "visible", lambda: False)
    assert held("train@knn") == 0
