"""Serve the deployments of prefect.yaml, by the schedules that each line's params give. `make serve`

python -m flows.serve --line . --line examples/magnetic_tile
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prefect import serve
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import server
from flows.settings import ROOT, shown, stage_environment
from flows.train import ONE_AT_A_TIME
from pipeline import params
from pipeline.ending import LOG, one_sentence
from pipeline.errors import ParamsError

FILE = ROOT / "prefect.yaml"


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
    return RunnerDeployment.from_entrypoint(
        entry["entrypoint"],
        name=f"{entry['name']}-{slug}" if slug else entry["name"],
        description=entry.get("description"),
        tags=[*entry.get("tags", []), given.promote.name],
        parameters={**entry.get("parameters", {}), "line": line},
        concurrency_limit=entry.get("concurrency_limit"),
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
    served = [deployment for folder in folders for deployment in deployments(folder)]
    with _server(chosen.prefect_port) as api, temporary_settings({PREFECT_API_URL: api}):
        with get_client(sync_client=True) as client:
            client.upsert_global_concurrency_limit_by_name(ONE_AT_A_TIME, 1)
        for deployment in served:
            when = [f"{one.schedule.cron} {one.schedule.timezone}" for one in deployment.schedules or []]
            print(f"{deployment.flow_name}/{deployment.name}: {when[0] if when else 'when a person runs it'}")
        print(f"serving at {api.removesuffix('/api')} until Ctrl-C", flush=True)
        serve(*served, print_starting_message=False)


if __name__ == "__main__":
    with one_sentence(ROOT / LOG):
        main(*sys.argv[1:])
