"""The order of work, as DVC knows it, and one stage of it as a Prefect task.

DVC decides what is stale; Prefect decides when, retries and reports. Nothing is cached by Prefect.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows import slots
from flows.settings import stage_environment
from pipeline.errors import LineError
from pipeline.parts.progress import MARK
from pipeline.stages import LOGS

LAST_LINES = 8  # of a stage that failed without a sentence
WIDTH = 96  # of what a stage says of its result
UP_TO_DATE, RESTORED, RAN = "up to date", "from the cache", "ran"
# What a stage is asked to end with, and for how many seconds.
SIGNALS = ((signal.SIGINT, 20.0), (signal.SIGTERM, 5.0), (getattr(signal, "SIGKILL", signal.SIGTERM), 5.0))


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read(folder: Path) -> tuple[dict[str, list[str]], set[str]]:
    """Every stage of the line in `folder` with the stages it needs (in an order that works), and the stale stages.

    A stage whose needs are stale may turn out to be up to date. Raises LineError when DVC cannot tell."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo
    from networkx import lexicographical_topological_sort

    try:
        with Repo(str(folder), _wait_for_lock=True) as repo, lock_repo(repo):
            if Path(repo.root_dir).resolve() != folder.resolve():
                raise LineError(f"{folder} is not a line: it has no .dvc folder (make line LINE=... makes one)")
            _heal(repo)
            graph = repo.index.graph  # from a stage to the stages it needs
            name = {stage: _name(stage, folder) for stage in graph}
            order = lexicographical_topological_sort(graph.reverse(), key=name.__getitem__)
            needs = {name[stage]: sorted(name[need] for need in graph.successors(stage)) for stage in order}
            status = repo.status()  # by addresses that depend on the current folder
            stale = {name[stage] for stage in graph if stage.addressing in status}
    except DvcException as error:
        raise LineError(f"DVC cannot read the line in {folder}: {_flat(error)}") from error
    return needs, stale


def _heal(repo: Any) -> None:
    """Remove DVC's note of who reads and writes what, where a process that was killed left half of it.

    DVC would refuse every command from then on; whoever the note named is dead or about to fail on it as well."""
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, make_lock

    note = Path(repo.tmp_dir) / RWLOCK_FILE
    guard = Path(repo.tmp_dir) / RWLOCK_LOCK
    hardlink = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(guard), tmp_dir=repo.tmp_dir, hardlink_lock=hardlink, wait=True):
        try:
            json.loads(note.read_text(encoding="utf-8"))
        except FileNotFoundError:
            pass
        except ValueError:
            note.unlink()


def _name(stage: Any, folder: Path) -> str:
    """A stage's name in this line's dvc.yaml; of raw data under DVC, the path of its .dvc file."""
    path = os.path.relpath(stage.path, folder).replace(os.sep, "/")
    return stage.name if getattr(stage, "name", None) and path == "dvc.yaml" else path


def _flat(error: BaseException) -> str:
    causes = [str(error)]
    while error.__cause__ and len(causes) < 3:
        error = error.__cause__
        causes.append(str(error))
    return ": ".join(dict.fromkeys(" ".join(cause.split()) for cause in causes if cause))


class Line:
    """One run of one line: what DVC said of its stages, what became of them, and the processes at work.

    `jobs` stages run side by side (0: one per core)."""

    def __init__(self, folder: Path, jobs: int = 0) -> None:
        self.folder = folder
        self.needs, self.stale = read(folder)
        self.outcome: dict[str, str] = {}
        self.slots = threading.Semaphore(jobs or cores())
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()
        self._stopped = False

    def __repr__(self) -> str:
        return f"Line({self.folder})"

    def is_up_to_date(self, stage: str) -> bool:
        """Whether DVC need not be asked: the stage was not stale, and nothing that it needs has changed since."""
        return stage not in self.stale and all(self.outcome.get(need) == UP_TO_DATE for need in self.needs[stage])

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a process in the line's folder that `stop` ends with all its children."""
        with self._guard:
            if self._stopped:
                raise LineError("interrupted; nothing half-made was kept, run it again")
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=stage_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._processes.add(process)
        return process

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        with self._guard:
            self._processes.discard(process)

    def stop(self) -> None:
        """End every process at work and its children, and start no other: first ask, then insist."""
        with self._guard:
            self._stopped = True
            processes = list(self._processes)
        for sign, patience in SIGNALS:
            for process in filter(_lives, processes):
                _signal(process, sign)
            until = time.monotonic() + patience
            while any(map(_lives, processes)) and time.monotonic() < until:
                time.sleep(0.05)


