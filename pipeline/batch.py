"""Score one batch with the champion: a Parquet file of decisions, pictures of the worst alarms, what was unreadable.

A batch has an id, made of its content and the version that scored it: scoring it again finds the result there.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from pipeline import explanation, recalibration, sources, threshold, tracking
from pipeline.errors import DataError, ModelError, RegistryError
from pipeline.files import link, scratch_folder, whole_folder, write_json
from pipeline.model import Model
from pipeline.operation import Score
from pipeline.params import Params
from pipeline.protocols import Ingested, Samples
from pipeline.samples import read_manifest
from pipeline.tracking import Registry, Version

SCORES = Path("scores")
WORK = Path(".assay/batch")
PICTURES = 50  # alarms that are drawn, the worst first


def score_batch(params: Params, line: Path, source: str | None = None) -> dict[str, Any]:
    """Score `source` (by default the one of `params.score`, seen from the folder `line`) with the champion.

    Writes `scores/BATCH/` in `line`: scores.parquet (id, score, p_value, decision, in tables `because` of alarms, see
    explanation.py, model_name, model_version, data_hash; with a shadow its score, p_value and decision), alarms/ with
    pictures, quarantine/ with reasons, report.json, which is returned with the folder's name as `folder`. Thresholds
    are those that the version was last given. Raises RegistryError when there is no champion, DataError when the
    source cannot be read."""
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
        model = recalibration.load(registry, champion, work / "model")
        shadow = registry.alias(name, "challenger") if params.score.shadow else None
        fetched = sources.fetch(source or seen_from(line, params.score.source), work / "fetched")
        found = _ingest(model, fetched, work)
        content = _content_hash(found)
        batch = f"{content[:12]}-v{champion.number}{_variant(champion, shadow, params.score)}"
        folder = line / SCORES / batch
        if not (folder / "report.json").exists():
            with whole_folder(folder) as out:
                report = {"name": name, "version": champion.number, "batch": batch, "data_hash": content}
                samples = model.stored.modality.samples(read_manifest(work / "dataset"))
                scores = _scores(model, samples, params.score)
                report |= {} if shadow is None else _shadowed(registry, shadow, scores, work, params.score.batch)
                _fill(out, model, found, samples, work, report, scores, params.score)
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


def _variant(champion: Version, shadow: Version | None, score: Score) -> str:
    """What besides data and version makes a batch's result another one; empty for what most lines have."""
    asked = {
        "calibration": champion.tags.get(recalibration.HASH),
        "rate": score.false_discovery_rate,
        "shadow": shadow and [shadow.number, shadow.tags.get(recalibration.HASH)],
    }
    given = {key: value for key, value in asked.items() if value is not None}
    return f"-{sha256(json.dumps(given).encode()).hexdigest()[:8]}" if given else ""


def _scores(model: Model, samples: Samples, score: Score) -> pd.DataFrame:
    """Scores and decisions of the batch; with a false discovery rate, `reject` is what that leaves over all of it, and
    what is above the alarm threshold only is for review where there is such a band."""
    scores = model.score(samples, score.batch)
    if score.false_discovery_rate is not None:
        alarm = threshold.discoveries(scores["p_value"].to_numpy(), score.false_discovery_rate)
        spared = "accept" if model.calibration.thresholds["review"] is None else "review"
        before = scores["decision"].to_numpy(object)
        scores["decision"] = np.where(alarm, "reject", np.where(before == "reject", spared, before)).astype(str)
    why = explanation.because(model.stored.detector, samples, (scores["decision"] == "reject").to_numpy())
    return scores if why is None else scores.assign(because=why)


def _shadowed(registry: Registry, shadow: Version, scores: pd.DataFrame, work: Path, size: int) -> dict[str, Any]:
    """Put the shadow's columns beside the champion's; where they disagree, for the report. A shadow that cannot score
    the batch harms nothing: then the report says why."""
    try:
        model = recalibration.load(registry, shadow, work / "shadow")
        other = model.score(model.stored.modality.samples(read_manifest(work / "dataset")), size)
    except (DataError, ModelError, RegistryError) as error:
        return {"shadow": {"version": shadow.number, "failed": str(error)}}
    for column in ("score", "p_value", "decision"):
        scores[f"shadow_{column}"] = other[column].to_numpy()
    apart = scores[scores["decision"] != scores["shadow_decision"]]
    pairs = (apart["decision"] + " -> " + apart["shadow_decision"]).value_counts().sort_index()
    nearest = np.minimum(apart["p_value"], apart["shadow_p_value"]).sort_values(kind="stable").index[:PICTURES]
    listed = apart.loc[nearest, ["id", "decision", "shadow_decision"]].to_dict("records")
    return {
        "shadow": {
            "version": shadow.number,
            "agree": len(scores) - len(apart),
            "disagree": {str(pair): int(count) for pair, count in pairs.items()},
            "samples": listed,
        }
    }


def _fill(
    out: Path,
    model: Model,
    found: Ingested,
    samples: Samples,
    work: Path,
    report: dict[str, Any],
    scores: pd.DataFrame,
    score: Score,
) -> None:
    scores["model_name"] = report["name"]
    scores["model_version"] = report["version"]
    scores["data_hash"] = report["data_hash"]
    scores.to_parquet(out / "scores.parquet", index=False)
    worst = scores[scores["decision"] == "reject"].nlargest(PICTURES, "score").index.to_numpy()
    pictures = model.draw(samples[worst], out / "alarms", score.batch) if len(worst) else []
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
        "promised_rate": calibration.promised_false_alarms,
        "promised_escape_rate": calibration.promised_escapes,
        "false_discovery_rate": score.false_discovery_rate,
        "promise": calibration.says(),
        "pictures": [path.relative_to(out).as_posix() for path in pictures],
    }
    write_json(out / "report.json", report)
