"""What scores say and what thresholds make of them: histogram, confusion table, curves, the promise held against the
test."""

import numpy as np
import pandas as pd

from pipeline.label_quality import DECISIONS
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN
from pipeline.reports import charts
from pipeline.reports.charts import Kept, Series
from pipeline.reports.document import Block, Chart, Table, Text
from pipeline.reports.evaluated import Evaluated
from pipeline.reports.passages import PERCENT, between, counted, figure, share, spread, thresholds
from pipeline.rules.false_alarm_rate import FalseAlarmRate

CURVES = {"roc": ("ROC curve", "auroc"), "pr": ("Precision and recall", "ap"), "pro": ("Per-region overlap", "aupro")}
OWN = ("histogram",)  # files that are no curves
LABELS = {NORMAL: "normal", ANOMALOUS: "anomalous", UNKNOWN: "of unknown label"}


def scores(evaluated: Evaluated) -> list[Block]:
    """The histogram of both classes with the thresholds, and the confusion table."""
    normals, anomalies = evaluated.scores(NORMAL), evaluated.scores(ANOMALOUS)
    found = evaluated.metrics
    blocks: list[Block] = []
    if len(normals) or len(anomalies):
        series = [Series("normal", normals), Series("anomalous", anomalies, anomalous=True)]
        figure_, beyond = charts.histogram(series, evaluated.calibration.thresholds)
        alarm = evaluated.calibration.thresholds["alarm"]
        alt = f"Histogram of test scores: {spread('normals', normals)}; {spread('anomalies', anomalies)}. "
        alt += f"The alarm threshold is {figure(alarm)}: {counted(found['false_alarms'], 'normal')} above it, "
        alt += f"{counted(found['escapes'], 'anomaly', 'anomalies')} not."
        caption = "Scores of the test part, each class as shares of itself."
        caption += f" The last bar holds {counted(beyond, 'score')} beyond the axis." if beyond else ""
        blocks.append(Chart(figure_, alt, caption))
    return [*blocks, confusion(evaluated.table), *thresholds(evaluated.calibration)]


def confusion(table: pd.DataFrame) -> Table:
    """What was decided on the test samples of each label."""
    rows = []
    for label, name in LABELS.items():
        some = table.loc[table["label"] == label, "decision"]
        if len(some):
            counts = [int((some == decision).sum()) for decision in DECISIONS]
            rows.append([name, *(f"{count:,} ({share(count / len(some))})" for count in counts), f"{len(some):,}"])
    caption = "Decisions on the test part"
    return Table(["true label", "accept", "review", "reject (alarm)", "all"], rows, caption, frozenset({1, 2, 3, 4}))


def curves(evaluated: Evaluated) -> list[Block]:
    """ROC, precision and recall, and the local curves of the kind of data, as `evaluate` wrote them."""
    folder, found = evaluated.candidate.report, evaluated.metrics
    files = {path.stem: path for path in sorted(folder.glob("*.csv")) if path.stem not in OWN}
    blocks: list[Block] = []
    for name in sorted(
        files, key=lambda name: (name not in CURVES, list(CURVES).index(name) if name in CURVES else name)
    ):
        points = pd.read_csv(files[name])
        title, area = CURVES.get(name, (name.replace("_", " "), f"au{name}"))
        told = f"{title}, area {found[area]:.4f}" if area in found else title
        chart = charts.curve(points, _mark(name, found), _chance(name, found), told)
        x, y = (column.replace("_", " ") for column in points.columns[:2])
        alt = f"{told}: {y} against {x}. {_at(name, found)}"
        blocks.append(Chart(chart, alt.strip(), ""))
    if not blocks:
        return [Text("There are no curves: they need both normal and anomalous test samples.")]
    return blocks


def _mark(name: str, found: dict[str, float]) -> tuple[float, float] | None:
    """Where the alarm threshold lies on a curve of samples."""
    if name == "roc" and {"false_alarm_rate", "detection_rate"} <= found.keys():
        return found["false_alarm_rate"], found["detection_rate"]
    caught = found["n_anomalous"] - found["escapes"]
    if name == "pr" and caught + found["false_alarms"]:
        return caught / found["n_anomalous"], caught / (caught + found["false_alarms"])
    return None


