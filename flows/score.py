"""Score one batch with the champion. `make score`

python -m flows.score --line examples/magnetic_tile --source incoming/2026-11-23
"""

import argparse
import io
import signal
import sys
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows import artifacts, console, events, server, slots
from flows.report import after_scoring
from flows.settings import ROOT, shown
from pipeline import params, runlog
from pipeline.delivery import RECEIPTS
from pipeline.ending import LOG, one_sentence
from pipeline.files import write_json
from pipeline.params import Params

TOLD = RECEIPTS / "events.json"
FAILED = 3  # exit status when shards failed and the rest was scored


@task(task_run_name="registry", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[2, 10])
def open_registry() -> None:
    """Ask whether the registry answers, some times. Raises RegistryError when it does not."""
    from pipeline import tracking

    tracking.initialise()


@task(task_run_name="deliver", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[2, 10])
def deliver(given: Params, report: dict[str, Any]) -> list[str]:
    """Bring the scores to the sinks. Raises DeliveryError or RegistryError when one does not take them."""
    from pipeline import delivery

    return delivery.deliver(given, report)


@flow(name="score", flow_run_name="score {line}", persist_result=False)
def score(line: str = ".", source: str | None = None) -> dict[str, Any]:
    """Score `source` (by default the line's own, from its params) with the champion of the line in the folder `line`.

    The report of the batch, with its folder, what monitoring says and the page that shows it all. Raises RegistryError
    without a champion or a registry that answers, DataError for a batch that cannot be read, DeliveryError when a sink
    does not take it."""
    from flows import engines
    from pipeline import batch

    folder = (ROOT / line).resolve()
    given = params.read(folder / "params.yaml")
    with runlog.run("score", shown(folder), source=source or given.score.source) as entry:
        open_registry()
        with slots.gpu():
            report = batch.score_batch(given, folder, source, engines.engine(given.score), engines.cores(given.score))
        entry.note(
            data_hash=report["data_hash"], model=f"{report['name']} version {report['version']}", out=_out(report)
        )
        _show(report)
        report["delivered"] = deliver(given, report)
        report["monitoring"] = _watch(given, shown(folder), report)
        report["page"] = after_scoring(given, Path(report["folder"]))
        if report["page"]:
            artifacts.picture(lambda: histogram(report), "scores", report["name"], "scores of the batch")
        entry.note(verdict=None if report["monitoring"] is None else report["monitoring"]["says"])
    return report


def _watch(given: Params, line: str, report: dict[str, Any]) -> dict[str, Any] | None:
    """Record a whole batch in monitoring and tell Prefect what it found, once: a receipt in the batch's folder says
    that it was told. None for a batch with shards that failed."""
    told = {"batch": report["batch"], "version": report["version"], "model": report["name"]}
    if report["failed"]:
        events.emit(events.SHARDS, line, told | {"says": f"{len(report['failed'])} shards failed"})
        return None
    from flows.monitor import record

    verdict = record(given, report)
    alarms, receipt = report["decisions"]["reject"], Path(report["folder"]) / TOLD
    if not receipt.exists():
        if alarms:
            events.emit(events.ALARMS, line, told | {"alarms": alarms})
        for found, event in ((verdict.drift, events.DRIFT), (verdict.broken, events.BROKEN)):
            if found:
                events.emit(event, line, told | {"says": verdict.says})
        write_json(receipt, {"alarms": alarms, "drift": verdict.drift, "broken": verdict.broken})
    return {"drift": verdict.drift, "broken": verdict.broken, "warnings": verdict.warnings, "says": verdict.says}


def _show(report: dict[str, Any]) -> None:
    """Put the batch's figures, its worst alarm and a link to the model onto the run's Prefect page."""
    artifacts.table(_table(report), "batch", report["name"], f"{report['name']}: {report['folder']}")
    picture = next((Path(report["folder"], path) for path in report["pictures"]), None)
    if picture and picture.suffix == ".png":
        artifacts.picture(picture, "worst-alarm", report["name"], picture.name)
    artifacts.version(report["name"], report["version"])


def histogram(report: dict[str, Any]) -> bytes:
    """The batch's scores and thresholds as a PNG. Raises RegistryError when its calibration is nowhere."""
    import pandas as pd

    from pipeline.monitoring import look_up
    from pipeline.reports import charts

    scores = pd.read_parquet(Path(report["folder"], "scores.parquet"), columns=["score"])["score"].to_numpy()
    calibration, _ = look_up.of(report)
    series = [
        charts.Series("calibration normals", calibration.scores),
        charts.Series("this batch", scores, filled=False),
    ]
    out = io.BytesIO()
    charts.histogram(series, calibration.thresholds)[0].savefig(out, dpi=110)
    return out.getvalue()


def _table(report: dict[str, Any]) -> list[dict[str, Any]]:
    rate = report["alarm_rate"]
    rows = {
        "model": f"{report['name']} version {report['version']}",
        "batch": report["batch"],
        "samples": report["samples"],
        **report["decisions"],
        "quarantined": report["quarantined"],
        "shards failed": len(report["failed"]),
        "alarm rate": "" if rate is None else f"{rate:.2%}",
        "promised false-alarm rate": "" if report["promised_rate"] is None else f"{report['promised_rate']:.2%}",
    }
    if report["false_discovery_rate"] is not None:
        rows["promised share of false alarms among all"] = f"{report['false_discovery_rate']:.2%}"
    if "shadow" in report:
        shadow = report["shadow"]
        apart = ", ".join(f"{count} {pair}" for pair, count in shadow.get("disagree", {}).items()) or "none"
        apart = shadow.get("failed", apart)
        rows[f"decisions of the shadow (version {shadow['version']}) that differ"] = apart
    return [{"what": what, "value": str(value)} for what, value in rows.items()]


def _out(report: dict[str, Any]) -> str:
    """What came out, in a sentence."""
    decisions = ", ".join(f"{count} {name}" for name, count in report["decisions"].items())
    failed = f"; {len(report['failed'])} of {report['shards']} shards failed" if report["failed"] else ""
    said = f"{report['samples']} samples: {decisions}; {report['quarantined']} quarantined{failed}"
    watched = report.get("monitoring")
    return f"{said} -> {shown(Path(report['folder']))}/" + (f"; {watched['says']}" if watched else "")


def _prepare(line: str) -> None:
    """What can be done while the server starts: look at the params, load MLflow."""
    params.read(Path(line) / "params.yaml").check()
    from pipeline import batch  # noqa: F401


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.score", description="score a batch with the champion")
    parser.add_argument("--line", default=".", help="the line's folder")
    parser.add_argument(
        "--source", help="folder, file, glob, archive, query or URL of the batch (default: score.source in params)"
    )
    chosen = parser.parse_args(words)
    source = chosen.source
    if source and ":" not in source:
        source = str(Path(source).expanduser().absolute())
    folder = Path(chosen.line).resolve()
    line = str(folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with one_sentence(folder / LOG if folder.is_dir() else ROOT / LOG), server.running(lambda: _prepare(line)):
        report = score(line, source)
    said = f"scored with {report['name']} version {report['version']}: {_out(report)}"
    print(console.sentence(said, console.of_batch(report), console.width()))
    if report["page"]:
        print(f"report: {report['page']}")
    for failed in report["failed"]:
        print(f"error: shard {failed['shard']}: {failed['error']}", file=sys.stderr)
    if report["failed"]:
        sys.exit(FAILED)


if __name__ == "__main__":
    main(*sys.argv[1:])
