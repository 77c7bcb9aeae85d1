"""The whole line: every DVC stage in DVC's order, promotion, one scored batch, the summary. `make run LINE=...`

python -m flows.train --line examples/magnetic_tile
"""

import argparse
import json
import signal
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import Task, flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.sync import concurrency
from prefect.futures import PrefectFuture
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from flows import artifacts, console, dag, server, summary
from flows.report import after_training
from flows.settings import ROOT, shown
from flows.turns import alone
from pipeline import params, runlog
from pipeline.ending import LOG, one_sentence
from pipeline.errors import AssayError, LineError, RegistryError
from pipeline.stages import MODELS

PUBLISH, REGISTRY = "publish", "registry"
ONE_AT_A_TIME = "assay-training"  # Prefect's concurrency limit that `make serve` sets to 1
# Seconds between tries of a served run while the registry is down: nobody is there to start it again.
UNATTENDED = [2, 10, 60, 300, 600]
THREADS = 512  # they only wait; `dag.Line.slots` says how many stages run at once


@task(task_run_name=REGISTRY, cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[2, 10])
def open_registry(folder: Path) -> list[str]:
    """Create MLflow's store if it is new; the candidates of the last receipt whose version it does not hold.

    Raises RegistryError when it cannot be reached."""
    from pipeline import promotion, publication, tracking

    tracking.initialise()
    if not (folder / promotion.RECEIPT).exists():
        return []
    return publication.missing_versions(promotion.read_receipt(folder))


@flow(
    name="train",
    flow_run_name="train {line}",
    task_runner=ThreadPoolTaskRunner(max_workers=THREADS),
    persist_result=False,
)
def train(line: str = ".", score_after: bool = True, jobs: int = 0) -> summary.Summary:
    """Run the whole line in the folder `line` (seen from the checkout); the summary.

    `jobs` stages run side by side, 0 means one per processor core. Raises ParamsError before anything runs,
    LineError when a stage failed (what does not depend on it has run by then), and what promotion and scoring raise."""
    folder = (ROOT / line).resolve()
    given = params.read(folder / "params.yaml")
    given.check()
    with runlog.run("train", shown(folder), given.dataset.source) as entry:
        with _slot(), alone(folder):
            reproduce(dag.Line(folder, jobs))
        entry.note(data_hash=_data(folder, given))
        _promote(line)  # takes its turn itself, since it may wait for a person's approval
        found = summary.read(folder, given)
        entry.note(model=_champion(found), out=_out(found), verdict=found.says)
        try:
            if score_after:
                found = replace(found, scored=_score(line))
        finally:  # once the batch is recorded: the pages tell of it, too
            pages = after_training(line)
        page = (found.scored or {}).get("page")
        found = replace(found, reports=[*found.reports, *pages, *([page] if page else [])])
        _show(found, folder)
    return found


def _champion(found: summary.Summary) -> str | None:
    return None if found.champion is None else f"{found.registered} version {found.champion}"


def _data(folder: Path, given: params.Params) -> str | None:
    """The hash of the data that the candidates, who share them, were trained on."""
    found = [folder / MODELS / name / "detector.json" for name in given.candidates]
    return next((json.loads(path.read_text(encoding="utf-8"))["data"] for path in found if path.exists()), None)


def _out(found: summary.Summary) -> str:
    """What came out, for the run log."""
    return ", ".join(f"{c.name} version {c.version}" for c in found.candidates if c.version is not None)


def _promote(line: str) -> None:
    from flows.promote import promote

    promote(line)


def _score(line: str) -> dict[str, Any]:
    from flows.score import score

    return score(line)


def _slot() -> AbstractContextManager[Any]:
    """Served trainings take turns, whatever their line; a person's runs do not wait for them."""
    return concurrency(ONE_AT_A_TIME) if runtime.deployment.id else nullcontext()


def _patient(tried: Task[Any, Any]) -> Task[Any, Any]:
    """A task that tries on for longer in a served run; what a person must put right still fails at once."""
    if not runtime.deployment.id:
        return tried
    return tried.with_options(retries=len(UNATTENDED), retry_delay_seconds=UNATTENDED)


def reproduce(line: dag.Line) -> None:
    """Run every stage after those that it needs, independent ones side by side. Raises LineError if any failed."""
    futures: dict[str, PrefectFuture[Any]] = {}
    run_stage = _patient(dag.run_stage)
    if PUBLISH in line.needs:
        futures[REGISTRY] = _patient(open_registry).submit(line.folder)
    progress = artifacts.Progress(len(line.needs), "stages", "stages", shown(line.folder))
    try:
        for stage, needs in line.needs.items():
            missing = futures[REGISTRY] if stage == PUBLISH else ()
            futures[stage] = run_stage.submit(line, stage, missing, wait_for=[futures[need] for need in needs])
        for future in futures.values():
            future.wait()
            progress.at(len(line.outcome))
    finally:
        line.stop()  # after Ctrl-C; else nothing is left to end
    _raise({name: future.state for name, future in futures.items()})


def _raise(states: dict[str, State[Any]]) -> None:
    """Turn what failed into one error; name what did not run for that reason."""
    for name, state in states.items():
        if state.is_pending():
            print(f"{name:<28}not run", flush=True)
    failed = [s.result(raise_on_failure=False) for s in states.values() if s.is_failed() or s.is_crashed()]
    for error in failed:
        if not isinstance(error, AssayError):
            raise error  # a defect of ours
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise LineError(f"{len(failed)} stages failed; " + "; ".join(str(error) for error in failed))


def _show(found: summary.Summary, folder: Path) -> None:
    """Put the table, the picture and the link to the champion onto the run's Prefect page."""
    rows = [{heading or "alias": text for heading, text in row.items()} for row in summary.rows(found)]
    artifacts.table(rows, "summary", found.line, found.says)
    picture = summary.picture(found, folder)
    if picture:
        artifacts.picture(picture, "histogram", found.line, f"{found.candidates[0].name}, scores of the test part")
    artifacts.version(found.registered, found.champion)


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="make run", description="Run the whole line.")
    parser.add_argument("--line", type=Path, default=ROOT, help="the line's folder, with its params.yaml")
    parser.add_argument("--jobs", type=int, default=0, help="stages side by side; 0, the default: one per core")
    parser.add_argument("--no-score", action="store_true", help="stop after the promotion")
    chosen = parser.parse_args(words)
    folder = chosen.line.resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def meanwhile() -> None:
        params.read(folder / "params.yaml").check()
        from pipeline import batch, promotion, tracking  # noqa: F401  the flow needs them; it waits for nothing else now

        with suppress(RegistryError):  # that of `open_registry` counts
            tracking.initialise()

    with one_sentence(folder / LOG if folder.is_dir() else ROOT / LOG), server.running(meanwhile):
        found = train(shown(folder), not chosen.no_score, chosen.jobs)
        print(f"\n{summary.text(found, console.width())}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