def _chance(name: str, found: dict[str, float]) -> float | None:
    return found["n_anomalous"] / (found["n_anomalous"] + found["n_normal"]) if name == "pr" else None


def _at(name: str, found: dict[str, float]) -> str:
    mark = _mark(name, found)
    if mark is None:
        return ""
    first, second = ("false alarms", "detected") if name == "roc" else ("recall", "precision")
    return f"At the alarm threshold: {share(mark[0])} {first}, {share(mark[1])} {second}."


def kept(evaluated: Evaluated) -> list[Block]:
    """One sentence: whether the test contradicts the promised rate of false alarms."""
    found, promised = evaluated.metrics, evaluated.calibration.promised_false_alarms
    n = found["n_normal"]
    if not n or promised is None:
        return []
    hits, low = found["false_alarms"], found["false_alarm_rate_low"]
    broken = low > promised
    said = f"Of {counted(n, 'test normal')} {hits:,} raised an alarm: {share(hits / n)}, with 95 % certainty "
    said += f"{between(hits, n)}. {share(promised)} were promised; the test "
    said += "contradicts that." if broken else "does not contradict that."
    return [Text(said, "bad" if broken else "good")]


def promise(evaluated: Evaluated) -> list[Block]:
    """Promised against realised rates of false alarms, for the threshold at hand and for others it could have been."""
    calibration, normals = evaluated.calibration, evaluated.scores(NORMAL)
    known = calibration.scores
    if not len(known) or not len(normals):
        return [
            Text("Promised and realised false alarms cannot be compared: that needs normals in calibration and test.")
        ]
    rule = calibration.plan.rule
    confidence = rule.confidence if isinstance(rule, FalseAlarmRate) else None
    found = Kept.of(known, normals, confidence)
    promised = calibration.promised_false_alarms
    alarm = np.float32(calibration.thresholds["alarm"])
    hits = int((normals > alarm).sum())
    actual = None if promised is None else (promised, hits / len(normals))
    said = f"{counted(len(known), 'calibration normal')} carry each promise of the plot"
    said += " on average" if confidence is None else f" with {100 * confidence:g} % confidence"
    over = int(found.broken.sum())
    alt = f"Promised against realised false-alarm rates: {said}. "
    alt += (
        f"Promised {share(promised)}, realised {share(actual[1])} ({between(hits, len(normals))}). " if actual else ""
    )
    held = f"the test contradicts {over} of {len(found.promised)} promises that were possible"
    alt += held[0].upper() + held[1:] + "."
    caption = (
        f"Each point is an alarm threshold: what it would promise, and the share of {counted(found.n, 'test normal')} "
    )
    caption += f"above it with its 95 % interval; {said}; {held}."
    blocks: list[Block] = [Chart(charts.calibration(found, actual), alt, caption), _promises(found)]
    if promised is None:
        blocks.insert(
            0, Text("The rule of this candidate promises no rate of false alarms; the plot shows what could be.")
        )
    if calibration.own:
        blocks.append(Text(f"Thresholds go by {calibration.plan.by}; the plot takes all normals together.", "note"))
    return blocks


def _promises(found: Kept) -> Table:
    """Some of the plot in figures."""
    some = np.unique(np.linspace(0, np.searchsorted(found.promised, 0.25), 8).round().astype(int))
    some = some[some < len(found.promised)]
    rows = [
        [
            share(found.promised[at]),
            share(found.realised[at]),
            f"{share(found.low[at]).removesuffix(PERCENT)} to {share(found.high[at])}",
            "contradicted" if found.broken[at] else "kept",
        ]
        for at in some
    ]
    return Table(
        ["promised", "realised", "95 % interval", "by the test"], rows, "The same in figures", frozenset({0, 1, 2})
    )
