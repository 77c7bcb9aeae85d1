"""Charts of reports: matplotlib figures in two colours that colour-blind people tell apart, none of which says anything
alone. Their texts are ours; names that users gave stand in tables, where any script can be shown."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline import metrics
from pipeline.figures import ANOMALOUS, LINE, NORMAL
from pipeline.monitoring import picture
from pipeline.rules import conformal

SIZE = (5.2, 3.4)  # inches of a chart, two of which stand side by side
SMALL = 9  # points of text
GREY, GRID, WASH = "#767676", "#E3E2DC", "#F2D9C7"
BINS = (14, 44)  # fewest and most bars
BEYOND = 4.0  # scores are drawn up to so many times the way from the lowest to the alarm threshold
STEPS = 200  # thresholds of a calibration plot
NAMED = 8  # batches named below a picture of drift


@dataclass(frozen=True)
class Series:
    """Scores of one kind in a histogram. `filled` with a hatch where `anomalous`, an outline otherwise."""

    name: str
    scores: np.ndarray
    anomalous: bool = False
    filled: bool = True


def histogram(series: list[Series], thresholds: dict[str, float | None]) -> tuple[Figure, int]:
    """Each series as shares of itself, with the thresholds; and how many scores lie beyond the end of the axis, in
    the last bar."""
    figure, axes = _figure()
    shown = [each for each in series if len(each.scores)]
    bins = int(np.clip(2 * np.sqrt(min((len(each.scores) for each in shown), default=0)), *BINS))
    edges = _edges(np.concatenate([each.scores for each in shown]), thresholds, bins)
    beyond = 0
    for each in shown:
        scores = each.scores.astype(np.float64)
        beyond += int(np.count_nonzero(scores > edges[-1]))
        counts = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0]
        heights, label = counts / len(scores), f"{each.name} ({len(scores):,})"
        if each.anomalous:  # the hatch by itself: in an SVG it would take the face's transparency
            axes.stairs(heights, edges, fill=True, facecolor=ANOMALOUS, alpha=0.35, edgecolor="none")
            hatched = {"facecolor": "none", "edgecolor": ANOMALOUS, "hatch": "////", "linewidth": 0.8}
            axes.stairs(heights, edges, fill=True, label=label, **hatched)
        elif each.filled:
            axes.stairs(heights, edges, fill=True, facecolor=NORMAL, alpha=0.5, edgecolor="none", label=label)
        else:
            axes.stairs(heights, edges, color=LINE, linewidth=1.4, label=label)
    for name, dash in (("alarm", "-"), ("review", "--")):
        at = thresholds.get(name)
        if at is not None and np.isfinite(at):
            axes.axvline(at, color=LINE, linestyle=dash, linewidth=1.2, label=f"{name} above {at:.4g}")
    axes.set(xlabel="score", ylabel="share of its kind", xlim=(edges[0], edges[-1]))
    _legend(axes)
    return figure, beyond


def _edges(scores: np.ndarray, thresholds: dict[str, float | None], bins: int) -> np.ndarray:
    low, high = float(scores.min()), float(scores.max())
    alarm = thresholds.get("alarm")
    if alarm is not None and np.isfinite(alarm):
        low, high = min(low, alarm), max(high, alarm)
        high = min(high, low + BEYOND * (alarm - low)) if alarm > low else high
    middle = 0.5 * (low + high)
    least = max(abs(middle), 1.0) * 1e-6  # equal scores have a bar of some width, too
    return np.linspace(min(low, middle - least), max(high, middle + least), bins + 1)


def curve(points: pd.DataFrame, mark: tuple[float, float] | None, chance: float | None, title: str) -> Figure:
    """The first column of `points` against the second. `mark`: where the alarm threshold lies; `chance`: the height of
    a guess (a number), or None for the diagonal of an ROC curve whose axis ends at 1."""
    figure, axes = _figure(title)
    x, y = points.columns[:2]
    end = float(points[x].max()) if len(points) else 1.0
    axes.plot(points[x], points[y], color=NORMAL, linewidth=1.8)
    guess = [0.0, end] if chance is None else [chance, chance]
    axes.plot([0, end], guess, color=GREY, linewidth=1, linestyle=":", label="a guess")
    if mark is not None:
        _mark(axes, mark, "at the alarm threshold")
    axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "), ylim=(-0.02, 1.03))
    axes.set_xlim(-0.02 * end, 1.03 * end)
    axes.legend(frameon=False, fontsize=SMALL - 1, loc="lower right" if chance is None else "lower left")
    return figure


@dataclass(frozen=True)
class Kept:
    """Promised rates of false alarms against those that test normals show, float64 `(k,)`, with their 95 % interval."""

    promised: np.ndarray
    realised: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int  # test normals

    @classmethod
    def of(cls, calibration: np.ndarray, test: np.ndarray, confidence: float | None) -> "Kept":
        """What each order statistic of sorted `calibration` normals, float32 `(n,)`, promises as an alarm threshold,
        and the share of `test` normals above it."""
        n = len(calibration)
        ranks = np.unique(np.geomspace(1, n, STEPS).round().astype(int))
        promised = np.array([conformal.carried(n, int(rank), confidence) for rank in ranks])
        rising = np.sort(test)
        above = len(rising) - np.searchsorted(rising, calibration[n - ranks], side="right")
        ends = np.array([metrics.interval(int(hits), len(rising)) for hits in above])
        return cls(promised, above / len(rising), ends[:, 0], ends[:, 1], len(rising))

    @property
    def broken(self) -> np.ndarray:
        """Where the interval lies above the promise, bool `(k,)`."""
        return self.low > self.promised


def calibration(kept: Kept, actual: tuple[float, float] | None) -> Figure:
    """Promised against realised rates, from 0 to a few times the promise; `actual`: those of the alarm threshold."""
    figure, axes = _figure()
    end = min(1.0, max(4 * actual[0] if actual else 0.0, 3 * kept.promised[0], 0.05))
    axes.fill_between([0, end], [0, end], [end * 1.6] * 2, color=WASH, alpha=0.5, linewidth=0)
    axes.text(0.02 * end, 1.54 * end, "more false alarms than promised", fontsize=SMALL - 1, color="#7A3500", va="top")
    axes.fill_between(kept.promised, kept.low, kept.high, color=NORMAL, alpha=0.2, linewidth=0, label="95 % interval")
    axes.plot(kept.promised, kept.realised, color=NORMAL, linewidth=1.8, label=f"on {kept.n:,} test normals")
    axes.plot([0, end], [0, end], color=LINE, linewidth=1, linestyle="--", label="promised = realised")
    if actual is not None:
        _mark(axes, actual, "the promise made")
    axes.set(xlabel="promised false-alarm rate", ylabel="realised", xlim=(0, end), ylim=(0, 1.6 * end))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0 if end >= 0.05 else 1))
    _legend(axes)
    return figure


def drift(history: pd.DataFrame) -> Figure:
    """Batches as `monitoring.record.history` gives them, one at least: alarms above, evidence of drift below."""
    figure = Figure(figsize=(2 * SIZE[0] * 0.95, 4.2))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.08, right=0.99, top=0.93, bottom=0.17, hspace=0.38)
    panels = figure.subplots(2, 1, sharex=True)
    at = np.arange(len(history))
    picture.alarms(panels[0], at, history)
    picture.evidence(panels[1], at, history)
    for panel in panels:
        _plain(panel)
        for new in np.flatnonzero(np.diff(history["version"])) + 0.5:
            panel.axvline(new, color=GREY, linewidth=1, linestyle=":")
        panel.legend(frameon=False, fontsize=SMALL - 1, loc="best", ncols=3)
        panel.set_xlim(-0.5, max(len(history), 4) - 0.5)
    shown = at[:: -(-len(at) // NAMED)]
    panels[1].set_xticks(shown, [f"{row.number}\nv{row.version}" for row in history.iloc[shown].itertuples()])
    panels[1].set_xlabel("batch (number, version)")
    return figure


def _mark(axes: Axes, at: tuple[float, float], label: str) -> None:
    axes.plot(*at, "o", color=ANOMALOUS, markersize=8, markeredgecolor=LINE, label=label, clip_on=False, zorder=5)


def _legend(axes: Axes) -> None:
    """A legend above the axes, where it hides nothing."""
    axes.set_position((0.13, 0.145, 0.85, 0.71))
    axes.legend(frameon=False, fontsize=SMALL - 1, loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2)


def _figure(title: str = "") -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.13, 0.145, 0.85, 0.77 if title else 0.83))
    axes.set_title(title, loc="left", fontsize=SMALL + 1)
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL - 0.5)
    axes.xaxis.label.set_size(SMALL)
    axes.yaxis.label.set_size(SMALL)
