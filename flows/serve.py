"""Serve the deployments of prefect.yaml, by the schedules that each line's params give. `make serve`

python -m flows.serve --line . --line examples/magnetic_tile
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from filelock import FileLock, Timeout
from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import automations, leftovers, server, slots
from flows.settings import ROOT, shown, stage_environment
from flows.train import ONE_AT_A_TIME
from pipeline import params
from pipeline.ending import LOG, one_sentence
from pipeline.errors import LineError, ParamsError

FILE = ROOT / "prefect.yaml"
LOCK = Path(".assay/serve.lock")
TRAIN = "train"  # the flow that drift starts


def deployments(folder: Path, file: Path = FILE) -> list[RunnerDeployment]:
    """The deployments of `file` for the line in `folder`: its params' `schedule` says when, in which time zone.

    Raises ParamsError for params that are not allowed, or a schedule that is no cron expression."""
    given = params.read(folder / "params.yaml")
    given.check()
    found = yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]
    return [_deployment(entry, given, shown(folder)) for entry in found]


def _deployment(entry: dict[str, Any], given: params.Params, line: str) -> RunnerDeployment:
    flow = entry["entrypoint"].rpartition(":")[2]
    slug = re.sub(r"[^a-z0-9]+", "-", line.lower()).strip("-")
    limit = entry.get("concurrency_limit")
    return RunnerDeployment.from_entrypoint(
        entry["entrypoint"],
        name=f"{entry['name']}-{slug}" if slug else entry["name"],
        description=entry.get("description"),
        tags=[*entry.get("tags", []), given.promote.name],
        parameters={**entry.get("parameters", {}), "line": line},
        concurrency_limit=ConcurrencyLimitConfig(**limit) if isinstance(limit, dict) else limit,
        schedule=_schedule(flow, given.schedule),
    )


def _schedule(flow: str, given: params.Schedule) -> Any:
    """When a flow runs by itself; None for one that waits for a person."""
    cron = getattr(given, flow, None)
    return None if cron is None else _cron(cron, given.timezone, f"schedule.{flow}")


def _cron(cron: str, timezone: str, where: str) -> Any:
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValueError as error:
        said = " ".join(str(error).split())
        raise ParamsError(
            f'{where} must be a cron expression such as "0 2 * * *", and schedule.timezone a name such as '
            f"Europe/Berlin, got {cron!r} and {timezone!r} (params.yaml): {said}"
        ) from error
    return Cron(cron, timezone=timezone)


@contextmanager
def _server(port: int) -> Iterator[str]:
    """The API of a reachable server, else of one that this process starts."""
    api = server.reachable()
    if api:
        yield api
    else:
        with server.dedicated(port):
            print(f"no Prefect server was running, so this one has started: http://{server.HOST}:{port}", flush=True)
            yield server.api_url(port)


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="make serve", description="Serve the deployments of prefect.yaml.")
    parser.add_argument("--line", type=Path, action="append", help="a line's folder; may be given several times")
    parser.add_argument("--prefect-port", type=int, default=server.PORT, help="for a server that this starts itself")
    chosen = parser.parse_args(words)
    folders = [line.resolve() for line in chosen.line or [ROOT]]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.chdir(ROOT)  # entrypoints start here
    os.environ["PYTHONPATH"] = stage_environment()["PYTHONPATH"]
    served = {folder: deployments(folder) for folder in folders}
    webhook = automations.address()
    with _alone(list(served)), _server(chosen.prefect_port) as api, temporary_settings({PREFECT_API_URL: api}):
        said = _set_up(served, webhook)
        for deployment in (one for found in served.values() for one in found):
            when = [f"{one.schedule.cron} {one.schedule.timezone}" for one in deployment.schedules or []]
            print(f"{deployment.flow_name}/{deployment.name}: {when[0] if when else 'when a person runs it'}")
        print("\n".join([*said, f"serving at {api.removesuffix('/api')} until Ctrl-C"]), flush=True)
        serve(*(one for found in served.values() for one in found), print_starting_message=False)


def _set_up(served: dict[Path, list[RunnerDeployment]], webhook: str | None) -> list[str]:
    """Put the deployments, their limits and the automations onto the server; what is worth knowing, in sentences."""
    said: list[str] = []
    trainings: dict[str, UUID | None] = {}
    with get_client(sync_client=True) as client:
        for limit in (ONE_AT_A_TIME, slots.GPU):
            client.upsert_global_concurrency_limit_by_name(limit, 1)
        for folder, found in served.items():
            retrain = params.read(folder / "params.yaml").schedule.retrain == "on-drift"
            for deployment in found:
                number = deployment.apply()
                said += [f"{deployment.flow_name}/{deployment.name}: {one}" for one in leftovers.clear(client, number)]
                if deployment.flow_name == TRAIN:
                    trainings[shown(folder)] = number if retrain else None
        return said + automations.set_up(client, trainings, webhook)


@contextmanager
def _alone(folders: list[Path]) -> Iterator[None]:
    """Each line is served once on this machine: a second server would take the first one's runs for dead.

    Raises LineError for a line that is served already."""
    with ExitStack() as held:
        for folder in folders:
            lock = FileLock(folder / LOCK)
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(lock.acquire(timeout=0))
            except Timeout as error:
                raise LineError(f"{shown(folder)} is served already, by another make serve on this machine") from error
        yield


if __name__ == "__main__":
    with one_sentence(ROOT / LOG):
        main(*sys.argv[1:])
