"""Ask the gate: the best candidate that passes becomes champion, or the reason why not is told. `make promote`

python -m flows.promote --line examples/magnetic_tile
python -m flows.promote --line examples/magnetic_tile --approve --why "looked at the worst errors"
python -m flows.promote --line examples/magnetic_tile --rollback
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from prefect import flow

from flows import artifacts, console, server
from flows.console import GOOD, NOTE
from flows.report import after_training
from flows.settings import ROOT
from flows.turns import alone
from pipeline import params
from pipeline.ending import LOG, one_sentence

TONES = {"promoted": GOOD, "refused": NOTE}  # of what is said about a decision


@flow(name="promote", flow_run_name="promote {line}", persist_result=False)
def promote(line: str = ".") -> dict[str, Any]:
    """Judge the candidates that the line in the folder `line` (seen from the checkout) published last; the report.

    With `approve: manual` it pauses before the champion changes, and judges again when a person has answered.
    Raises LineError when nothing was published or the audit trail is broken, RegistryError when MLflow cannot be
    reached."""
    from flows import approval
    from pipeline import promotion

    folder = (ROOT / line).resolve()
    given = params.read(folder / "params.yaml")
    with alone(folder):
        report = promotion.promote(given, folder)
        _show(report)
    if report["decision"] == "waits":
        answer = approval.wait(report, folder, given.promote.approve_within)
        with alone(folder):
            report = promotion.promote(params.read(folder / "params.yaml"), folder, answer)
            _show(report)
    return report


def _show(report: dict[str, Any]) -> None:
    """Put every check of every candidate, and a link to the version it is about, onto the run's Prefect page."""
    table = [
        {"candidate": name, "version": entry["version"], **row}
        for name, entry in report["candidates"].items()
        for row in _rows(entry)
    ]
    artifacts.table(table, "promotion", report["name"], report["says"])
    artifacts.version(report["name"], report["waits"] or report["champion"])


def _rows(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per check; one alone for the champion, who is not checked."""
    if not entry["checks"]:
        reason = "; ".join(entry["reasons"])
        return [{"check": "", "value": "", "bound": "", "interval": "", "verdict": "champion", "says": reason}]
    return [
        {
            "check": check["name"],
            "value": _figure(check["value"]),
            "bound": _figure(check["bound"]),
            "interval": " to ".join(_figure(end) for end in check["interval"] or ()),
            "verdict": "passed" if check["passed"] else "failed",
            "says": check["says"],
        }
        for check in entry["checks"]
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


@flow(name="rollback", flow_run_name="rollback {line}", persist_result=False)
def rollback(line: str = ".", who: str = "", why: str = "") -> dict[str, Any]:
    """Let the champion of a line and the one before it change places; `who` and `why` go on record.

    Raises RegistryError when there is none, LineError when the audit trail is broken."""
    from pipeline import promotion

    folder = (ROOT / line).resolve()
    report = promotion.rollback(params.read(folder / "params.yaml"), folder, who, why)
    rows = [{"alias": alias, "version": report[alias]} for alias in ("champion", "previous")]
    says = f"{report['name']} version {report['champion']} is champion again{f': {why}' if why else ''}"
    artifacts.table(rows, "rollback", report["name"], says)
    artifacts.version(report["name"], report["champion"])
    return report


def _prepare(line: str) -> None:
    """What can be done while the server starts: look at the params, load MLflow."""
    params.read(Path(line) / "params.yaml").check()
    from pipeline import promotion  # noqa: F401


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.promote", description="promote the best candidate of a line")
    parser.add_argument("--line", default=".", help="the line's folder")
    deeds = parser.add_mutually_exclusive_group()
    deeds.add_argument("--rollback", action="store_true", help="put the previous champion back")
    deeds.add_argument("--approve", action="store_true", help="answer the promotion that waits: yes")
    deeds.add_argument("--refuse", action="store_true", help="answer the promotion that waits: no")
    parser.add_argument("--who", default="", help="who decides (default: user@host), for the audit trail")
    parser.add_argument("--why", default="", help="the reason, for the audit trail")
    parser.add_argument("--version", type=int, help="which version is approved or refused, where several wait")
    chosen = parser.parse_args(words)
    folder = Path(chosen.line).resolve()
    line = str(folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with one_sentence(folder / LOG if folder.is_dir() else ROOT / LOG):
        if chosen.approve or chosen.refuse:
            from flows import approval

            print(approval.answer(folder, chosen.approve, chosen.who, chosen.why, chosen.version))
            return
        with server.running(lambda: _prepare(line)):
            if chosen.rollback:
                report = rollback(line, chosen.who, chosen.why)
                now, before = report["champion"], report["previous"]
                print(f"{report['name']} version {now} is champion again, version {before} is not")
            else:
                report = promote(line)
                told = {report["says"]: TONES.get(report["decision"], "")}
                print(console.sentence(report["says"], told, console.width()))
            after_training(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