def _lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process or, where the system has process groups, any of its children is left."""
    ended = process.poll() is not None
    if not hasattr(os, "killpg"):  # Windows
        return not ended
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _signal(process: subprocess.Popen[bytes], sign: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, sign)
        else:
            process.terminate()


def _is_registry_down(_task: Any, _run: Any, state: Any) -> bool:
    """Whether to try again: MLflow may come back, wrong data do not get better (pipeline/tracking.py's sentences)."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, LineError) and "MLflow" in str(error)


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=_is_registry_down,
)
def run_stage(line: Line, stage: str, missing: Sequence[str] = ()) -> str:
    """Let DVC reproduce one stage of a line; what came of it (`UP_TO_DATE`, `RESTORED` or `RAN`).

    It runs even if DVC holds it for up to date when what it made elsewhere is `missing` there. Raises LineError
    with the stage's own sentence, or with its last lines."""
    if not missing and line.is_up_to_date(stage):
        line.outcome[stage] = UP_TO_DATE
        print(f"{stage:<28}{UP_TO_DATE}", flush=True)
        return UP_TO_DATE
    with slots.stage(stage), line.slots:
        try:
            line.outcome[stage] = _reproduce(line, stage, bool(missing))
        except LineError:
            print(f"{stage:<28}failed", flush=True)
            raise
    return line.outcome[stage]


def _reproduce(line: Line, stage: str, force: bool) -> str:
    log = line.folder / LOGS / f"{re.sub(r'[^a-zA-Z0-9@._-]', '_', stage)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    command = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item")
    process = line.start(*command, *(["--force"] if force else []), stage)
    try:
        said = _follow(process, stage, log)
        status = process.wait()
    finally:
        line.ended(process)
    if status:
        raise LineError(f"{stage} failed: {_reason(said, status)} (log: {log.relative_to(line.folder).as_posix()})")
    if any(row.startswith("Stage ") and "didn't change, skipping" in row for row in said):
        outcome = UP_TO_DATE
    else:
        outcome = RESTORED if any("is cached - skipping run" in row for row in said) else RAN
    took = UP_TO_DATE if outcome == UP_TO_DATE else f"{time.monotonic() - started:6.1f} s"
    print(f"{stage:<28}{took}  {RESTORED if outcome == RESTORED else _result(said, stage)}".rstrip(), flush=True)
    return outcome


def _follow(process: subprocess.Popen[bytes], stage: str, log: Path) -> list[str]:
    """Pass on what a stage says, line by line, until it ends, its progress to the console, too. Its last lines."""
    logger = get_run_logger()
    said: deque[str] = deque(maxlen=200)
    assert process.stdout is not None
    with io.TextIOWrapper(process.stdout, "utf-8", "replace", newline="") as rows, log.open("w", encoding="utf-8") as f:
        for row in rows:
            if row.endswith("\r"):  # another tool's bar, which is drawn over
                continue
            text = row.rstrip()
            f.write(text + "\n")
            f.flush()
            if not text:
                continue
            logger.info(text)
            if text.startswith(MARK):
                print(f"{stage:<28}{text.removeprefix(MARK)}", flush=True)
            else:
                said.append(text)
    return list(said)


def _reason(said: list[str], status: int) -> str:
    """The sentence a stage ended with, else DVC's, else the last lines."""
    own = [row.removeprefix("error: ") for row in said if row.startswith("error: ")]
    if own:
        return own[-1]
    crashed = any(row.startswith("Traceback ") for row in said)
    from_dvc = [row.removeprefix("ERROR: ") for row in said if row.startswith("ERROR: ")]
    if from_dvc and not crashed:
        return from_dvc[-1]
    return "\n  ".join([f"status {status}, its last lines:", *said[-LAST_LINES:]])


def _result(said: list[str], stage: str) -> str:
    """What a stage said of its result: the line before the one with its seconds (pipeline/stages/__init__.py)."""
    for before, row in pairwise(said):
        if row.startswith(f"{stage}: ") and not before.startswith("> "):
            return before if len(before) <= WIDTH else before[: WIDTH - 1].rstrip(" ,") + "…"
    return ""
