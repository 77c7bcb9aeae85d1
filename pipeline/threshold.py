"""Thresholds that carry a promise: split-conformal calibration on normals that nothing was trained or tested on.

Sources: Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World" (2005), for p-values and the
marginal promise; Vovk, "Conditional validity of inductive conformal predictors" (2012), proposition 2a, and
Angelopoulos & Bates, "A gentle introduction to conformal prediction" (2021), section 3.2, for the promise
that holds with a confidence.

Let s_(1) <= ... <= s_(n) be the scores of n calibration normals and let the alarm be `score > s_(k)`. With
r = n + 1 - k, a further normal, exchangeable with them, raises an alarm

- with probability at most r / (n + 1), on average over calibration sets (the marginal promise);
- for the calibration set at hand with a probability that is at most Beta(r, n + 1 - r) distributed (the
  uniform order statistic), so at most alpha with confidence I_alpha(r, n + 1 - r), the beta distribution's
  function, which is also P(Binomial(n, alpha) >= r).

Both are equalities for continuous scores. Ties only lower the rate, since an alarm needs a strictly higher
score: even equal scores throughout keep the promise (and detect nothing below them).
"""

import json
from bisect import bisect_left
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from math import ceil, expm1, floor, log1p, nextafter
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.special import betainc, betaincinv

from pipeline.errors import DataError, ModelError, PromiseError

RULE = "false_alarm_rate"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Thresholds, the promise they carry, and all that is needed to set others without retraining.

    `alpha` and `review` are the false-alarm rates asked for; `promise` <= `alpha` is the rate that the chosen
    order statistic carries, with `confidence` or, without one, on average. `normals` counts the calibration
    scores, `scores` holds them sorted, float32 `(normals,)`; `thresholds` has `alarm` and `review` (or None);
    `model` is the content hash of the model folder that gave the scores.
    """

    rule: str
    alpha: float
    confidence: float | None
    review: float | None
    promise: float
    normals: int
    thresholds: dict[str, float | None]
    scores: np.ndarray
    model: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; float32 scores and thresholds survive the way there and back exactly."""
        return {**vars(self), "thresholds": dict(self.thresholds), "scores": self.scores.astype(np.float64).tolist()}

    @classmethod
    def from_json(cls, value: Any, where: str = "the calibration") -> Self:
        """The calibration that `to_json` gave. Raises ModelError when it is damaged or contradicts itself."""
        try:
            found = cls(**{**value, "scores": np.asarray(value["scores"], np.float32)})
            again = calibrate(found.scores, found.alpha, found.confidence, found.review, found.model)
            whole = (
                found.rule == RULE
                and np.array_equal(found.scores, again.scores)
                and found.normals == again.normals
                and found.thresholds == again.thresholds
                and abs(found.promise - again.promise) < 1e-9
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, DataError, PromiseError) as error:
            raise ModelError(f"{where} must be a calibration as assay writes it: {error!r}") from error
        if not whole:
            raise ModelError(f"{where} is damaged: its thresholds do not follow from its scores by the rule {RULE}")
        return found

    def says(self) -> str:
        """The promise in one sentence for people."""
        sure = "on average" if self.confidence is None else f"with {_percent(self.confidence)} confidence"
        band = self.thresholds["review"]
        between = (
            "" if band is None else f"; scores above {band:.6g} are for review ({_percent(self.review)} of normals)"
        )
        flat = " (all calibration scores are equal)" if self.scores[0] == self.scores[-1] else ""
        return (
            f"alarm above {self.thresholds['alarm']:.6g}: {sure} at most {_percent(self.alpha)} of normals raise one"
            f" ({self.normals} calibration normals carry {_percent(self.promise)}){between}{flat}"
        )


