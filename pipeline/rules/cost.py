"""The least expected cost on labelled calibration samples."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from pipeline.errors import PromiseError
from pipeline.rules.conformal import Found, Known, Rate, just_below, percent

RESAMPLES = 1000  # of the bootstrap
LEVELS = 4096  # thresholds at most that are tried in each of them


@dataclass(frozen=True)
class Cost:
    """The least expected cost of a sample. Its interval, and the threshold's, hold 95 % of stratified bootstrap
    resamples."""

    prevalence: Rate
    """Share of anomalies among the samples to come."""
    false_alarm: Annotated[float, Ge(0)] = 1.0
    """Cost of a false alarm, in any unit."""
    escape: Annotated[float, Ge(0)] = 1.0
    """Cost of an anomaly that raises none, in the same unit."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the bootstrap resamples."""

    def find(self, known: Known, where: str) -> Found:
        if self.false_alarm == self.escape == 0:
            raise PromiseError(f"{where}.false_alarm and {where}.escape must not both be 0: nothing costs anything")
        levels, normals, anomalies = counted(known, where, LEVELS)
        rng = np.random.default_rng(self.seed)
        least, at = self._least(normals[None], anomalies[None])
        drawn = [rng.multinomial(counts.sum(), counts / counts.sum(), RESAMPLES) for counts in (normals, anomalies)]
        costs, places = self._least(*drawn)
        low, high = np.quantile(costs, [0.025, 0.975])
        ends = np.quantile(levels[places], [0.025, 0.975], method="inverted_cdf")
        figures = {"cost": float(least[0]), "cost_low": float(low), "cost_high": float(high)}
        figures |= {"threshold_low": float(ends[0]), "threshold_high": float(ends[1])}
        says = f"least expected cost, {least[0]:.4g} a sample (95 % of resamples {low:.4g} to {high:.4g}, their"
        says += f" thresholds {ends[0]:.6g} to {ends[1]:.6g}), at a prevalence of {percent(self.prevalence)}"
        return Found(float(levels[at[0]]), None, f"{says}; no rate is promised", figures)

    def _least(self, normals: np.ndarray, anomalies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least costs `(b,)` and the places of the highest such levels, from counts `(b, levels)` of scores in
        (previous level, level]."""
        alarms = 1 - np.cumsum(normals, axis=1) / normals.sum(axis=1, keepdims=True)
        escapes = np.cumsum(anomalies, axis=1) / anomalies.sum(axis=1, keepdims=True)
        cost = (1 - self.prevalence) * self.false_alarm * alarms + self.prevalence * self.escape * escapes
        last = cost.shape[1] - 1 - np.argmin(cost[:, ::-1], axis=1)
        return cost[np.arange(len(cost)), last], last


def counted(known: Known, where: str, most: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rising thresholds to try, at most `most`, and the counts of normals and of anomalies in (previous, this one];
    the first lies below all scores, and whatever lies above the last normal or anomaly is caught by none."""
    for scores, what in ((known.normals, "normals"), (known.anomalies, "labelled anomalies")):
        if len(scores) == 0:
            more = "" if what == "normals" else "; give it a share of them by split.anomalies.calibrate"
            raise PromiseError(f"{where}.rule needs calibration {what}, got none{more} (params.yaml)")
    levels = np.unique(np.concatenate([known.normals, known.anomalies]))
    if most is not None and len(levels) > most:
        levels = levels[np.unique(np.linspace(0, len(levels) - 1, most).round().astype(int))]
    levels = np.concatenate([np.float32([just_below(levels[0])]), levels])
    counts = [
        np.bincount(np.searchsorted(levels, scores, side="left"), minlength=len(levels))
        for scores in (known.normals, known.anomalies)
    ]
    return levels, counts[0], counts[1]
