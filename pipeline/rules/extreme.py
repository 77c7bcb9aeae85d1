"""A generalised Pareto tail, for rates that no number of normals at hand can promise."""

from dataclasses import dataclass
from math import ceil, floor
from typing import Annotated

import numpy as np
from annotated_types import Ge

from pipeline.errors import PromiseError
from pipeline.rules.conformal import Found, Known, Rate, percent

RESAMPLES = 250  # of the bootstrap
FEWEST = 30  # exceedances that a tail is fitted to
DRAWN = 10_000  # of them at most in a resample


@dataclass(frozen=True)
class Extreme:
    """A threshold for rates below 1 / normals: a generalised Pareto distribution through the highest share `tail` of
    the normals' scores, by probability-weighted moments (Hosking & Wallis, Technometrics 1987). An extrapolation."""

    alpha: Rate = 0.0001
    """Share of normals that may raise an alarm; must lie in the tail."""
    tail: Rate = 0.1
    """Share of the normals, those with the highest scores, that the tail is fitted to."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the bootstrap resamples."""

    def find(self, known: Known, where: str) -> Found:
        n = len(known.normals)
        count = floor(self.tail * n)
        if count < FEWEST:
            raise PromiseError(
                f"{where}.rule extreme needs at least {FEWEST} scores in its tail, {ceil(FEWEST / self.tail)}"
                f" calibration normals at {where}.tail {self.tail:g}, got {n} (params.yaml)"
            )
        if self.alpha >= count / n:
            raise PromiseError(
                f"{where}.alpha must lie in the tail, below {count / n:g}, got {self.alpha:g} (params.yaml)"
            )
        start = float(known.normals[n - count - 1])
        over = known.normals[n - count :].astype(np.float64) - start
        if over[-1] == 0:
            raise PromiseError(f"{where}.rule extreme needs a tail of differing scores, got {count} equal ones")
        shape, scale = _pareto(over[None])
        left = self.alpha * n / count
        point = start + _quantile(shape, scale, left)[0]
        rng = np.random.default_rng(self.seed)
        again = _quantile(shape, scale, 1 - rng.random((RESAMPLES, min(count, DRAWN))))
        low, high = np.quantile(start + _quantile(*_pareto(np.sort(again, axis=1)), left), [0.025, 0.975])
        figures = {"shape": float(shape[0]), "scale": float(scale[0]), "exceedances": float(count)}
        figures |= {"threshold_low": float(low), "threshold_high": float(high)}
        says = f"{percent(self.alpha)} of normals raise one if their scores go on as the highest {count} of {n} do"
        says += f" (generalised Pareto of shape {shape[0]:.3g}; 95 % of resampled thresholds {low:.6g} to {high:.6g});"
        return Found(float(np.float32(point)), None, f"{says} an extrapolation, no rate is promised", figures)


def _pareto(over: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape and scale `(b,)` of generalised Pareto distributions from rising exceedances `(b, n)`: Hosking & Wallis
    1987, section 4, with plotting positions (i - 0.35) / n."""
    n = over.shape[1]
    left = 1 - (np.arange(1, n + 1) - 0.35) / n
    first, second = over.mean(axis=1), (left * over).mean(axis=1)
    between = np.maximum(first - 2 * second, 1e-12 * first)
    return 2 - first / between, 2 * first * second / between


def _quantile(shape: np.ndarray, scale: np.ndarray, left: np.ndarray | float) -> np.ndarray:
    """The exceedance that a share `left` of the distribution exceeds."""
    bent = np.where(np.abs(shape) < 1e-9, 1e-9, shape)
    return scale / bent * np.expm1(-bent * np.log(left))
