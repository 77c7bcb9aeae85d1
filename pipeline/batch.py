"""Score one batch with the champion: cut it into shards, let an engine score them, put the results together.

A batch has an id, made of its content and the version that scored it: scoring it again finds the result there, and
finishes what an interrupted run left.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline import recalibration, results, review, shards, sources, tracking, urls
from pipeline.downloaded import MODELS
from pipeline.errors import AssayError, DataError, ModelError, RegistryError
from pipeline.files import scratch_folder, whole_folder
from pipeline.model import CALIBRATION
from pipeline.monitoring import inputs, reference
from pipeline.operation import Score
from pipeline.params import Params
from pipeline.parts.progress import tracked
from pipeline.protocols import Cut
from pipeline.shards import Job, Shard
from pipeline.tracking import Registry, Version

SCORES = Path("scores")
WORK = Path(".assay/batch")  # of the run at work
UNFINISHED = Path(".assay/batches")  # finished shards of batches that are not
KEPT = 3  # models, and unfinished batches, that stay on disk
Engine = Callable[[list[Job]], None]


def one_by_one(jobs: list[Job]) -> None:
    """The engine without an engine: shards one after the other, in this thread."""
    for job in tracked(jobs, len(jobs), "score", "shards"):
        shards.score(job)


def score_batch(
    params: Params, line: Path, source: str | None = None, engine: Engine = one_by_one, cores: int | None = None
) -> dict[str, Any]:
    """Score `source` (by default the one of `params.score`, seen from the folder `line`) with the champion.

    `engine` calls `shards.score` for each job, in any order and anywhere, with `cores` processor cores each; what it
    could not do is scored by the next run. Writes `scores/BATCH/` in `line`, see results.py; its report is returned
    with the folder's name as `folder`. Thresholds are those that the version was last given. One run of a line at a
    time: another waits. Raises RegistryError when there is no champion, DataError when the source cannot be read, or no
    shard of it can be scored."""
    started, clock = datetime.now(UTC), time.monotonic()
    line = line.resolve()
    registry = tracking.connect()
    champion = _champion(registry, params.promote.name)
    (line / WORK.parent).mkdir(parents=True, exist_ok=True)
    with FileLock(line / WORK.with_suffix(".lock")), scratch_folder(line / WORK) as work:
        shadow = registry.alias(params.promote.name, "challenger") if params.score.shadow else None
        place = _model(registry, champion, line, cores)
        model = shards.loaded(*place, cores)
        named = source or params.score.source
        fetched = sources.fetch(source or seen_from(line, named), work / "fetched")
        size = params.score.shard or model.stored.modality.shard
        cut = model.stored.modality.cut(fetched, size, work / "cut")
        batch = f"{cut.content[:12]}-v{champion.number}{_variant(champion, shadow, params.score)}"
        folder = line / SCORES / batch
        if not _whole(folder):
            unfinished = f"{batch}-{size}-{params.score.keep}"  # shards of another size are others
            done = line / UNFINISHED / unfinished
            done.mkdir(parents=True, exist_ok=True)
            report = {
                "name": params.promote.name,
                "version": champion.number,
                "batch": batch,
                "data_hash": cut.content,
                "source": urls.source(named),
                "started": started.isoformat(timespec="seconds"),
            }
            beside, report["shadow"] = _shadow(registry, shadow, line, cores)
            jobs = _jobs(params.score, cut, work, done, place, beside, report, cores)
            engine([job for job in jobs if shards.finished(done, job.number) is None])
            found = [_outcome(job) for job in jobs]
            _some_scored(found)
            report["seconds"] = round(time.monotonic() - clock, 3)
            with ExitStack() as held, whole_folder(folder) as out:
                results.write(out, model, done, found, report, params.score)
                held.enter_context(review.carried_over(folder, out))
            if not report["failed"]:
                shutil.rmtree(done)
        _forget(line / UNFINISHED)
        return {**read_report(folder), "folder": str(folder)}


def model_of(line: Path, name: str, number: int) -> Path:
    """The folder on this machine of a version's model, with its calibration beside it; downloaded where it is not here.

    Raises RegistryError for a version that is not registered."""
    registry = tracking.connect()
    version = registry.version(name, number)
    if version is None:
        raise RegistryError(f"{name} has no version {number} in this registry (it was deleted since, or is elsewhere)")
    (line / WORK.parent).mkdir(parents=True, exist_ok=True)
    with FileLock(line / WORK.with_suffix(".lock")):
        return Path(_model(registry, version, line, None)[2])


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a scored batch."""
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def seen_from(line: Path, source: str) -> str:
    """A source as params name it: a relative path starts at the line's folder; demos and URLs are what they are."""
    return source if ":" in source or source.startswith("~") else str(line / source)