def calibrate(
    scores: np.ndarray, alpha: float, confidence: float | None, review: float | None, model: str
) -> Calibration:
    """Thresholds for calibration normals' `scores`, float32 `(n,)`: at most a share `alpha` of normals above.

    With `confidence` the share holds for this very calibration set with that probability, each of the two
    thresholds on its own; without it, on average over calibration sets. `review` is a second, larger share.
    Raises PromiseError when n is too small for `alpha`, DataError for NaN or infinity.
    """
    if review is not None and review <= alpha:
        raise PromiseError(f"calibrate.review must be above calibrate.alpha ({alpha}), got {review}")
    with np.errstate(over="ignore"):
        ordered = np.sort(np.asarray(scores, np.float32).ravel())
    _finite(ordered, "calibration")
    n = len(ordered)
    above = _above(n, alpha, confidence)
    if above == 0:
        raise PromiseError(_too_few(n, alpha, confidence))
    return Calibration(
        rule=RULE,
        alpha=alpha,
        confidence=confidence,
        review=review,
        promise=above / (n + 1) if confidence is None else float(betaincinv(above, n + 1 - above, confidence)),
        normals=n,
        thresholds={
            "alarm": float(ordered[n - above]),
            "review": None if review is None else float(ordered[n - _above(n, review, confidence)]),
        },
        scores=ordered,
        model=model,
    )


def read(path: Path) -> Calibration:
    """The calibration file at `path`. Raises ModelError when it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} must be a calibration file that can be read: {error}") from error
    return Calibration.from_json(value, str(path))


def needed(alpha: float, confidence: float | None) -> int:
    """The fewest calibration normals that can promise `alpha`: those for which r = 1 is enough."""
    if confidence is None:
        return ceil(1 / Fraction(repr(alpha))) - 1
    n = max(1, ceil(log1p(-confidence) / log1p(-alpha)) - 1)  # 1 - (1 - alpha)^n >= confidence
    while _above(n, alpha, confidence) == 0:
        n += 1
    return n


def smallest_alpha(n: int, confidence: float | None) -> float:
    """The lowest false-alarm rate that `n` >= 1 calibration normals can promise."""
    alpha = 1 / (n + 1) if confidence is None else -expm1(log1p(-confidence) / n)
    while _above(n, alpha, confidence) == 0:  # rounding fell short by some last bits
        alpha = nextafter(alpha, 1)
    return alpha


def p_values(calibration_scores: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Conformal p-values float64 `(n,)`: (1 + calibration scores at least as high) / (1 + calibration scores).

    A normal's p-value is at most t with a probability of at most t. Raises DataError for NaN or infinity."""
    ordered = np.sort(np.asarray(calibration_scores, np.float32))
    scores = np.asarray(scores, np.float32)
    _finite(scores, "sample")
    below = np.searchsorted(ordered, scores, side="left")
    return (1 + len(ordered) - below) / (1 + len(ordered))


def decide(scores: np.ndarray, thresholds: dict[str, float | None]) -> np.ndarray:
    """`accept`, `review` or `reject` for each score: `reject` strictly above the alarm threshold, `review` strictly
    above the review threshold, if there is one. Raises DataError for NaN or infinity."""
    scores = np.asarray(scores, np.float32)
    _finite(scores, "sample")
    low = thresholds["alarm"] if thresholds["review"] is None else thresholds["review"]
    band = np.where(scores > np.float32(low), "review", "accept")
    return np.where(scores > np.float32(thresholds["alarm"]), "reject", band)


def _above(n: int, alpha: float, confidence: float | None) -> int:
    """r = n + 1 - k: the largest r whose order statistic keeps `alpha`; 0 when none does."""
    if confidence is None:
        return floor(Fraction(repr(alpha)) * (n + 1))  # alpha as it is written, 0.29 and not 0.28999...
    return bisect_left(range(1, n + 1), True, key=lambda r: betainc(r, n + 1 - r, alpha) < confidence)


def _finite(scores: np.ndarray, which: str) -> None:
    broken = np.count_nonzero(~np.isfinite(scores))
    if broken:
        raise DataError(f"{which} scores must be finite float32 numbers, got {broken} of {len(scores)} that are not")


def _too_few(n: int, alpha: float, confidence: float | None) -> str:
    sure = "without a confidence" if confidence is None else f"with confidence {confidence:g}"
    can = "which promise nothing"
    if n > 0:
        smallest = Decimal(smallest_alpha(n, confidence))
        rounded = Context(prec=3, rounding=ROUND_CEILING).plus(smallest)
        can = f"which can promise alpha {float(rounded if rounded < 1 else smallest):g} at the lowest"
    return (
        f"calibrate.alpha {alpha:g} {sure} needs at least {needed(alpha, confidence)} calibration normals, "
        f"got {n}, {can}; give more normals, a larger split.calibrate or a larger calibrate.alpha (params.yaml)"
    )


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0):.4g} %"
