"""One shard of a batch, scored by whoever has a hand free: a thread, a process, a worker of Dask or Ray.

A finished shard NNNNN is `NNNNN.parquet`, renamed into place when it is whole, and `NNNNN.json`, which comes last and
says what is in it, with the checksum of the former. Who finds both does not score it again.
"""

import json
import shutil
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd

from pipeline import explanation
from pipeline.errors import AssayError, DataError, ModelError
from pipeline.files import link, scratch_folder, sha256, whole_file, whole_folder, write_json
from pipeline.memory import frugal
from pipeline.model import Model, empty_rows
from pipeline.parts.progress import silent
from pipeline.protocols import Samples
from pipeline.samples import read_manifest

TYPES = {"because": "str", "model_name": "str", "model_version": "int64", "data_hash": "str"}  # of no rows, too
SHADOW = ("score", "p_value", "decision")  # columns that a shadow puts beside the champion's


@dataclass(frozen=True)
class Job:
    """All that a worker needs to score one shard: plain values, so that any engine can carry it.

    Folders must be visible where it runs. `work` is for files that live as long as the run, `done` for those of
    finished shards. `champion` and `shadow` are model folder, calibration file and a name for both together.
    `columns` stand in each row; `inputs` is how many samples are described; `seed` says which."""

    number: int
    part: str
    work: str
    done: str
    champion: tuple[str, str, str]
    shadow: tuple[str, str, str] | None
    batch: int | None
    false_discovery_rate: float | None
    keep_all: bool
    columns: dict[str, Any]
    inputs: int
    seed: int
    cores: int | None = None  # processor cores that the worker may use; None for all
    alone: bool = True  # the batch's only one, which shows its own progress

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Shard:
    """What became of one shard; `error` is empty for one that was scored."""

    number: int
    samples: int = 0
    quarantined: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    checksum: str = ""
    error: str = ""
    shadow_failed: str = ""


def score(job: Job) -> Shard:
    """Score one shard, unless that is done; what can go wrong with its samples is kept as its error.

    Raises OSError and MemoryError, which say nothing about the samples."""
    found = finished(Path(job.done), job.number)
    if found is not None:
        return found
    try:
        with nullcontext() if job.alone else silent():
            return _score(job)
    except AssayError as error:
        return failed(job, error)


def failed(job: Job, error: BaseException) -> Shard:
    """Keep why a shard was not scored; the next run tries again."""
    said = str(error) if isinstance(error, AssayError) else f"{type(error).__name__}: {error}"
    shard = Shard(job.number, error=" ".join(said.split()) or type(error).__name__)
    told = "".join(traceback.format_exception(error))
    write_json(Path(job.done) / f"{job.name}.error.json", {**asdict(shard), "traceback": told})
    return shard


def finished(done: Path, number: int) -> Shard | None:
    """The record of a shard whose file is what its checksum says, else None."""
    try:
        shard = Shard(**json.loads((done / f"{number:05d}.json").read_text(encoding="utf-8")))
        whole = sha256(done / f"{number:05d}.parquet") == shard.checksum
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return shard if whole else None


def _score(job: Job) -> Shard:
    started = time.perf_counter()
    model = loaded(*job.champion, job.cores)
    modality, done = model.stored.modality, Path(job.done)
    with scratch_folder(Path(job.work) / job.name) as work:
        dataset, quarantine = work / "dataset", work / "quarantine"
        dataset.mkdir()
        quarantine.mkdir()
        found = modality.ingest(Path(job.part), dataset, quarantine)
        samples = modality.samples(read_manifest(dataset))
        size = job.batch or modality.batch
        scores = model.score(samples, size)
        flagged = (scores["decision"] != "accept").to_numpy()
        explained = (scores["decision"] == "reject").to_numpy()
        if job.false_discovery_rate is not None:  # which of these are alarms is known when all shards are
            explained = (scores["p_value"] <= job.false_discovery_rate).to_numpy()
            flagged = flagged | explained
        why = explanation.because(model.stored.detector, samples, explained)
        scores = scores if why is None else scores.assign(because=why)
        shadow_failed = "" if job.shadow is None else _shadowed(scores, job, samples, size)
        scores = scores.assign(**job.columns)
        scores = scores.astype({name: kind for name, kind in TYPES.items() if name in scores})
        _describe(job, model, samples, done)
        _keep(job, model, dataset, flagged, done)
        rejected: pd.DataFrame = found.rejected[["id", "reason"]].astype(str)
        _set_aside(quarantine, done / f"{job.name}.quarantine", len(rejected))
        with whole_file(done / f"{job.name}.parquet") as partial:
            scores.to_parquet(partial, index=False)
            checksum = sha256(partial)
    reasons = rejected["reason"].value_counts().sort_index().to_dict()
    shard = Shard(
        job.number,
        len(scores),
        len(rejected),
        {str(reason): int(count) for reason, count in reasons.items()},
        round(time.perf_counter() - started, 3),
        checksum,
        "",
        shadow_failed,
    )
    write_json(done / f"{job.name}.json", asdict(shard))
    (done / f"{job.name}.error.json").unlink(missing_ok=True)
    return shard


def _shadowed(scores: pd.DataFrame, job: Job, samples: Samples, size: int) -> str:
    """Put the shadow's columns beside the champion's; why that could not be done, if it could not."""
    try:
        other = loaded(*job.shadow, job.cores).score(samples, size)
    except (DataError, ModelError) as error:
        return str(error)
    for column in SHADOW:
        scores[f"shadow_{column}"] = other[column].to_numpy()
    return ""


def _describe(job: Job, model: Model, samples: Samples, done: Path) -> None:
    from pipeline.monitoring import inputs

    if job.inputs and len(samples):
        facts = inputs.sample(model.stored, samples, job.inputs, job.seed + job.number)
        with whole_file(done / f"{job.name}.inputs.parquet") as partial:
            facts.to_parquet(partial)


def _keep(job: Job, model: Model, dataset: Path, flagged: np.ndarray, done: Path) -> None:
    """Keep the samples, or the flagged ones, as a dataset folder of its own."""
    if not job.keep_all and not flagged.any():
        return
    if not job.keep_all:
        model.stored.modality.thin(dataset, flagged)
    kept = done / f"{job.name}.samples"
    shutil.rmtree(kept, ignore_errors=True)
    dataset.replace(kept)


def _set_aside(quarantine: Path, target: Path, rejected: int) -> None:
    if not rejected:
        return
    with whole_folder(target) as out:
        for path in sorted(p for p in quarantine.rglob("*") if p.is_file()):
            link(path, out / path.relative_to(quarantine))


_LOADING = Lock()


def loaded(folder: str, calibration: str, name: str, cores: int | None) -> Model:
    """The model, loaded once per worker whatever the number of shards; `name` changes with what is in the folder."""
    frugal()
    with _LOADING:
        return _loaded(folder, calibration, name, cores)


@lru_cache(maxsize=2)
def _loaded(folder: str, calibration: str, name: str, cores: int | None) -> Model:
    model = Model.load(Path(folder), Path(calibration))
    if cores is not None:
        _limit(cores)
    return model


def _limit(cores: int) -> None:
    """Workers side by side must not each start as many threads as the machine has cores."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(cores)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(cores)


def nothing(columns: dict[str, Any]) -> pd.DataFrame:
    """The rows of a batch without samples."""
    rows = empty_rows().assign(**columns)
    return rows.astype({name: kind for name, kind in TYPES.items() if name in rows})
