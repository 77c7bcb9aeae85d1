"""The pages of a line and of its batches on disk, and beside its versions in MLflow: made when what they tell changed.

reports/pages/NAME.html, NAME.pdf    a candidate of the last publication; `comparison`: how they compare
scores/BATCH/report.html, report.pdf    a scored batch
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import downloaded, promotion, recalibration, tracking
from pipeline.batch import SCORES, read_report
from pipeline.candidate import Candidate
from pipeline.champion import CHAMPION
from pipeline.errors import DataError, LineError, RegistryError
from pipeline.files import sha256, write_json
from pipeline.monitoring import look_up
from pipeline.monitoring.record import history
from pipeline.params import Params
from pipeline.reports import batch, candidate, comparison, html, pdf, pictures
from pipeline.reports.document import Document
from pipeline.reports.evaluated import Published
from pipeline.tracking import Registry, Version

PAGES = Path("reports/pages")
COMPARISON = "comparison"
MADE = ".made.json"  # what each page told when it was made
CODE = Path(__file__).parent
FOLDER = "report"  # among the artifacts of a version's run
BATCH = "report"  # name of a batch's page


@dataclass(frozen=True)
class Page:
    """A page as HTML and as PDF; `new` is False for one that told all there is already."""

    files: list[Path]
    new: bool


def of_line(params: Params, line: Path, registry: Registry | None = None) -> dict[str, Page]:
    """A page for each candidate of the line's last publication, and one of how they compare, by name; new ones also go
    to the runs in MLflow.

    Raises LineError when nothing was published, RegistryError when the registry or the database cannot be reached."""
    receipt = promotion.read_receipt(line)
    entries = receipt["candidates"]
    receipt["candidates"] = {name: entries[name] for name in params.candidates if name in entries}
    registry = registry or tracking.connect()
    leader = registry.alias(receipt["name"], CHAMPION)
    champion = leader and leader.number
    versions = {name: _version(registry, receipt["name"], entry) for name, entry in receipt["candidates"].items()}
    batches = history(receipt["name"])
    verdicts = _json(line / candidate.PROMOTION)
    found = {}
    for name, version in versions.items():
        own = batches[batches["version"] == version.number]
        now = version.tags.get(recalibration.SAYS, "")
        known = Published(version.number, version.run_id, version.tags, now, champion, own)
        files = Candidate(params, line, name)
        told = [
            *(sha256(path) for path in (files.report, files.calibration)),
            *(version.run_id, verdicts.get("candidates", {}).get(name), verdicts.get("waits"), files.sections),
            *(champion, version.tags, own.to_json()),
        ]
        build = partial(candidate.build, params, line, name, known)
        found[name] = _made(line / PAGES, name, told, build, partial(_upload, registry, [version]))
    if len(versions) > 1:
        name = COMPARISON if COMPARISON not in versions else f"{COMPARISON}-of-all"
        told = comparison.told(params, line, receipt, champion)
        build = partial(comparison.build, params, line, receipt, champion)
        found[name] = _made(line / PAGES, name, told, build, partial(_upload, registry, list(versions.values())))
    return found


def scored(folder: Path) -> Page:
    """The page of the batch in `folder`. Raises DataError when none was scored there, RegistryError when the database
    cannot be reached."""
    try:
        report = {**read_report(folder), "folder": str(folder)}
    except FileNotFoundError as error:
        raise DataError(f"{folder} must be the folder of a scored batch, with a report.json; there is none") from error
    batches = history(report["name"])
    own = batches[(batches["version"] == report["version"]) & batches["number"].le(_number(batches, report["batch"]))]
    told = [sha256(folder / "report.json"), own.to_json()]

    def build() -> Document:
        try:
            calibration = look_up.of(report)[0]
        except RegistryError:
            calibration = None
        return batch.build(batch.Scored(folder, report, calibration, _model(folder, report), own))

    return _made(folder, BATCH, told, build, lambda files: None)


def batch_folder(line: Path, name: str) -> Path:
    """The folder of the batch `name` of a line. Raises DataError for one that was not scored."""
    folder = line / SCORES / name
    if folder.parent != line / SCORES or not (folder / "report.json").is_file():
        raise DataError(f"--batch must name a folder of {line / SCORES} that holds a scored batch, got {name!r}")
    return folder


def _number(batches: pd.DataFrame, name: str) -> int:
    """A batch's number; the last one's for a batch that is not recorded."""
    found = batches.loc[batches["batch"] == name, "number"]
    return int(found.iloc[0]) if len(found) else int(batches["number"].max()) if len(batches) else 0


def _model(folder: Path, report: dict[str, Any]) -> Path | None:
    """The folder of the model that scored a batch, where a copy lies on this machine."""
    return next((copy / "model" for copy in downloaded.copies(folder.parents[1], report)), None)


def _version(registry: Registry, name: str, entry: dict[str, Any]) -> Version:
    version = registry.version(name, entry["version"])
    if version is None:
        raise LineError(f"the registry holds no version {entry['version']} of {name}: run the line again (make run)")
    return version


def _upload(registry: Registry, versions: list[Version], files: list[Path]) -> None:
    for version in versions:
        for file in files:
            registry.upload(version, file, FOLDER)


def _made(
    folder: Path, name: str, told: list[Any], build: Callable[[], Document], spread: Callable[[list[Path]], None]
) -> Page:
    """The page `name` in `folder`: made and given to `spread`, unless the one that is there told the same."""
    files, key = [folder / f"{name}.html", folder / f"{name}.pdf"], _key(told)
    if _json(folder / MADE).get(name) == key and all(file.is_file() for file in files):
        return Page(files, False)
    ready = pictures.small(build())
    html.render(ready, files[0])
    pdf.render(ready, files[1])
    spread(files)
    write_json(folder / MADE, _json(folder / MADE) | {name: key})  # once the page is everywhere
    return Page(files, True)


def _key(told: list[Any]) -> str:
    code = [sha256(path) for path in sorted(CODE.glob("*.*")) if path.is_file()]
    return hashlib.sha256(json.dumps([code, told], sort_keys=True, default=str).encode()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
