"""Score one batch with the champion. `make score`

python -m flows.score --line examples/magnetic_tile --source incoming/2026-11-23
"""

import argparse
import base64
import signal
import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_image_artifact, create_table_artifact
from slugify import slugify

from flows import server
from flows.settings import ROOT, shown
from pipeline import params
from pipeline.ending import LOG, one_sentence

LARGE = 2 * 2**20  # bytes of a picture that would swell Prefect's database


@flow(name="score", flow_run_name="score {line}", persist_result=False)
def score(line: str = ".", source: str | None = None) -> dict[str, Any]:
    """Score `source` (by default the line's own, from its params) with the champion of the line in the folder `line`.

    The report of the batch, with its folder. Raises RegistryError without a champion, DataError for a batch that
    cannot be read."""
    from pipeline import batch

    folder = (ROOT / line).resolve()
    report = batch.score_batch(params.read(folder / "params.yaml"), folder, source)
    create_table_artifact(
        table=_table(report),
        key=f"batch-{slugify(report['name'])}",
        description=f"{report['name']}: {report['folder']}",
    )
    picture = next((Path(report["folder"], path) for path in report["pictures"]), None)
    if picture and picture.suffix == ".png" and picture.stat().st_size <= LARGE:
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        create_image_artifact(
            f"data:image/png;base64,{data}", key=f"worst-alarm-{slugify(report['name'])}", description=picture.name
        )
    return report


def _table(report: dict[str, Any]) -> list[dict[str, Any]]:
    rate = report["alarm_rate"]
    rows = {
        "model": f"{report['name']} version {report['version']}",
        "batch": report["batch"],
        "samples": report["samples"],
        **report["decisions"],
        "quarantined": report["quarantined"],
        "alarm rate": "" if rate is None else f"{rate:.2%}",
        "promised false-alarm rate": "" if report["promised_rate"] is None else f"{report['promised_rate']:.2%}",
    }
    if report.get("false_discovery_rate") is not None:  # absent from reports of before
        rows["promised share of false alarms among all"] = f"{report['false_discovery_rate']:.2%}"
    if "shadow" in report:
        shadow = report["shadow"]
        apart = ", ".join(f"{count} {pair}" for pair, count in shadow.get("disagree", {}).items()) or "none"
        apart = shadow.get("failed", apart)
        rows[f"decisions of the shadow (version {shadow['version']}) that differ"] = apart
    return [{"what": what, "value": str(value)} for what, value in rows.items()]


def _prepare(line: str) -> None:
    """What can be done while the server starts: look at the params, load MLflow."""
    params.read(Path(line) / "params.yaml").check()
    from pipeline import batch  # noqa: F401


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.score", description="score a batch with the champion")
    parser.add_argument("--line", default=".", help="the line's folder")
    parser.add_argument("--source", help="folder, file, archive or URL of the batch (default: score.source in params)")
    chosen = parser.parse_args(words)
    source = chosen.source
    if source and ":" not in source:
        source = str(Path(source).expanduser().absolute())
    folder = Path(chosen.line).resolve()
    line = str(folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with one_sentence(folder / LOG if folder.is_dir() else ROOT / LOG), server.running(lambda: _prepare(line)):
        report = score(line, source)
    decisions = ", ".join(f"{count} {name}" for name, count in report["decisions"].items())
    print(
        f"{report['samples']} samples scored with {report['name']} version {report['version']}: {decisions}; "
        f"{report['quarantined']} quarantined -> {shown(Path(report['folder']))}/"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
