"""Charts in which several candidates lie over one another: each has a colour, a dash and a label of its own."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.figures import ANOMALOUS, LINE, NORMAL

COLOURS = (NORMAL, ANOMALOUS, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", LINE)
DASHES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKS = ("o", "s", "^", "D", "P", "X", "v")
SMALL = 9  # points of text
GRID = "#E3E2DC"


def label(name: str, place: int) -> str:
    """A candidate's name as a chart can show it; by its place among all of them where the fonts may lack a letter."""
    return name.replace("$", r"\$") if name.isascii() and name.isprintable() else f"candidate {place + 1}"


def curves(points: dict[str, pd.DataFrame], places: dict[str, int], title: str) -> Figure:
    """The first column against the second of each candidate's points. `places` fixes looks: equal in all charts."""
    figure = Figure(figsize=(5.2, 3.9))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.13, 0.125, 0.85, 0.79))
    axes.set_title(title, loc="left", fontsize=SMALL + 1)
    end = max(float(rows.iloc[:, 0].max()) for rows in points.values())
    for name, rows in points.items():
        place = places[name]
        look = {"color": COLOURS[place % 7], "linestyle": DASHES[place % 7], "linewidth": 1.8}
        axes.plot(rows.iloc[:, 0], rows.iloc[:, 1], label=label(name, place), **look)
    x, y = next(iter(points.values())).columns[:2]
    axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "), ylim=(-0.02, 1.03), xlim=(-0.02 * end, 1.03 * end))
    _plain(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.legend(frameon=False, fontsize=SMALL - 0.5, loc="best", handlelength=3.2)
    return figure


def forest(rows: list[tuple[str, str, float, float, float]], places: dict[str, int]) -> Figure:
    """Differences (candidate, figure, difference, low, high), one line each from the top; 0 is drawn through."""
    figure = Figure(figsize=(7.4, 1.1 + 0.3 * len(rows)))
    FigureCanvasAgg(figure)
    height = figure.get_figheight()
    axes = figure.add_axes((0.34, 0.62 / height, 0.62, 1 - 0.8 / height))
    at = np.arange(len(rows))[::-1]
    for y, (name, _, difference, low, high) in zip(at, rows, strict=True):
        place = places[name]
        colour = COLOURS[place % 7]
        axes.plot([low, high], [y, y], color=colour, linewidth=2)
        axes.plot(difference, y, MARKS[place % 7], color=colour, markeredgecolor=LINE, markersize=7)
    axes.axvline(0, color=LINE, linewidth=1)
    axes.set_yticks(at, [f"{label(name, places[name])}, {metric}" for name, metric, *_ in rows])
    reach = 1.08 * max(max(abs(low), abs(high)) for *_, low, high in rows) or 0.01
    axes.set(
        xlim=(-reach, reach), ylim=(-0.6, len(rows) - 0.4), xlabel="difference: left of 0 is worse, right is better"
    )
    _plain(axes)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL - 0.5)
    axes.xaxis.label.set_size(SMALL)
    axes.yaxis.label.set_size(SMALL)
