"""Give labels back for samples that were scored. `make labels FILE=labels.csv`

python -m flows.label --line examples/magnetic_tile labels.csv
python -m flows.label "sql:SELECT id, label FROM inspection"
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow

from flows import artifacts, server
from flows.settings import ROOT, shown, stage_environment
from flows.turns import alone
from pipeline import params, runlog
from pipeline.ending import LOG, one_sentence
from pipeline.errors import DataError, LineError
from pipeline.files import sha256

NOTE = Path(".assay/labelled")  # the hash of the .dvc file that the folder was last brought in line with
PENDING = Path(".assay/labelled.pending")  # stands while the folder may hold what DVC has not seen
REFUSED = 3  # exit status when some rows were refused and the others are used
LAST = 5  # batches whose figures are printed


@flow(name="labels", flow_run_name="labels {line}", persist_result=False)
def labels(line: str = ".", file: str | None = None) -> dict[str, Any]:
    """Take the labels in `file` for samples that the line in the folder `line` has scored; what became of them, and of
    precision and recall. Without a file only the latter.

    `file` is anything that a source may be, a relative path is seen from the line. Raises DataError when no row can be
    used, LineError when DVC fails (the labels are in SQL by then), RegistryError when the database does."""
    from pipeline import feedback

    folder = (ROOT / line).resolve()
    given = params.read(folder / "params.yaml")
    report: dict[str, Any] = {"name": given.promote.name, "given": 0, "refused": 0}
    if file is not None:
        with runlog.run("labels", shown(folder), source=file) as entry:
            report |= _take(given, folder, file if ":" in file else str(folder / file))
            entry.note(out=says(report))
    report["quality"] = feedback.quality(given.promote.name)
    rows = [{"what": row[0], "value": row[1]} for row in figures(report["quality"])]
    artifacts.table(rows, "labels", given.promote.name, says(report))
    judged = report["quality"]["version"]
    artifacts.version(given.promote.name, int(judged.iloc[-1]) if len(judged) else None)
    return report


def _take(given: params.Params, folder: Path, source: str) -> dict[str, Any]:
    from pipeline import feedback, labelled

    found = feedback.give(folder, source)
    if found.samples.empty:
        first = found.refused.iloc[0]
        raise DataError(
            f"none of {len(found.refused)} labels can be used, the first: {first['reason']} (row {first['row']}; "
            f"all in {shown(folder / feedback.REFUSED)})"
        )
    report = {"given": len(found.samples), "refused": len(found.refused), "lost": len(found.samples) - len(found.kept)}
    report |= {"new": found.new, "changed": found.changed, "same": found.same, "older": found.older}
    if found.kept.empty:
        return report | {"added": 0, "relabelled": 0}
    with alone(folder):
        _check_out(folder)
        unseen = (folder / PENDING).exists() or not (folder / NOTE).exists()
        (folder / PENDING).touch()
        added = labelled.add(folder, given.modality, found.kept)
        if unseen or added.new or added.changed:
            _dvc(folder, "add", labelled.SAMPLES.as_posix())
            _note(folder)
        (folder / PENDING).unlink()
    report["lost"] += added.gone
    return report | {"added": added.new, "relabelled": added.changed}


def _check_out(folder: Path) -> None:
    """Bring the labelled samples in line with their .dvc file, where that is new to this checkout or came with git:
    what others labelled must not be lost. Raises LineError when DVC's cache does not hold them."""
    from pipeline.labelled import SAMPLES

    path = folder / f"{SAMPLES}.dvc"
    if not path.exists() or ((folder / NOTE).exists() and (folder / NOTE).read_text(encoding="utf-8") == sha256(path)):
        return
    try:
        _dvc(folder, "checkout", f"{SAMPLES.as_posix()}.dvc")
    except LineError as error:
        raise LineError(
            f"{SAMPLES}.dvc names labelled samples that are not here; fetch them with dvc pull {SAMPLES}.dvc in "
            f"{shown(folder)}, then run it again ({error})"
        ) from error
    _note(folder)


def _note(folder: Path) -> None:
    from pipeline.labelled import SAMPLES

    (folder / NOTE).write_text(sha256(folder / f"{SAMPLES}.dvc"), encoding="utf-8")


def _dvc(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "--wait-for-lock", *words],
        cwd=folder,
        env=stage_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        told = [row.removeprefix("ERROR: ") for row in done.stderr.splitlines() if row.startswith("ERROR: ")]
        raise LineError(f"dvc {' '.join(words)} failed: {told[-1] if told else done.stderr.strip()[-300:]}")


def says(report: dict[str, Any]) -> str:
    """What became of a file of labels, in a sentence; empty where there was none."""
    if not report["given"]:
        return ""
    older = f", {report['older']} older than what stands" if report["older"] else ""
    said = (
        f"{report['given']} labels: {report['new']} new, {report['changed']} changed, {report['same']} as before{older}"
    )
    said += f"; {report['refused']} rows refused" if report["refused"] else ""
    said += f"; {report['added']} samples added to the next training, {report['relabelled']} labelled anew there"
    lost = f"{report['lost']} samples were not kept (score.keep) or are gone: they count for precision and recall only"
    return said + (f"; {lost}" if report["lost"] else "")


def figures(quality: pd.DataFrame) -> list[tuple[str, str]]:
    """Precision and recall of the newest batches with labels, and of all together, as texts."""
    rows = [(one["batch"], _figures(one, "")) for one in quality.tail(LAST).to_dict("records")]
    if len(quality):
        rows.append((f"all {len(quality)} batches with labels", _figures(quality.iloc[-1].to_dict(), "cumulated_")))
    return rows


def _figures(row: dict[str, Any], before: str) -> str:
    of = [f"{row[f'{before}labelled_{x}']} of {row[before + x]} {x}" for x in ("alarms", "reviews", "accepted")]
    told = [f"{what} {_share(row, before + what)}" for what in ("precision", "recall")]
    return f"{', '.join(told)}; labelled: {', '.join(of)}"


def _share(row: dict[str, Any], name: str) -> str:
    if pd.isna(row[name]):
        return "unknown"
    return f"{row[name]:.1%} ({row[f'{name}_low']:.1%} to {row[f'{name}_high']:.1%})"


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="make labels", description="give labels back for samples that were scored")
    parser.add_argument("--line", default=".", help="the line's folder")
    parser.add_argument(
        "file", nargs="?", help="CSV or Parquet file with id and label, URL, or sql:SELECT id, label ..."
    )
    chosen = parser.parse_args(words)
    folder, file = Path(chosen.line).resolve(), chosen.file
    if file and ":" not in file:
        file = str(Path(file).expanduser().absolute())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log = folder / LOG if folder.is_dir() else ROOT / LOG
    with one_sentence(log), server.running(lambda: params.read(folder / "params.yaml").check()):
        report = labels(str(folder), file)
    if said := says(report):
        print(said)
        if report["added"] or report["relabelled"]:
            print("to share them: dvc push, then git add data/labelled and commit")
    for what, value in figures(report["quality"]) or [("no labels yet", report["name"])]:
        print(f"{what}: {value}")
    if report["refused"]:
        from pipeline.feedback import REFUSED as REASONS

        print(f"{report['refused']} rows were refused: {shown(folder / REASONS)} says why", file=sys.stderr)
        sys.exit(REFUSED)


if __name__ == "__main__":
    main(*sys.argv[1:])
