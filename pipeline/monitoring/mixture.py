"""A bet that something changes at an unknown time: the mixture of products of factors over when they begin.

Given factors f_k(t) >= 0 with a mean of at most 1 given the past, for k = 1..K ways to bet,

    M(t) = W(t) + sum over s <= t of w(s) / K * sum over k of f_k(s) f_k(s + 1) ... f_k(t)

is a test supermartingale: w(s) is the prior probability that the change comes at step s, W(t) = 1 - w(1) - ... - w(t)
what has not been bet yet. By Ville's inequality ("Étude critique de la notion de collectif", 1939) M ever reaches c
with a probability of at most 1 / c, however long one looks. This is Shiryaev's mixture ("On optimum methods in quickest
detection problems", 1963) as a test martingale; the sum over s is a recursion like that of Shiryaev and Roberts.

The prior W(t) = 1 / log2(t + 2) has so heavy a tail that a long clean history costs little: M(t) never falls below
W(t), and a change at step s starts from w(s) ~ 1 / (s log2(s)^2), which is 1e-5 after 1,000 steps and 4e-9 after a
million, where a martingale that bets all the time has long lost everything.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np


@dataclass
class Mixture:
    """The state after `steps` factors. `products`: log of all factors so far, `(K,)`; `entered`: log of the sum of
    w(s) over the product before s, `(K,)`; `value` and `highest`: log M now and at its highest."""

    products: np.ndarray
    entered: np.ndarray
    steps: int = 0
    value: float = 0.0
    highest: float = field(default=0.0)

    @classmethod
    def of(cls, ways: int) -> Self:
        """Before the first step, with `ways` ways to bet."""
        return cls(np.zeros(ways), np.full(ways, -np.inf))

    def feed(self, factors: np.ndarray) -> np.ndarray:
        """Take the next factors, their logs float64 `(m, K)`; log M after each, `(m,)`.

        In how many pieces they come makes no difference, not even to the last bit."""
        if len(factors) == 0:
            return np.zeros(0)
        steps = self.steps + np.arange(1, len(factors) + 1)
        products = np.cumsum(np.vstack([self.products, factors]), axis=0)
        entering = np.vstack([self.entered, log_prior(steps)[:, None] - products[:-1]])
        entered = np.logaddexp.accumulate(entering, axis=0)
        bets = entered[1:] + products[1:] - np.log(len(self.products))
        values = np.logaddexp(np.logaddexp.reduce(bets, axis=1), -np.log(np.log2(steps + 2)))
        self.products, self.entered, self.steps = products[-1], entered[-1], int(steps[-1])
        self.value, self.highest = float(values[-1]), max(self.highest, float(values.max()))
        return values

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as float64 arrays, which hold counts up to 2^53."""
        numbers = np.array([self.steps, self.value, self.highest], np.float64)
        return {"products": self.products, "entered": self.entered, "numbers": numbers}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        steps, value, highest = arrays["numbers"].tolist()
        return cls(arrays["products"], arrays["entered"], int(steps), value, highest)


def log_prior(steps: np.ndarray) -> np.ndarray:
    """log w(s) = log(1 / log2(s + 1) - 1 / log2(s + 2)) without cancellation."""
    s = np.asarray(steps, np.float64)
    return np.log(np.log1p(1 / (s + 1)) / np.log(2)) - np.log(np.log2(s + 1)) - np.log(np.log2(s + 2))
