"""Ask the gate: the best candidate that passes becomes champion, or the reason why not is told. `make promote`

python -m flows.promote --line examples/magnetic_tile
python -m flows.promote --line examples/magnetic_tile --rollback
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from slugify import slugify

from flows import server
from flows.settings import ROOT
from pipeline import params
from pipeline.ending import LOG, one_sentence


@flow(name="promote", flow_run_name="promote {line}", persist_result=False)
def promote(line: str = ".") -> dict[str, Any]:
    """Judge the candidates that the line in the folder `line` (seen from the checkout) published last; the report.

    Raises LineError when nothing was published, RegistryError when MLflow cannot be reached."""
    from pipeline import promotion

    folder = (ROOT / line).resolve()
    report = promotion.promote(params.read(folder / "params.yaml"), folder)
    create_table_artifact(
        table=[
            {
                "candidate": name,
                "version": entry["version"],
                report["metric"]: entry["metric"],
                "verdict": "passed" if entry["passed"] else "refused",
                "reasons": "; ".join(entry["reasons"]),
            }
            for name, entry in report["candidates"].items()
        ],
        key=f"promotion-{slugify(report['name'])}",
        description=report["says"],
    )
    return report


@flow(name="rollback", flow_run_name="rollback {line}", persist_result=False)
def rollback(line: str = ".") -> dict[str, Any]:
    """Let the champion of a line and the one before it change places. Raises RegistryError when there is none."""
    from pipeline import promotion

    return promotion.rollback(params.read(ROOT / line / "params.yaml"))


def _prepare(line: str) -> None:
    """What can be done while the server starts: look at the params, load MLflow."""
    params.read(Path(line) / "params.yaml").check()
    from pipeline import promotion  # noqa: F401


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.promote", description="promote the best candidate of a line")
    parser.add_argument("--line", default=".", help="the line's folder")
    parser.add_argument("--rollback", action="store_true", help="put the previous champion back")
    chosen = parser.parse_args(words)
    folder = Path(chosen.line).resolve()
    line = str(folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with one_sentence(folder / LOG if folder.is_dir() else ROOT / LOG), server.running(lambda: _prepare(line)):
        if chosen.rollback:
            report = rollback(line)
            print(
                f"{report['name']} version {report['champion']} is champion again, version {report['previous']} is not"
            )
        else:
            print(promote(line)["says"])


if __name__ == "__main__":
    main(*sys.argv[1:])
