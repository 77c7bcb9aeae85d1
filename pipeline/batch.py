"""Score one batch with the champion: a Parquet file of decisions, pictures of the worst alarms, what was unreadable.

A batch has an id, made of its content and the version that scored it: scoring it again finds the result there.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from pipeline import sources, tracking
from pipeline.errors import RegistryError
from pipeline.files import link, scratch_folder, whole_folder, write_json
from pipeline.model import Model
from pipeline.params import Params
from pipeline.protocols import Ingested
from pipeline.samples import read_manifest

SCORES = Path("scores")
WORK = Path(".assay/batch")
PICTURES = 50  # alarms that are drawn, the worst first


def score_batch(params: Params, line: Path, source: str | None = None) -> dict[str, Any]:
    """Score `source` (by default the one of `params.score`, seen from the folder `line`) with the champion.

    Writes `scores/BATCH/` in `line`: scores.parquet (id, score, p_value, decision, model_name, model_version,
    data_hash), alarms/ with pictures, quarantine/ with reasons, report.json, which is returned with the folder's
    name as `folder`. Raises RegistryError when there is no champion, DataError when the source cannot be read."""
    name = params.promote.name
    registry = tracking.connect()
    champion = registry.alias(name, "champion")
    if champion is None:
        raise RegistryError(
            f"{name} has no champion to score with: run the line first (make run), or set the alias champion "
            "on a version in MLflow"
        )
    (line / WORK.parent).mkdir(parents=True, exist_ok=True)
    with FileLock(line / WORK.with_suffix(".lock")), scratch_folder(line / WORK) as work:
        model = Model.load(registry.download(champion, work / "model"))
        fetched = sources.fetch(source or seen_from(line, params.score.source), work / "fetched")
        found = _ingest(model, fetched, work)
        content = _content_hash(found)
        batch = f"{content[:12]}-v{champion.number}"
        folder = line / SCORES / batch
        if not (folder / "report.json").exists():
            with whole_folder(folder) as out:
                report = {"name": name, "version": champion.number, "batch": batch, "data_hash": content}
                _fill(out, model, found, work, report, params.score.batch)
        return {**json.loads((folder / "report.json").read_text(encoding="utf-8")), "folder": str(folder)}


def seen_from(line: Path, source: str) -> str:
    """A source as params name it: a relative path starts at the line's folder; demos and URLs are what they are."""
    return source if ":" in source or source.startswith("~") else str(line / source)


def _ingest(model: Model, source: Path, work: Path) -> Ingested:
    """Read the batch as training data are read: with the same checks, by the kind of data that the model knows."""
    for folder in ("dataset", "quarantine"):
        (work / folder).mkdir()
    return model.stored.modality.ingest(source, work / "dataset", work / "quarantine")


def _content_hash(found: Ingested) -> str:
    good = found.manifest[["id", "sha256"]].astype(str).sort_values("id")
    bad = found.rejected[["id", "reason"]].astype(str).sort_values("id")
    return sha256((good.to_csv(index=False) + bad.to_csv(index=False)).encode()).hexdigest()


def _fill(out: Path, model: Model, found: Ingested, work: Path, report: dict[str, Any], size: int) -> None:
    samples = model.stored.modality.samples(read_manifest(work / "dataset"))
    scores = model.score(samples, size)
    scores["model_name"] = report["name"]
    scores["model_version"] = report["version"]
    scores["data_hash"] = report["data_hash"]
    scores.to_parquet(out / "scores.parquet", index=False)
    worst = scores[scores["decision"] == "reject"].nlargest(PICTURES, "score").index.to_numpy()
    pictures = model.draw(samples[worst], out / "alarms", size) if len(worst) else []
    for path in sorted(p for p in (work / "quarantine").rglob("*") if p.is_file()):
        link(path, out / "quarantine" / path.relative_to(work / "quarantine"))
    counts = scores["decision"].value_counts()
    rejected: pd.DataFrame = found.rejected[["id", "reason"]].astype(str)
    calibration = model.calibration
    report |= {
        "samples": len(scores),
        "decisions": {name: int(counts.get(name, 0)) for name in ("accept", "review", "reject")},
        "quarantined": len(rejected),
        "reasons": rejected["reason"].value_counts().sort_index().to_dict(),
        "alarm_rate": float((scores["decision"] == "reject").mean()) if len(scores) else None,
        "promised_rate": calibration.promise,
        "promise": calibration.says(),
        "pictures": [path.relative_to(out).as_posix() for path in pictures],
    }
    write_json(out / "report.json", report)