def _champion(registry: Registry, name: str) -> Version:
    champion = registry.alias(name, "champion")
    if champion is None:
        raise RegistryError(
            f"{name} has no champion to score with: run the line first (make run), or set the alias champion "
            "on a version in MLflow"
        )
    return champion


def _model(registry: Registry, version: Version, line: Path, cores: int | None) -> tuple[str, str, str]:
    """Folder, calibration and name of a version's model on this machine: downloaded once, however many batches."""
    calibration = version.tags.get(recalibration.HASH, "")
    name = f"v{version.number}-{version.run_id[:8]}-{calibration[:12] or 'given'}"
    folder = line / MODELS / version.name / name
    place = (str(folder / "model"), str(folder / CALIBRATION), str(folder))
    if folder.exists():
        try:
            shards.loaded(*place, cores)
            os.utime(folder)  # what is in use is not forgotten
            return place
        except ModelError:  # damaged since
            shutil.rmtree(folder)
    with whole_folder(folder) as out:
        model, thresholds = recalibration.download(registry, version, out / "downloaded")
        shutil.copyfile(thresholds, out / CALIBRATION)
        shutil.copytree(model, out / "model")
        if reference.TAG in version.tags:
            for part in (reference.INPUTS, reference.COUNTS):
                registry.artifact(version, f"{reference.FOLDER}/{part}", out / reference.FOLDER)
        shutil.rmtree(out / "downloaded", ignore_errors=True)
    _forget(folder.parent)
    shards.loaded(*place, cores)
    return place


def _forget(folder: Path) -> None:
    """Remove all but the newest folders."""
    if folder.is_dir():
        found = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
        for path in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)


def _shadow(
    registry: Registry, shadow: Version | None, line: Path, cores: int | None
) -> tuple[tuple[str, str, str] | None, dict[str, Any] | None]:
    """The shadow's model and what the report says of it. One that cannot be loaded harms nothing."""
    if shadow is None:
        return None, None
    try:
        return _model(registry, shadow, line, cores), {"version": shadow.number}
    except (DataError, ModelError, RegistryError) as error:
        return None, {"version": shadow.number, "failed": str(error)}


def _variant(champion: Version, shadow: Version | None, score: Score) -> str:
    """What besides data and version makes a batch's result another one; empty for what most lines have."""
    asked = {
        "calibration": champion.tags.get(recalibration.HASH),
        "rate": score.false_discovery_rate,
        "shadow": shadow and [shadow.number, shadow.tags.get(recalibration.HASH)],
    }
    given = {key: value for key, value in asked.items() if value is not None}
    return f"-{sha256(json.dumps(given).encode()).hexdigest()[:8]}" if given else ""


def _whole(folder: Path) -> bool:
    """Whether a batch was scored without a shard that failed."""
    return (folder / "report.json").exists() and not read_report(folder).get("failed")


def _jobs(
    score: Score,
    cut: Cut,
    work: Path,
    done: Path,
    champion: tuple[str, str, str],
    shadow: tuple[str, str, str] | None,
    report: dict[str, Any],
    cores: int | None,
) -> list[Job]:
    columns = {
        "model_name": report["name"],
        "model_version": report["version"],
        "data_hash": report["data_hash"],
    }
    return [
        Job(
            number,
            str(part),
            str(work / "shards"),
            str(done),
            champion,
            shadow,
            score.batch,
            score.false_discovery_rate,
            score.keep == "all",
            columns,
            -(-inputs.MOST // len(cut.parts)),
            int(cut.content[:8], 16),
            cores,
            alone=len(cut.parts) == 1,
        )
        for number, part in enumerate(cut.parts)
    ]


def _outcome(job: Job) -> Shard:
    """What became of a shard: finished, or the error that it left; none when its worker died."""
    found = shards.finished(Path(job.done), job.number)
    if found is not None:
        return found
    try:
        kept = json.loads((Path(job.done) / f"{job.name}.error.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return shards.failed(job, AssayError("its worker ended without a word; run it again"))
    del kept["traceback"]
    return Shard(**kept)


def _some_scored(found: list[Shard]) -> None:
    if found and all(shard.error for shard in found):
        more = f" (and {len(found) - 1} more shards failed)" if len(found) > 1 else ""
        raise DataError(f"{found[0].error}{more}")
