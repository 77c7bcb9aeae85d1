"""The report of one candidate: what its stages, the promotion and monitoring say of it, as a document for people."""

import json
from pathlib import Path
from typing import Any

from pipeline.candidate import Candidate
from pipeline.params import Params
from pipeline.reports import by_class, decided, errors, lineage
from pipeline.reports.document import NONE, Block, Document, Facts, Numbers, Section, Table, Text, short
from pipeline.reports.evaluated import Evaluated, Published
from pipeline.reports.passages import between, counted, figure, over_time, share

PROMOTION = Path("reports/promotion.json")
METRICS = {  # key of metrics.json and how it is called; one that a kind of data does not have is left out
    "auroc": "AUROC",
    "ap": "average precision",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO",
}
FIGURES = 200  # of metrics.json that are listed


def build(params: Params, line: Path, name: str, published: Published) -> Document:
    """The report of the candidate `name` of the line in the folder `line`.

    Raises LineError when its stages have not run, ModelError for a damaged calibration."""
    candidate = Candidate(params, line, name)
    candidate.must_be_complete()
    evaluated = Evaluated(candidate)
    promotion = _promotion(line)
    registered = params.promote.name
    version = "not registered" if published.version is None else f"{registered} version {published.version}"
    found = evaluated.metrics
    tested = f"{counted(found['n_normal'], 'normal')} and {counted(found['n_anomalous'], 'anomaly', 'anomalies')}"
    return Document(
        f"{registered}: {name}",
        f"Candidate {name}, {params.detector_key(name)}, {version}; tested on {tested}",
        [
            Section("Decision", _decision(evaluated, name, published, promotion)),
            Section("Scores and thresholds", decided.scores(evaluated)),
            Section("Curves", decided.curves(evaluated)),
            Section("Promise", decided.promise(evaluated)),
            Section("By class and group", by_class.tables(evaluated)),
            Section("Worst errors", errors.pictures(evaluated)),
            Section("Why they are alarms", errors.reasons(evaluated)),
            Section("Over time", over_time(published.history, version)),
            Section("Checks of the gate", _checks(promotion, name, published)),
            Section("All figures", _figures(found)),
            Section("Lineage", lineage.of_candidate(candidate, published.version, published.run_id, published.tags)),
        ],
        "Made by assay. Everything on this page is in this file; nothing is loaded from elsewhere.",
    )


def _promotion(line: Path) -> dict[str, Any]:
    try:
        return json.loads((line / PROMOTION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _decision(evaluated: Evaluated, name: str, published: Published, promotion: dict[str, Any]) -> list[Block]:
    said, tone = verdict(name, published, promotion)
    since = f"Its thresholds were set anew since, and new batches are judged by: {published.recalibrated}."
    return [
        Text(said, tone),
        Text(f"Promise: {evaluated.calibration.says()}."),
        *([Text(since)] if published.recalibrated else []),
        _numbers(evaluated),
        *decided.kept(evaluated),
    ]


def verdict(name: str, published: Published, promotion: dict[str, Any]) -> tuple[str, Any]:
    """What became of a candidate, in sentences, and the tone to say it in."""
    entry = promotion.get("candidates", {}).get(name, {})
    if published.version is None:
        return "Not published yet, so not judged: the line has not run to its end.", "plain"
    version, registered = published.version, promotion.get("name", "")
    judged = entry.get("version") == version
    why = "; ".join(entry["reasons"]) if judged else ""
    if judged and not entry["checks"]:  # it was champion already: what it reached when it became one
        why = published.tags.get("verdict_reasons", "")
    if published.champion == version:
        return f"Champion: version {version} scores new batches{why and f' ({why})'}.", "good"
    if not judged:
        return f"Version {version} is not judged yet: make promote asks the gate.", "plain"
    if promotion.get("waits") == version:
        return f"Waits: version {version} passed the gate; a person's approval is asked for.", "plain"
    if entry["passed"]:
        champion = f"version {published.champion} is" if published.champion else "no version is"
        return f"Not champion: version {version} passed the gate, but {champion} champion of {registered}.", "plain"
    return f"Not champion: version {version} did not pass the gate: {why}.", "bad"


def _numbers(evaluated: Evaluated) -> Numbers:
    found = evaluated.metrics
    rows = [(text, figure(found[key]), "") for key, text in METRICS.items() if key in found]
    normals, anomalies = found["n_normal"], found["n_anomalous"]
    if normals:
        promised = evaluated.calibration.promised_false_alarms
        told = f"{between(found['false_alarms'], normals)}; promised {share(promised)}" if promised else ""
        rows.append(
            ("false alarms", share(found["false_alarms"] / normals), told or between(found["false_alarms"], normals))
        )
    if anomalies:
        caught = anomalies - found["escapes"]
        rows.append(("detected", share(caught / anomalies), between(caught, anomalies)))
    rows.append(("for review", share(found["review_share"]), "of the test part"))
    return Numbers(rows)


def _checks(promotion: dict[str, Any], name: str, published: Published) -> list[Block]:
    entry = promotion.get("candidates", {}).get(name, {})
    if not entry.get("checks") or entry.get("version") != published.version:
        return []
    rows = [
        [
            check["name"],
            "passed" if check["passed"] else "failed",
            figure(check["value"]),
            figure(check["bound"]),
            " to ".join(figure(end) for end in check["interval"] or ()) or NONE,
            check["says"],
        ]
        for check in entry["checks"]
    ]
    headings = ["check", "verdict", "value", "bound", "interval", "in words"]
    return [Table(headings, rows, "", frozenset({2, 3, 4}))]


def _figures(found: dict[str, Any]) -> list[Block]:
    rows = [(short(key), f"{value:,}" if isinstance(value, int) else figure(value)) for key, value in found.items()]
    shown, note = rows[:FIGURES], f"and {len(rows) - FIGURES} more, in metrics.json"
    half = -(-len(shown) // 2)
    columns = [Facts(some) for some in (shown[:half], shown[half:]) if some]
    return [*columns, *([Text(note, "note")] if len(rows) > FIGURES else [])]
