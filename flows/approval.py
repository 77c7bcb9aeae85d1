"""A person's word before the champion changes: a paused Prefect run, and the command that answers it.

A run that waits holds no lock. It notes in the line's folder on which server it waits, so that the command finds it
even on the server that lives for that run only.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import FlowPauseTimeout, PrefectException
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import server
from flows.settings import ROOT, shown
from pipeline.audit import whoami
from pipeline.errors import LineError
from pipeline.files import write_json
from pipeline.promotion import Answer

WAITING = Path(".assay/waiting")
PROMOTE = "promote"  # the flow that waits
KEY = "version-"  # of its pause; the version's number follows
POLL = 1  # seconds between two looks whether there is an answer
PATIENCE = 5  # seconds in which a run that has said that it waits must be found waiting, and must take its answer
GRACE = 60  # seconds by which Prefect's own patience is longer: a run that it fails cannot say why


class Approval(RunInput):
    """The form on the run's page."""

    approve: bool
    who: str = ""
    why: str = ""


def wait(report: dict[str, Any], folder: Path, within: int) -> Answer:
    """Pause the run that this is called in, until a person answers what `report` asks or `within` seconds have passed.

    Raises LineError when Prefect's server goes away meanwhile."""
    number, run_id = report["waits"], UUID(str(runtime.flow_run.id))
    clock = threading.Timer(within, copy_context().run, (_give_up, run_id, within))
    clock.daemon = True
    form = Approval.with_initial_data(description=report["says"])
    try:
        with _noted(folder, run_id):
            print(
                f"{report['says']}; answer within {within} s: python -m flows.promote --line {shown(folder)} --approve "
                "(or --refuse), or on the run's page in Prefect",
                flush=True,
            )
            clock.start()
            given = pause_flow_run(form, timeout=within + GRACE, poll_interval=POLL, key=f"{KEY}{number}")
    except FlowPauseTimeout:
        return Answer(number, False, "", _nobody(within))
    except (httpx.HTTPError, PrefectException) as error:
        raise LineError(
            f"Prefect's server went away while {report['name']} version {number} waited for approval ({error}); "
            "nothing was promoted, run make promote again"
        ) from error
    finally:
        clock.cancel()
    nobody = given.why == _nobody(within) and not given.approve
    return Answer(number, given.approve, "" if nobody else given.who.strip() or "somebody on Prefect's page", given.why)


def answer(folder: Path, approve: bool, who: str = "", why: str = "", version: int | None = None) -> str:
    """Answer the promotion of the line in `folder` that waits; what was done, in a sentence.

    `version` says which where several wait. Raises LineError when none waits."""
    until = time.monotonic() + PATIENCE
    found, alive = _found(folder)
    while alive and not found and time.monotonic() < until:  # one has said that it waits, and is about to
        time.sleep(0.2)
        found, alive = _found(folder)
    asked = {_number(run) for _, run in found.values() if version in (None, _number(run))}
    if not asked:
        which = "" if version is None else f" of version {version}"
        raise LineError(f"no promotion{which} of {shown(folder)} waits for an approval")
    if len(asked) > 1:
        told = ", ".join(str(number) for number in sorted(asked))
        raise LineError(f"promotions of {shown(folder)} to versions {told} wait; say which one with --version")
    given = {"approve": approve, "who": who or whoami(), "why": why}
    (number,) = asked
    for api, run in found.values():
        if _number(run) == number:
            _resume(api, run.id, given)
    done = "approved" if approve else "refused"
    return f"version {number} of {shown(folder)} is {done} by {given['who']}; the run that waited goes on"


def _found(folder: Path) -> tuple[dict[UUID, tuple[str, FlowRun]], bool]:
    """The runs of the line in `folder` that wait, each with its server, and whether any says there that it does.

    A paused run whose process has ended does not wait."""
    noted = notes(folder)
    dead = {note["run"] for note in noted if not _alive(note)}
    own = [note["api"] for note in noted if note["run"] not in dead and server.answers(f"{note['api']}/health")]
    found: dict[UUID, tuple[str, FlowRun]] = {}
    for api in filter(None, [*own, server.reachable()]):
        found = {run.id: (api, run) for run in paused(api, folder) if str(run.id) not in dead} | found
    return found, len(noted) > len(dead)


def notes(folder: Path) -> list[dict[str, Any]]:
    """What the runs of the line in `folder` that wait, or that were killed while they did, said about themselves."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / WAITING).glob("*.json"))]


def _number(run: FlowRun) -> int:
    """The version that a paused run asks about."""
    return int(str(run.state.state_details.pause_key).removeprefix(KEY))


def paused(api: str, folder: Path) -> list[FlowRun]:
    """The runs on the server `api` in which a promotion of the line in `folder` waits."""
    paused = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED]))
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[PROMOTE])), flow_run_filter=FlowRunFilter(state=paused)
        )
    runs = [run for run in runs if str(run.state.state_details.pause_key).startswith(KEY)]
    return [run for run in runs if (ROOT / run.parameters.get("line", ".")).resolve() == folder.resolve()]


def _resume(api: str, run: UUID, given: dict[str, Any]) -> None:
    until = time.monotonic() + PATIENCE
    with temporary_settings({PREFECT_API_URL: api}):
        while True:
            try:
                return resume_flow_run(run, run_input=given)
            except (httpx.HTTPError, PrefectException, RuntimeError) as error:
                if "schema not found" not in str(error) or time.monotonic() > until:  # a pause comes before its form
                    raise LineError(f"run {run}, which waited, could not be answered: {error}") from error
                time.sleep(0.1)


def _give_up(run: UUID, within: int) -> None:
    """Answer in the place of the person who did not."""
    with suppress(httpx.HTTPError, PrefectException, RuntimeError):  # answered at this very moment
        resume_flow_run(run, run_input={"approve": False, "who": "", "why": _nobody(within)})


def _nobody(within: int) -> str:
    return f"nobody answered within {within} s"


@contextmanager
def _noted(folder: Path, run: UUID) -> Iterator[None]:
    """A file in the line's folder, while a run of it waits, that says where."""
    path = folder / WAITING / f"{run}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    process = psutil.Process()
    note = {"run": str(run), "api": PREFECT_API_URL.value(), "host": socket.gethostname(), "pid": os.getpid()}
    write_json(path, note | {"started": process.create_time()})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _alive(note: dict[str, Any]) -> bool:
    """Whether the process that left the note still runs, as far as can be told from this machine."""
    if note["host"] != socket.gethostname():
        return True
    try:
        return psutil.Process(note["pid"]).create_time() == note["started"]
    except psutil.Error:
        return False
