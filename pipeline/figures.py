"""Pictures of an evaluation: ROC curve, precision-recall curve, histogram of scores with the thresholds.

Drawn through matplotlib's objects (pyplot's start-up and global state are not needed) in two colours that
colour-blind people tell apart (Okabe & Ito, 2008) and that differ in hatching too.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

NORMAL, ANOMALOUS, LINE = "#0072B2", "#D55E00", "#1A1A1A"


def curve(points: pd.DataFrame, title: str, path: Path) -> None:
    """Draw the first column of `points` up to its end against the second, from 0 to 1, as a PNG at `path`."""
    figure, axes = _figure(title)
    x, y = points.columns[:2]
    axes.plot(points[x], points[y], color=NORMAL, linewidth=2)
    end = points[x].max() if len(points) else 1.0
    limits = {"xlim": (-0.01 * end, 1.01 * end), "ylim": (-0.01, 1.01)}
    axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "), **limits)
    figure.savefig(path)


def histogram(bins: pd.DataFrame, thresholds: dict[str, float | None], title: str, path: Path) -> None:
    """Draw a histogram as `bin_scores` gives it, each class as shares of itself, with the thresholds, at `path`."""
    figure, axes = _figure(title)
    edges = np.append(bins["low"], bins["high"].iloc[-1])
    for name, colour, hatch in (("normal", NORMAL, ""), ("anomalous", ANOMALOUS, "///")):
        count = bins[name].sum()
        if count:
            look = {"facecolor": colour, "edgecolor": colour, "hatch": hatch, "alpha": 0.55, "linewidth": 0.5}
            axes.stairs(bins[name] / count, edges, fill=True, label=f"{count} {name}", **look)
    for name, dash in (("alarm", "-"), ("review", "--")):
        at = thresholds[name]
        if at is not None:
            axes.axvline(at, color=LINE, linestyle=dash, label=f"{name} above {at:.4g}")
    axes.set(xlabel="score", ylabel="share of the class")
    axes.legend(frameon=False)
    figure.savefig(path)


def bin_scores(label: np.ndarray, scores: np.ndarray, count: int = 50) -> pd.DataFrame:
    """Counts of normals (label 0) and anomalies (1) in `count` equal bins: columns low, high, normal, anomalous."""
    scores = scores.astype(np.float64)
    edges = np.histogram_bin_edges(scores, count)
    normal, anomalous = (np.histogram(scores[label == value], edges)[0] for value in (0, 1))
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "normal": normal, "anomalous": anomalous})


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.12, 0.14, 0.84, 0.76))
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
