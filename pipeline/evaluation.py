"""Evaluate one fitted detector with its thresholds on the test part, and write the report.

Metrics are of raw scores and of labelled samples; samples of unknown label are scored and listed only: a test part
without any label gives scores and decisions, and no metric of either class. The local scores and masks of the whole
test part are held in memory (256 x 256 pixels: 0.31 MB a sample, and as much again while local metrics sort them).
"""

import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import explanation, figures, group_metrics, metrics, scoring
from pipeline.errors import DataError
from pipeline.files import write_json
from pipeline.model import groups
from pipeline.protocols import ANOMALOUS, NORMAL, Detector, Modality, Samples, Scores
from pipeline.scoring import Scored
from pipeline.threshold import Calibration

WORST = 8  # pictures of each kind of error
POINTS = 1000  # points of a curve that are kept in its file

log = logging.getLogger(__name__)


def evaluate(
    detector: Detector, calibration: Calibration, samples: Samples, modality: Modality, out: Path
) -> dict[str, float | int]:
    """Score `samples`, write the report into the folder `out`, and return what its metrics.json holds.

    The report: `metrics.json` (flat; a metric that is not defined for these samples is absent), `scores.parquet`
    (id, label, defect, score, p_value, decision; `because` where the detector can tell, see explanation.py;
    also group, category and severity where the data tell any), `roc.csv`, `pr.csv`, the modality's local curves,
    `histogram.csv` and a PNG of each, and `overlays/` with the highest-scored normals and the
    lowest-scored anomalies. Equal input, equal bytes. Raises DataError when there is nothing to score.
    """
    if len(samples) == 0:
        raise DataError(
            "evaluation needs at least one sample in the test part, got none; raise split.test (params.yaml)"
        )
    scored = scoring.score(detector, samples, keep_local=True)
    of = groups(samples, calibration)
    table = pd.DataFrame(
        {
            "id": samples.ids,
            "label": samples.label,
            "defect": samples.rows["defect"].astype("str").fillna("").to_numpy(),
            "score": scored.scores.sample,
            "p_value": calibration.p_values(scored.scores.sample, of),
            "decision": calibration.decide(scored.scores.sample, of),
        }
    )
    table = table.assign(**_told(samples.rows))
    alarms = calibration.alarms(of, len(table))
    why = explanation.because(detector, samples, table["score"].to_numpy() > alarms)
    (table if why is None else table.assign(because=why)).to_parquet(out / "scores.parquet", index=False)
    found = _metrics(table, alarms, calibration) | _local(scored, modality) | _severity(table, samples)
    found |= _groups(table, samples, alarms, calibration) | _sensitive(table, samples, alarms)
    found = {name: found[name] for name in sorted(found)}
    write_json(out / "metrics.json", found)
    _curves(table, calibration, found, out)
    _local_curves(scored, modality, found, out)
    _overlays(scored.scores, samples, modality, calibration, out / "overlays")
    return found


def _metrics(table: pd.DataFrame, alarms: np.ndarray, calibration: Calibration) -> dict[str, float | int]:
    """Everything that scores of samples and labels tell."""
    labelled = table["label"].isin([NORMAL, ANOMALOUS]).to_numpy()
    known, alarm = table[labelled], alarms[labelled]
    label, scores = known["label"].to_numpy(), known["score"].to_numpy()
    found = {
        "auroc": metrics.auroc(label, scores),
        "ap": metrics.average_precision(label, scores),
        "f1_max": metrics.f1_max(label, scores),
        "promised_false_alarm_rate": calibration.promised_false_alarms,
        "promised_escape_rate": calibration.promised_escapes,
        "review_share": float((table["decision"] == "review").mean()),
        "alarm_rate": float((table["decision"] == "reject").mean()),
        **metrics.decision_metrics(label, scores, alarm),
    }
    for name, rates in metrics.per_defect(known["defect"].to_numpy(), label, scores, alarm).items():
        found |= {f"defect.{name}.{key}": value for key, value in rates.items()}
    if found["auroc"] is None:
        log.warning(
            "AUROC needs both normal and anomalous test samples, got %d and %d; it is left out of the report",
            found["n_normal"],
            found["n_anomalous"],
        )
    return _defined(found)


def _local(scored: Scored, modality: Modality) -> dict[str, float]:
    """The modality's metrics of local scores, where both these and true labels of parts came."""
    if not _has_local(scored):
        return {}
    return _defined(modality.local_metrics(scored.truth, scored.scores.local))


def _has_local(scored: Scored) -> bool:
    return scored.scores.local is not None and scored.truth is not None and bool((scored.truth == ANOMALOUS).any())


