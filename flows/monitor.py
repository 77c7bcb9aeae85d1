"""What the batches of a line say over time: drift, alarms, promises. `make monitor`

python -m flows.monitor --line examples/magnetic_tile --last 30
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows import artifacts, console, server
from flows.console import BAD, NOTE
from flows.settings import ROOT, shown
from pipeline import params
from pipeline.ending import LOG, one_sentence
from pipeline.files import whole_file
from pipeline.params import Params

PICTURE, TABLE = Path("reports/monitoring.png"), Path("reports/monitoring.csv")
LAST = 30  # batches that are shown
WARNING = "warning"


@task(task_run_name="monitor", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[2, 10])
def record(given: Params, report: dict[str, Any]) -> Any:
    """Record a scored batch once; its Verdict. Raises RegistryError when the registry or the database cannot be
    reached."""
    from pipeline.monitoring.record import record

    return record(given, report)


@flow(name="monitor", flow_run_name="monitor {line}", persist_result=False)
def monitor(line: str = ".", last: int = LAST) -> list[dict[str, str]]:
    """The last batches of the line in the folder `line` as a table, the oldest first; empty before the first.

    Writes reports/monitoring.png and reports/monitoring.csv in the line's folder. Raises RegistryError when the
    database cannot be reached."""
    from pipeline.monitoring import picture
    from pipeline.monitoring.record import history

    folder = (ROOT / line).resolve()
    name = params.read(folder / "params.yaml").promote.name
    found = history(name, last)
    if found.empty:
        return []
    with whole_file(folder / TABLE) as partial:
        found.to_csv(partial, index=False, lineterminator="\n")
    with whole_file(folder / PICTURE) as partial:
        picture.draw(found, partial)
    table = rows(found)
    artifacts.table(table, "monitoring", name, f"{name}: the last {len(found)} batches")
    artifacts.picture(folder / PICTURE, "monitoring-picture", name, found["says"].iloc[-1])
    artifacts.version(name, int(found["version"].iloc[-1]))
    return table


def rows(history: pd.DataFrame) -> list[dict[str, str]]:
    """One dict of headings and texts per batch."""
    from pipeline.monitoring.judged import shown as power

    def share(value: float | None) -> str:
        return "" if pd.isna(value) else f"{value:.2%}"

    def number(value: float | None, form: str) -> str:
        return "" if pd.isna(value) else form.format(value)

    return [
        {
            "number": str(row.number),
            "started": row.started,
            "batch": row.batch,
            "samples": str(row.samples),
            "alarms": share(row.alarm_rate),
            "allowed": share(row.allowed),
            "martingale": power(row.martingale),
            "highest": power(row.martingale_highest),
            "scores p": number(row.scores_p, "{:.2g}"),
            "inputs p": number(row.inputs_p, "{:.2g}"),
            "unread": share(row.quarantined_share),
            "samples/s": number(row.per_second, "{:.0f}"),
            "found": _found(row),
        }
        for row in history.itertuples()
    ]


def _found(row: Any) -> str:
    """What stands out of a batch, in a word or two."""
    words = ["drift"] if row.drift else []
    words += ["promise broken"] if row.broken else []
    return ", ".join(words) or (WARNING if row.warnings != "[]" else "")


def text(table: list[dict[str, str]], wide: int | None = None) -> str:
    """The table for a console: plain, or in colours for a terminal of `wide` columns."""
    return console.table(table, {"started", "batch", "found"}, _tone, wide)


def _tone(row: dict[str, str], heading: str) -> str:
    if heading != "found":
        return ""
    return NOTE if row[heading] == WARNING else BAD


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.monitor", description="what batches say over time")
    parser.add_argument("--line", default=".", help="the line's folder")
    parser.add_argument("--last", type=int, default=LAST, help="how many batches, the newest ones")
    chosen = parser.parse_args(words)
    if chosen.last < 1:
        parser.error(f"--last must be at least 1, got {chosen.last}")
    folder = Path(chosen.line).resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        one_sentence(folder / LOG if folder.is_dir() else ROOT / LOG),
        server.running(lambda: params.read(folder / "params.yaml").check()),
    ):
        table = monitor(str(folder), chosen.last)
    if not table:
        print("no batch has been recorded yet: score one first (make score)")
        return
    print(text(table, console.width()))
    print(f"-> {shown(folder / PICTURE)}, {shown(folder / TABLE)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
