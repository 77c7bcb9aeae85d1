"""Manual approval for real: runs that wait on a Prefect server, and commands in other processes that answer them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows import approval, train
from flows.promote import promote
from flows.turns import LOCK
from pipeline import address, audit, params, publication, tracking
from pipeline.errors import LineError
from pipeline.files import write_json
from tests import small_line
from tests.conftest import copied
from tests.flows.conftest import LOOSE_SOCKETS, until

ROOT = Path(__file__).parents[2]
MANUAL = small_line.PARAMS["promote"] | {"approve": "manual", "approve_within": 120}
pytestmark = LOOSE_SOCKETS


@pytest.fixture
def published(line: Path, store: str) -> Path:
    """A line with two candidates, the better one of which would be champion if a person said so."""
    given = small_line.write(line, small_line.PARAMS | {"promote": MANUAL})
    receipt, _ = publication.publish(given, line)
    write_json(line / "reports/published.json", receipt)
    return line


@pytest.fixture
def waiting(published: Path, prefect: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A promotion in a process of its own that waits for its answer, on the tests' server."""
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    process = start(published)
    yield process
    process.kill()
    process.communicate()


def start(line: Path) -> subprocess.Popen[str]:
    """`python -m flows.promote` up to the line in which it says how to answer."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.promote", "--line", str(line)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said.startswith("parts version 1 (many) waits for a person's approval: "), said + process.stderr.read()
    assert said.endswith(
        f"; answer within 120 s: python -m flows.promote --line {line} --approve (or --refuse), "
        "or on the run's page in Prefect\n"
    )
    return process


def _paused(line: Path) -> list[FlowRun]:
    (note,) = approval.notes(line)
    return approval.paused(note["api"], line)


def command(line: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.promote", "--line", str(line), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def champion() -> int | None:
    version = tracking.connect().alias("parts", "champion")
    return version and version.number


def trail(line: Path) -> list[tuple[str, str, str]]:
    entries = audit.Trail.open(line, tracking.connect(), "parts").entries
    return [(entry.action, entry.who, entry.why) for entry in entries]


def test_approved_by_the_command(waiting: subprocess.Popen[str], published: Path) -> None:
    for lock in (FileLock(published / LOCK), address.lock(os.environ["MLFLOW_TRACKING_URI"])):
        lock.acquire(timeout=5)  # nobody is kept waiting by a run that waits
        lock.release()
    assert champion() is None
    given = command(published, "--approve", "--who", "anna", "--why", "looked at the worst errors")
    assert (given.returncode, given.stderr) == (0, "")
    assert given.stdout == f"version 1 of {published} is approved by anna; the run that waited goes on\n"
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert said.startswith("parts version 1 (many) is champion: ")
    assert champion() == 1
    first, second = trail(published)
    assert first == ("approve", "anna", "looked at the worst errors")
    assert second[:2] == ("promote", audit.whoami())
    with pytest.raises(LineError, match=f"^no promotion of {published} waits for an approval$"):
        approval.answer(published, True)


def test_refused_by_the_command(waiting: subprocess.Popen[str], published: Path) -> None:
    with pytest.raises(LineError, match=f"^no promotion of version 7 of {published} waits for an approval$"):
        approval.answer(published, False, version=7)
    assert command(published, "--refuse", "--version", "1", "--why", "too many escapes").returncode == 0
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert said == (
        "no candidate of parts is promoted, there is no champion; many: version 1 was not approved by "
        f"{audit.whoami()}: too many escapes\n"
    )
    assert champion() is None
    assert trail(published) == [("refuse", audit.whoami(), "too many escapes")]


def test_a_run_that_was_killed_or_interrupted_no_longer_waits(
    waiting: subprocess.Popen[str], published: Path, prefect: None
) -> None:
    waiting.kill()
    waiting.wait()
    with pytest.raises(LineError, match="no promotion of .* waits for an approval"):
        approval.answer(published, True)
    second = start_beside(published)
    second.send_signal(signal.SIGINT)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 130
    assert "error: interrupted" in said
    assert len(approval.notes(published)) == 1  # of the one that was killed
    with pytest.raises(LineError, match="no promotion of .* waits for an approval"):
        approval.answer(published, True)
    assert champion() is None


def start_beside(line: Path) -> subprocess.Popen[str]:
    """A promotion that waits while the note of a dead one lies there."""
    (dead,) = (line / approval.WAITING).glob("*.json")
    kept = dead.rename(line / "dead.json")
    process = start(line)
    kept.rename(dead)
    return process


def test_a_run_with_a_server_of_its_own_is_found(
    published: Path, migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "prefect").mkdir()
    copied(migrated, tmp_path / "prefect/prefect.db")
    process = start(published)
    try:
        assert approval.answer(published, True, "anna").startswith("version 1 of ")
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert said.startswith("parts version 1 (many) is champion: ")
    assert champion() == 1
    with pytest.raises(LineError, match="waits for an approval"):
        approval.answer(published, True)


def state_of(runs: list[FlowRun]) -> set[str]:
    with get_client(sync_client=True) as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs]))
        return {run.state_name for run in client.read_flow_runs(flow_run_filter=chosen)}


def answered(
    line: Path, runs: list[FlowRun], *words: Any, first: Callable[[], None] = lambda: None
) -> threading.Thread:
    """Answer from another thread as soon as something waits, after `first`; what waited is noted in `runs`."""

    def work() -> None:
        until(lambda: approval.notes(line) and _paused(line), "the pause")
        runs.extend(_paused(line))
        first()
        if words:
            approval.answer(line, *words)

    thread = threading.Thread(target=copy_context().run, args=(work,))
    thread.start()
    return thread


def test_as_a_part_of_the_whole_line(
    published: Path, prefect: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    monkeypatch.setattr(train, "reproduce", lambda line: None)  # the stages have run
    (published / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setattr("flows.dag.Line", lambda folder, jobs: None)
    runs: list[FlowRun] = []
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # as flows/server.py sets it
        thread = answered(published, runs, True, "anna", "")
        found = train.train(str(published), score_after=False)
        thread.join()
    assert found.says.startswith("parts version 1 (many) is champion: ")
    assert champion() == 1
    (run,) = runs
    assert run.parent_task_run_id is not None
    assert state_of(runs) == {"Completed"}


def test_nobody_answers(published: Path, prefect: None) -> None:
    from prefect.artifacts import Artifact

    small_line.write(published, small_line.PARAMS | {"promote": MANUAL | {"approve_within": 2}})
    runs: list[FlowRun] = []
    thread = answered(published, runs)
    report = promote(str(published))
    thread.join()
    assert (report["decision"], report["champion"]) == ("refused", None)
    assert report["says"].endswith("; many: version 1 was not approved: nobody answered within 2 s")
    assert trail(published) == [("refuse", "nobody", "nobody answered within 2 s")]
    assert state_of(runs) == {"Completed"}
    assert approval.notes(published) == []
    shown = Artifact.get("promotion-parts")
    assert shown.description == report["says"]
    for text in ("auroc against the champion", "golden batch", "auroc min", "passed"):
        assert text in shown.data


def test_params_may_change_while_it_waits(published: Path, prefect: None) -> None:
    stricter = MANUAL | {"limits": {"auroc": {"min": 1.01}}}

    def change() -> None:
        small_line.write(published, small_line.PARAMS | {"promote": stricter})

    thread = answered(published, [], True, "anna", first=change)
    report = promote(str(published))
    thread.join()
    assert params.read(published / "params.yaml").promote.limits["auroc"].min == 1.01
    assert "many: auroc 1 is below the least allowed 1.01" in report["says"]
    assert champion() is None
    assert trail(published) == [("approve", "anna", "")]


def test_a_server_that_is_down_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(LineError, match="does not answer"):
        approval.answer(tmp_path, True)