def _severity(table: pd.DataFrame, samples: Samples) -> dict[str, float]:
    """How well scores order the severities of the data, where these tell any."""
    if "severity" not in samples.rows:
        return {}
    found = metrics.by_severity(table["label"].to_numpy(), samples.rows["severity"].to_numpy(), table["score"])
    return _defined({f"severity.{name}": value for name, value in found.items()})


def _told(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns group, category and severity of manifest rows, those that tell anything."""
    texts = {name: _texts(rows[name]) for name in ("group", "category") if name in rows}
    told = {name: values.astype(str) for name, values in texts.items() if (values != "").any()}
    if "severity" in rows and rows["severity"].notna().any():
        told["severity"] = rows["severity"].to_numpy(np.float64)
    return told


def _groups(table: pd.DataFrame, samples: Samples, alarms: np.ndarray, calibration: Calibration) -> dict[str, float]:
    """How whole groups are judged, where samples belong to any and calibration normals tell what is usual."""
    if "group" not in samples.rows or not len(calibration.scores):
        return {}
    limit = calibration.p_values(np.nextafter(alarms, np.float32(np.inf)), groups(samples, calibration))
    p = table["p_value"].to_numpy()
    found = group_metrics.by_group(_texts(samples.rows["group"]), table["label"].to_numpy(), p, limit)
    return _defined({f"group.{name}": value for name, value in found.items()})


def _sensitive(table: pd.DataFrame, samples: Samples, alarms: np.ndarray) -> dict[str, float]:
    """False alarms by the column that params declare sensitive, where they do."""
    if "sensitive" not in samples.rows:
        return {}
    alarm = table["score"].to_numpy() > alarms
    found = group_metrics.by_sensitive(_texts(samples.rows["sensitive"]), table["label"].to_numpy(), alarm)
    return {f"sensitive.{name}": value for name, value in found.items()}


def _texts(column: pd.Series) -> np.ndarray:
    """object `(n,)` of texts, "" where there is none."""
    return column.astype("str").where(column.notna(), "").to_numpy(object)


def _defined(found: dict[str, float | int | None]) -> dict[str, float | int]:
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def _curves(table: pd.DataFrame, calibration: Calibration, found: dict[str, float | int], out: Path) -> None:
    known = table[table["label"].isin([NORMAL, ANOMALOUS])]
    label, scores = known["label"].to_numpy(), known["score"].to_numpy()
    for name, points, x, y, area in (
        ("roc", metrics.roc_curve(label, scores), "false_alarm_rate", "detection_rate", "auroc"),
        ("pr", metrics.pr_curve(label, scores), "recall", "precision", "ap"),
    ):
        if points is not None:
            kept = np.unique(np.linspace(0, len(points.x) - 1, POINTS).round().astype(int))
            drawn = pd.DataFrame({x: points.x[kept], y: points.y[kept]})
            drawn.to_csv(out / f"{name}.csv", index=False, lineterminator="\n")
            figures.curve(drawn, f"{area.upper()} {found[area]:.4f}", out / f"{name}.png")
    if len(known):
        bins = figures.bin_scores(label, scores)
        bins.to_csv(out / "histogram.csv", index=False, lineterminator="\n")
        figures.histogram(bins, calibration.thresholds, "Scores of the test part", out / "histogram.png")


def _local_curves(scored: Scored, modality: Modality, found: dict[str, float | int], out: Path) -> None:
    if not _has_local(scored):
        return
    for name, drawn in modality.local_curves(scored.truth, scored.scores.local).items():
        drawn.to_csv(out / f"{name}.csv", index=False, lineterminator="\n")
        area = found.get(f"au{name}")
        title = name.upper() if area is None else f"AU{name.upper()} {area:.4f}"
        figures.curve(drawn, title, out / f"{name}.png")


def _overlays(scores: Scores, samples: Samples, modality: Modality, calibration: Calibration, out: Path) -> None:
    """Pictures of the worst errors, or of what comes nearest to one, by score and by class; index.csv says which sample
    each shows (id, path below `out`), the worst first."""
    index: list[tuple[str, str]] = []
    rising = np.argsort(scores.sample, kind="stable")
    label = samples.label[rising]
    for name, worst in (
        ("normals_scored_highest", rising[label == NORMAL][::-1][:WORST]),
        ("anomalies_scored_lowest", rising[label == ANOMALOUS][:WORST]),
    ):
        folder = out / name
        for batch in samples[worst].batches(WORST):
            folder.mkdir(parents=True, exist_ok=True)
            local = None if scores.local is None else scores.local[worst]
            drawn = Scores(scores.sample[worst], local)
            paths = modality.draw(batch, drawn, calibration.thresholds["alarm"], folder)
            index += zip(batch.ids, (path.relative_to(out).as_posix() for path in paths), strict=True)
    if index:
        pd.DataFrame(index, columns=["id", "path"]).to_csv(out / "index.csv", index=False, lineterminator="\n")
