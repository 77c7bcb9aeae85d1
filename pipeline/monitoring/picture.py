"""The batches of a line over time, as one picture: alarms, drift of scores, drift of inputs, what could not be read.

Colours that colour-blind people tell apart (Okabe & Ito, 2008), as in pipeline/figures.py; none says anything alone.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, ORANGE, GREY, LINE = "#0072B2", "#D55E00", "#767676", "#1A1A1A"
LOWEST, HIGHEST = -4.0, 12.0  # powers of ten that are drawn of martingales
NAMED = 12  # batches at most that are named below the picture


def draw(history: pd.DataFrame, path: Path) -> None:
    """Draw batches as `record.history` gives them, one at least, as a PNG at `path`."""
    figure = Figure(figsize=(9, 10), dpi=110)
    FigureCanvasAgg(figure)
    panels = figure.subplots(4, 1, sharex=True)
    figure.subplots_adjust(left=0.1, right=0.97, top=0.93, bottom=0.08, hspace=0.28)
    figure.suptitle(f"{history['name'].iloc[0]}: {len(history)} batches", x=0.1, ha="left")
    at = np.arange(len(history))
    alarms(panels[0], at, history)
    evidence(panels[1], at, history)
    _inputs(panels[2], at, history)
    _shares(panels[3], at, history)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        for new in np.flatnonzero(np.diff(history["version"])) + 0.5:
            panel.axvline(new, color=GREY, linewidth=1, linestyle=":")
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False, fontsize="small", loc="best")
    shown = at[:: -(-len(at) // NAMED)]
    labels = [f"{row.number}\nv{row.version}" for row in history.iloc[shown].itertuples()]
    panels[-1].set_xticks(shown, labels, fontsize="small")
    panels[-1].set_xlabel("batch (number, version; a dotted line where a version begins)")
    figure.savefig(path)


def alarms(axes: Axes, at: np.ndarray, history: pd.DataFrame) -> None:
    """Each batch's share of alarms at `at`, with its interval, against the share that is allowed."""
    rate, low, high = (_float(history[name]) for name in ("alarm_rate", "alarm_low", "alarm_high"))
    axes.vlines(at, low, high, color=BLUE, linewidth=2, alpha=0.5, label="95 % interval")
    axes.plot(at, rate, "o", color=BLUE, markersize=4, label="alarms")
    _level(axes, at, _float(history["allowed"]), "allowed")
    broken = history["broken"].to_numpy(bool)
    axes.plot(at[broken], rate[broken], "X", color=ORANGE, markersize=10, label="promise broken")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(bottom=0)
    axes.set_title("share of alarms", loc="left", fontsize="medium")


def evidence(axes: Axes, at: np.ndarray, history: pd.DataFrame) -> None:
    """The martingale of the scores and the evidence against the promised alarms, with their threshold."""
    lines = (
        ("martingale", BLUE, "-", "martingale of the scores"),
        ("alarm_evidence", GREY, "-.", "evidence of alarms"),
    )
    for name, colour, dash, label in lines:
        axes.plot(at, np.clip(_float(history[name]), LOWEST, HIGHEST), dash, color=colour, label=label, marker=".")
    _level(axes, at, np.log10(_float(history["threshold"])), "threshold")
    drift = history["drift"].to_numpy(bool)
    reached = np.clip(_float(history["martingale_highest"]), LOWEST, HIGHEST)
    axes.plot(at[drift], reached[drift], "X", color=ORANGE, markersize=10, label="drift")
    axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("evidence of drift", loc="left", fontsize="medium")


def _inputs(axes: Axes, at: np.ndarray, history: pd.DataFrame) -> None:
    for name, colour, mark, label in (
        ("inputs_p", BLUE, "o", "inputs (the lowest corrected p-value)"),
        ("scores_p", GREY, "s", "scores below the threshold"),
    ):
        p = np.clip(_float(history[name]), 10.0**-HIGHEST, 1)
        axes.plot(at, p, mark, color=colour, markersize=4, label=label)
    axes.set_yscale("log")
    axes.set_title("p-values of each batch alone", loc="left", fontsize="medium")


def _shares(axes: Axes, at: np.ndarray, history: pd.DataFrame) -> None:
    axes.plot(at, _float(history["quarantined_share"]), "o-", color=ORANGE, markersize=4, label="could not be read")
    axes.plot(at, _float(history["missing_share"]), "s-", color=BLUE, markersize=4, label="missing values")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(bottom=0)
    axes.set_title("samples that could not be read, values that are missing", loc="left", fontsize="medium")


def _level(axes: Axes, at: np.ndarray, values: np.ndarray, label: str) -> None:
    """A dashed line at the height of each batch's value, as wide as the batch."""
    axes.stairs(values, np.append(at - 0.5, at[-1] + 0.5), baseline=None, color=LINE, linestyle="--", label=label)


def _float(column: pd.Series) -> np.ndarray:
    return pd.to_numeric(column).to_numpy(np.float64, na_value=np.nan)
