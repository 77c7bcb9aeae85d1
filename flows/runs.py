"""Print the run log: what was read, with which model, what came out. `make runs`

python -m flows.runs --line examples/magnetic_tile --last 50
"""

import argparse
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flows import console
from flows.console import BAD, GOOD
from flows.settings import ROOT, shown
from pipeline import runlog
from pipeline.ending import LOG, one_sentence

ENDED = "ended"
HEADINGS = ("started (UTC)", "took", "flow", "line", ENDED, "read", "model", "what came out")
TONES = {runlog.DONE: GOOD, runlog.FAILED: BAD, runlog.KILLED: BAD}
WIDEST = 60  # characters of a cell, save those of the last column


def table(rows: list[dict[str, Any]], wide: int | None = None) -> str:
    """Runs as `pipeline.runlog.last` gives them: a row each, plain, or in colours for a terminal of `wide` columns."""
    return console.table([_cells(row) for row in rows], set(HEADINGS), _tone, wide)


def _tone(row: dict[str, str], heading: str) -> str:
    return TONES.get(row[ENDED], "") if heading == ENDED else ""


def _cells(row: dict[str, Any]) -> dict[str, str]:
    came = [row["error"]] if row["error"] else [row["out"], row["verdict"]]
    out = "; ".join(" ".join(part.split()) for part in came if part)
    read = f"{row['source'] or ''} ({row['data_hash'][:12]})" if row["data_hash"] else row["source"] or ""
    started = datetime.fromisoformat(row["started"])
    plain = (row["flow"], row["line"], row["status"], read, row["model"] or "")
    cells = (f"{started:%Y-%m-%d %H:%M}", _took(row), *map(_short, plain), out)
    return dict(zip(HEADINGS, cells, strict=True))


def _took(row: dict[str, Any]) -> str:
    if row["ended"] is None:
        return ""
    took = datetime.fromisoformat(row["ended"]) - datetime.fromisoformat(row["started"])
    return str(timedelta(seconds=round(took.total_seconds())))


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.runs", description="print the run log, newest first")
    parser.add_argument("--line", type=Path, help="the line's folder (default: all lines)")
    parser.add_argument("--last", type=int, default=20, help="how many runs")
    chosen = parser.parse_args(words)
    if chosen.last < 1:
        parser.error(f"--last must be at least 1, got {chosen.last}")
    line = None if chosen.line is None else shown(chosen.line.resolve())
    rows = runlog.last(line, chosen.last).to_dict("records")
    print(table(rows, console.width()) if rows else f"no run of {line or 'any line'} is on record")


if __name__ == "__main__":
    with one_sentence(ROOT / LOG):
        main(*sys.argv[1:])
