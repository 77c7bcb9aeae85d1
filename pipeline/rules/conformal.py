"""What a rule is, and the order statistics of calibration scores that keep a promise.

Sources: Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World" (2005), for the marginal promise; Vovk,
"Conditional validity of inductive conformal predictors" (2012), proposition 2a, and Angelopoulos & Bates, "A gentle
introduction to conformal prediction" (2021), section 3.2, for the promise that holds with a confidence.

Let s_(1) <= ... <= s_(n) be the scores of n calibration normals and let the alarm be `score > s_(k)`. With
r = n + 1 - k, a further normal, exchangeable with them, raises an alarm

- with probability at most r / (n + 1), on average over calibration sets (the marginal promise);
- for the calibration set at hand with a probability that is at most Beta(r, n + 1 - r) distributed (the
  uniform order statistic), so at most alpha with confidence I_alpha(r, n + 1 - r), the beta distribution's
  function, which is also P(Binomial(n, alpha) >= r).

Both are equalities for continuous scores. Ties only lower the rate, since an alarm needs a strictly higher
score: even equal scores throughout keep the promise (and detect nothing below them). For escapes the same holds
from the other side: an anomaly escapes when its score lies strictly below the k-th lowest of the known ones.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from math import ceil, expm1, floor, log1p, nextafter
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Gt, Lt
from scipy.special import betainc, betaincinv

Rate = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True, eq=False)
class Known:
    """Sorted float32 scores of calibration `normals` and `anomalies`, and the `degrees` of freedom of the chi-square
    distributions whose roots add up to a score where the detector assumes so (else empty)."""

    normals: np.ndarray
    anomalies: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    degrees: tuple[int, ...] = ()


@dataclass(frozen=True)
class Found:
    """A threshold; the `rate` that it promises, of false alarms or of escapes, or None; all of it in words (to follow
    "alarm above 1.2: "); and more figures of its own."""

    threshold: float
    rate: float | None
    says: str
    figures: dict[str, float] = field(default_factory=dict)


class Rule(Protocol):
    """A dataclass whose fields are its options. Raises PromiseError when `known` does not carry it."""

    def find(self, known: Known, where: str) -> Found: ...


def order(n: int, alpha: float, confidence: float | None) -> int:
    """The largest r whose order statistic keeps `alpha`, of `n` scores; 0 when none does."""
    if confidence is None:
        return floor(Fraction(repr(alpha)) * (n + 1))  # alpha as it is written, 0.29 and not 0.28999...
    return bisect_left(range(1, n + 1), True, key=lambda r: betainc(r, n + 1 - r, alpha) < confidence)


def carried(n: int, r: int, confidence: float | None) -> float:
    """The rate that the r-th order statistic from the end promises."""
    return r / (n + 1) if confidence is None else float(betaincinv(r, n + 1 - r, confidence))


def needed(alpha: float, confidence: float | None) -> int:
    """The fewest calibration scores that can promise `alpha`: those for which r = 1 is enough."""
    if confidence is None:
        return ceil(1 / Fraction(repr(alpha))) - 1
    n = max(1, ceil(log1p(-confidence) / log1p(-alpha)) - 1)  # 1 - (1 - alpha)^n >= confidence
    while order(n, alpha, confidence) == 0:
        n += 1
    return n


def smallest_alpha(n: int, confidence: float | None) -> float:
    """The lowest rate that `n` >= 1 calibration scores can promise."""
    alpha = 1 / (n + 1) if confidence is None else -expm1(log1p(-confidence) / n)
    while order(n, alpha, confidence) == 0:  # rounding fell short by some last bits
        alpha = nextafter(alpha, 1)
    return alpha


def percent(share: float) -> str:
    """A share for people: `0.914 %`."""
    return f"{100 * share:.4g} %"


def just_below(score: np.floating) -> float:
    """The next lower float32: an alarm is strictly above its threshold."""
    return float(np.nextafter(np.float32(score), np.float32(-np.inf)))


def sure(confidence: float | None) -> str:
    """How a promise holds, for people."""
    return "on average" if confidence is None else f"with {percent(confidence)} confidence"


def too_few(n: int, alpha: float, confidence: float | None, where: str, what: str, more: str) -> str:
    """What `n` scores of `what` can promise instead, and what `alpha` needs."""
    sure = "without a confidence" if confidence is None else f"with confidence {confidence:g}"
    can = "which promise nothing"
    if n > 0:
        smallest = Decimal(smallest_alpha(n, confidence))
        rounded = Context(prec=3, rounding=ROUND_CEILING).plus(smallest)
        can = f"which can promise alpha {float(rounded if rounded < 1 else smallest):g} at the lowest"
    return (
        f"{where}.alpha {alpha:g} {sure} needs at least {needed(alpha, confidence)} calibration {what}, "
        f"got {n}, {can}; {more} (params.yaml)"
    )
