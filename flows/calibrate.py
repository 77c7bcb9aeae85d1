"""Give a registered version other thresholds, without training or exporting it again. `make calibrate SET=alpha=0.002`

python -m flows.calibrate --line examples/magnetic_tile --set alpha=0.002 --set review=0.05
python -m flows.calibrate --version 3 --set rule=escape_rate --set alpha=0.05
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

import yaml
from prefect import flow

from flows import artifacts, server
from flows.settings import ROOT
from pipeline import params
from pipeline.ending import LOG, one_sentence
from pipeline.errors import ParamsError


@flow(name="calibrate", flow_run_name="calibrate {line}", persist_result=False)
def calibrate(
    changes: dict[str, Any], line: str = ".", version: int | None = None, who: str = "", why: str = ""
) -> dict[str, Any]:
    """Change keys of `calibrate` for a version of the line in the folder `line` (by default its champion); what was and
    what is; `who` and `why` go on record. Raises what `pipeline.recalibration.recalibrate` does."""
    from pipeline import recalibration

    folder = (ROOT / line).resolve()
    report = recalibration.recalibrate(params.read(folder / "params.yaml"), folder, changes, version, who, why)
    rows = [{"what": when, **report[when]["thresholds"], "says": report[when]["says"]} for when in ("before", "after")]
    artifacts.table(rows, "calibration", report["name"], f"{report['name']} version {report['version']}")
    artifacts.version(report["name"], report["version"])
    return report


def changes(words: list[str]) -> dict[str, Any]:
    """`key=value` words, the values as YAML. Raises ParamsError for others, or none."""
    if not words:
        raise ParamsError("a new calibration needs at least one change, such as --set alpha=0.002")
    found = {}
    for word in words:
        key, sign, value = word.partition("=")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ParamsError(f"--set must be KEY=VALUE with a YAML value, got {word!r}") from error
        if not sign or not key.strip():
            raise ParamsError(f"--set must be KEY=VALUE, such as alpha=0.002, got {word!r}")
    return found


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.calibrate", description="set a version's thresholds anew")
    parser.add_argument("--line", default=".", help="the line's folder")
    parser.add_argument("--version", type=int, help="a version's number (default: the champion)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of params' calibrate")
    parser.add_argument("--who", default="", help="who decides (default: user@host), for the audit trail")
    parser.add_argument("--why", default="", help="the reason, for the audit trail")
    chosen = parser.parse_args(words)
    folder = Path(chosen.line).resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with one_sentence(folder / LOG if folder.is_dir() else ROOT / LOG):
        given = changes(chosen.set)
        with server.running(lambda: params.read(folder / "params.yaml").check()):
            report = calibrate(given, str(folder), chosen.version, chosen.who, chosen.why)
    print(f"{report['name']} version {report['version']}, from the next batch on: {report['after']['says']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
