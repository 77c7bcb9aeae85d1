"""What a run came to, as one table: for the console and for the Prefect page."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import console
from flows.console import BAD, GOOD
from flows.settings import shown
from pipeline.params import Params
from pipeline.stages import CANDIDATES, RECEIPT, VALIDATION

PROMOTION = Path("reports/promotion.json")
METRICS = {  # key of metrics.json, heading, format; a column that no candidate fills is left out
    "auroc": ("AUROC", "{:.4f}"),
    "ap": ("AP", "{:.4f}"),
    "pixel_auroc": ("pixel AUROC", "{:.4f}"),
    "aupro": ("AUPRO", "{:.4f}"),
    "promised_false_alarm_rate": ("promised", "{:.2%}"),
    "false_alarm_rate": ("realised", "{:.2%}"),
}
CHAMPION, BROKEN = "champion", "promise broken"
TEXTS = {"candidate", "detector", ""}
PAGES = (
    "make ui shows the runs and models: MLflow at http://127.0.0.1:5000, Prefect at http://127.0.0.1:4200",
    "promised, realised: the share of normal samples that may raise an alarm, and that of the test part that did",
)


@dataclass(frozen=True)
class Candidate:
    """One row: a candidate, its detector's key, what it measured and the version it is registered as."""

    name: str
    detector: str
    metrics: dict[str, float]
    version: int | None


@dataclass(frozen=True)
class Summary:
    """All that the table shows. `champion` is a version; `says` is the promotion's sentence; `scored` the batch's
    report with its `folder`."""

    line: str
    registered: str
    candidates: list[Candidate]
    champion: int | None
    says: str
    scored: dict[str, Any] | None
    reports: list[str]


def read(folder: Path, params: Params, scored: dict[str, Any] | None = None) -> Summary:
    """Collect what the stages and the promotion left in the line's folder; the best AUROC comes first."""
    receipt = _json(folder / RECEIPT)
    promotion = _json(folder / PROMOTION)
    candidates = [
        Candidate(
            name,
            params.detector_key(name),
            _json(folder / CANDIDATES / name / "metrics.json"),
            receipt.get("candidates", {}).get(name, {}).get("version"),
        )
        for name in params.candidates
    ]
    docs = sorted((folder / VALIDATION).rglob("index.html"))[:1]
    reports = [*docs, *(folder / CANDIDATES / name for name in params.candidates)]
    return Summary(
        line=shown(folder),
        registered=params.promote.name,
        candidates=sorted(candidates, key=lambda c: -c.metrics.get("auroc", -1.0)),
        champion=promotion.get("champion"),
        says=promotion.get("says", ""),
        scored=scored,
        reports=[shown(path) + ("/" if path.is_dir() else "") for path in reports if path.exists()],
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def rows(summary: Summary) -> list[dict[str, str]]:
    """The table: one dict of headings and texts per candidate."""
    filled = [key for key in METRICS if any(key in c.metrics for c in summary.candidates)]
    return [
        {
            "candidate": c.name,
            "detector": c.detector,
            **{METRICS[key][0]: METRICS[key][1].format(c.metrics[key]) if key in c.metrics else "" for key in filled},
            "version": "" if c.version is None else str(c.version),
            "": ", ".join(_words(c, summary)),
        }
        for c in summary.candidates
    ]


def _words(candidate: Candidate, summary: Summary) -> list[str]:
    """What marks a candidate: that it is champion, and that its test contradicts what its calibration promised."""
    measured = candidate.metrics
    least, promised = measured.get("false_alarm_rate_low"), measured.get("promised_false_alarm_rate")
    words = [CHAMPION] if candidate.version is not None and candidate.version == summary.champion else []
    return words + ([BROKEN] if least is not None and promised is not None and least > promised else [])


def text(summary: Summary, wide: int | None = None) -> str:
    """The summary for a console: plain, or in colours for a terminal of `wide` columns."""
    parts = [console.table(rows(summary), TEXTS, _tone, wide), ""]
    parts += [summary.says] if summary.says else []
    parts += [_scored(summary.scored, wide)] if summary.scored else []
    parts += ["reports:", *(f"  {path}" for path in summary.reports)] if summary.reports else []
    return "\n".join([*parts, *PAGES])


def _tone(row: dict[str, str], heading: str) -> str:
    broken, champion = BROKEN in row[""], CHAMPION in row[""]
    if broken and heading in ("realised", ""):
        return BAD
    return GOOD if champion and heading in ("candidate", "") else ""


def _scored(report: dict[str, Any], wide: int | None) -> str:
    decisions = ", ".join(f"{count} {name}" for name, count in report["decisions"].items())
    said = (
        f"scored {report['samples']} samples with {report['name']} version {report['version']}: {decisions}; "
        f"{report['quarantined']} quarantined -> {shown(Path(report['folder']))}/"
    )
    return console.sentence(said, console.of_batch(report), wide)


def picture(summary: Summary, folder: Path) -> Path | None:
    """The score histogram of the first candidate, a PNG; None when it is missing."""
    path = folder / CANDIDATES / summary.candidates[0].name / "histogram.png"
    return path if path.is_file() else None
