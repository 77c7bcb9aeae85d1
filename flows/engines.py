"""Who scores the shards of a batch: Prefect's task runners for threads, processes, Dask and Ray."""

import os
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from flows.artifacts import Progress
from pipeline import shards
from pipeline.ending import EXPLAINED
from pipeline.errors import AssayError, DataError, LineError, ParamsError
from pipeline.operation import Score
from pipeline.parts.progress import tracked
from pipeline.shards import Job, Shard

PATIENCE = 5.0  # seconds that a scheduler has to answer


def _transient(task: Any, run: Any, state: State[Any]) -> bool:
    """Whether trying again may help: not with samples that cannot be scored, nor with a disk that is full."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, AssayError | MemoryError) and getattr(error, "errno", None) not in EXPLAINED


@task(
    task_run_name="shard {job.number}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_condition_fn=_transient,
)
def score_shard(job: Job) -> Shard:
    """Score one shard, wherever this runs. Raises DataError for one whose samples cannot be scored."""
    found = shards.score(job)
    if found.error:
        raise DataError(found.error)
    return found


def cores(score: Score) -> int | None:
    """Processor cores that each worker may use; None for all, and where workers run elsewhere."""
    if score.runner == "threads" or score.address is not None:
        return None
    return max(1, (os.cpu_count() or 1) // score.workers)


def engine(score: Score) -> Callable[[list[Job]], None]:
    """What scores jobs as `score.runner` says, `score.workers` at once.

    It raises LineError when nobody answers at `score.address`, ParamsError when the runner is not installed, and
    OSError or MemoryError when the machine has no room; shards that fail for another reason keep it."""

    def run(jobs: list[Job]) -> None:
        if jobs:
            made = flow(name="shards", task_runner=_runner(score), persist_result=False)(_all)
            progress = Progress(len(jobs), "shards", "shards", str(jobs[0].columns["model_name"]))
            made.with_options(flow_run_name=f"{len(jobs)} shards on {score.runner}")(_Hidden(jobs, progress))

    return run


class _Hidden:
    """Jobs that Prefect passes on as they are instead of keeping them among the parameters of the run."""

    def __init__(self, jobs: list[Job], progress: Progress) -> None:
        self.jobs, self.progress = jobs, progress

    def __repr__(self) -> str:
        return f"{len(self.jobs)} shards"


def _all(jobs: Any) -> None:
    futures = [(job, score_shard.submit(job)) for job in jobs.jobs]
    full: BaseException | None = None
    for done, (job, future) in enumerate(tracked(futures, len(futures), "score", "shards"), start=1):
        future.wait()
        jobs.progress.at(done)
        state = future.state
        if state.is_completed():
            continue
        error = state.result(raise_on_failure=False)
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in EXPLAINED:
            full = full or error
        elif not isinstance(error, AssayError):  # those have left their error themselves
            shards.failed(job, error if isinstance(error, Exception) else LineError(str(state.message)))
    if full is not None:
        raise full


def _runner(score: Score) -> TaskRunner[Any]:
    if score.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=score.workers)
    if score.runner == "processes":
        return ProcessPoolTaskRunner(max_workers=score.workers)
    if score.address is not None:
        _must_answer(score.address)
    try:
        return _dask(score) if score.runner == "dask" else _ray(score)
    except ImportError as error:
        raise ParamsError(
            f"score.runner: {score.runner} needs the packages of the extra engines, {error.name} is not installed"
            " (params.yaml)"
        ) from error


def _dask(score: Score) -> TaskRunner[Any]:
    from prefect_dask import DaskTaskRunner

    if score.address is not None:
        return DaskTaskRunner(address=score.address)
    local = {"n_workers": score.workers, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=local)


def _ray(score: Score) -> TaskRunner[Any]:
    from prefect_ray import RayTaskRunner

    if score.address is not None:
        return RayTaskRunner(address=score.address, init_kwargs={"log_to_driver": False})
    return RayTaskRunner(init_kwargs={"num_cpus": score.workers, "include_dashboard": False, "log_to_driver": False})


def _must_answer(address: str) -> None:
    """Ask whether somebody listens, so that an address that is wrong costs seconds."""
    url = urlsplit(address if "://" in address else f"//{address}")
    if not url.hostname or not url.port:
        return  # such as Ray's `auto`
    try:
        socket.create_connection((url.hostname, url.port), timeout=PATIENCE).close()
    except OSError as error:
        said = os.strerror(error.errno) if error.errno else error
        raise LineError(f"nobody answers at score.address {address} ({said})") from error
