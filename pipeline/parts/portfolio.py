"""Four unlike detectors without labels, and what they say together: what `table/auto` starts from.

Isolation forest (Liu, Ting, Zhou 2008), histograms (Goldstein, Dengel 2012), the mean distance to the nearest rows
(Angiulli, Pizzuti 2002) and the squared Mahalanobis distance with a shrunk covariance (Ledoit, Wolf 2004). Each score
becomes the share p of the training rows that score as high; together they say the sum of -log p (Fisher: Statistical
Methods for Research Workers, 1932, which assumes independence; here it is a way to add up, not a probability)."""

from typing import Self

import numpy as np
from scipy.stats import spearmanr

from pipeline.errors import DataError
from pipeline.parts.histograms import Histograms
from pipeline.parts.isolation import isolating, isolation
from pipeline.parts.nearest import Nearest, others
from pipeline.parts.trees import Trees

MEMBERS = ("forest", "histograms", "nearest", "gaussian")
TREES, PSI, BINS, FLOOR, NEIGHBOURS = 200, 256, 10, 0.1, 10
STABLE = 0.5  # least rank correlation of two fits on different halves of the rows
LOOKED_AT = 2000  # rows that stability and agreement are taken on
BLOCK = 1 << 22  # values held at a time


class Portfolio:
    """The fitted members. `known_` are their sorted scores of the training rows, float32 `(4, m)`; `stability_` and
    `agreement_` float64 `(4,)`; `kept_` says which of them count, bool `(4,)`."""

    def fit(self, x: np.ndarray, seed: int) -> Self:
        """Learn from rows `x` float32 (m, k), m >= 2."""
        self._learn(x, seed)
        own = self._scores(x, own=True)
        self.known_ = np.sort(own, axis=1)
        self.stability_, self.agreement_ = self._judged(x, own, seed)
        kept = (self.stability_ >= STABLE) & (self.agreement_ > 0)
        self.kept_ = kept if kept.any() else self.stability_ == self.stability_.max()
        self.own_ = own
        return self

    def tails(self, scores: np.ndarray) -> np.ndarray:
        """-log of the share of training rows that score as high, a row itself included: float64, shape of `scores`
        (4, n)."""
        m = self.known_.shape[1]
        below = [np.searchsorted(known, one, side="left") for known, one in zip(self.known_, scores, strict=True)]
        return -np.log((m - np.stack(below) + 1) / (m + 1))

    def together(self, scores: np.ndarray) -> np.ndarray:
        """The sum of the tails of the members that count: float64 `(n,)`."""
        return self.tails(scores)[self.kept_].sum(axis=0)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """The raw scores of the members for rows `x` (n, k): float32 `(4, n)`."""
        return self._scores(x, own=False)

    def _learn(self, x: np.ndarray, seed: int) -> None:
        from sklearn.covariance import LedoitWolf

        self._trees, self._scale = isolating(x, TREES, PSI, 1.0, seed)
        self._histograms = Histograms().fit(x, BINS)
        self._nearest = Nearest(x)
        shrunk = LedoitWolf().fit(x.astype(np.float64))
        self._mean, self._precision = shrunk.location_, shrunk.precision_

    def _scores(self, x: np.ndarray, own: bool) -> np.ndarray:
        """Raw scores `(4, n)`; `own`: `x` is what was learned from, and no row is its own neighbour."""
        k = min(NEIGHBOURS, len(self._nearest.bank) - 1)
        distance = others(*self._nearest.of(x, k + 1))[0] if own else self._nearest.of(x, k)[0]
        odd = -np.log2(self._histograms.of(x) + FLOOR).sum(axis=1)
        step = max(1, BLOCK // x.shape[1])
        far = [np.zeros(0)]
        for start in range(0, len(x), step):
            apart = x[start : start + step] - self._mean
            far.append(np.einsum("nk,nk->n", apart @ self._precision, apart))
        forest = isolation(self._trees, self._scale, x)
        return np.stack([forest, odd, distance.mean(axis=1), np.concatenate(far)]).astype(np.float32)

    def _judged(self, x: np.ndarray, own: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Stability: rank correlation of the scores that fits on either half of the rows give. Agreement: the mean one
        with the other members. Of scores that are all equal: 0. With fewer than 8 rows nothing is said: 1."""
        if len(x) < 8:
            return np.ones(len(MEMBERS)), np.ones(len(MEMBERS))
        order = np.random.default_rng(seed).permutation(len(x))
        some = x[order[:LOOKED_AT]]
        halves = [Portfolio() for _ in range(2)]
        for which, half in enumerate(halves):
            half._learn(x[order[which::2]], seed)
        first, second = (half._scores(some, own=False) for half in halves)
        stability = np.array([_correlation(a, b) for a, b in zip(first, second, strict=True)])
        seen = own[:, order[:LOOKED_AT]]
        pairs = np.array([[_correlation(a, b) for b in seen] for a in seen])
        return stability, (pairs.sum(axis=1) - np.diag(pairs)) / (len(MEMBERS) - 1)

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            **{f"forest/{name}": array for name, array in self._trees.arrays().items()},
            **{f"histograms/{name}": array for name, array in self._histograms.arrays().items()},
            "bank": self._nearest.bank,
            "mean": self._mean,
            "precision": self._precision,
            "scale": np.array([self._scale]),
            "known": self.known_,
            "kept": self.kept_,
            "stability": self.stability_,
            "agreement": self.agreement_,
        }

    def from_arrays(self, arrays: dict[str, np.ndarray], columns: int) -> Self:
        """Take over what `arrays()` gave, for `columns` columns. Raises DataError when they do not fit."""

        def under(name: str) -> dict[str, np.ndarray]:
            return {key.removeprefix(name): array for key, array in arrays.items() if key.startswith(name)}

        self._trees = Trees.from_arrays(under("forest/"), columns)
        self._histograms = Histograms().from_arrays(under("histograms/"), columns)
        self._mean, self._precision = arrays["mean"], arrays["precision"]
        fits = arrays["bank"].ndim == 2 and arrays["bank"].shape[1] == columns and len(arrays["bank"]) > 1
        fits = fits and self._mean.shape == (columns,) and self._precision.shape == (columns, columns)
        if not fits or len(arrays["known"]) != len(MEMBERS) or arrays["kept"].shape != (len(MEMBERS),):
            raise DataError(f"bank, mean and precision must be of {columns} columns, got {arrays['bank'].shape}")
        self._nearest, self._scale = Nearest(arrays["bank"]), float(arrays["scale"][0])
        self.known_, self.kept_ = arrays["known"], arrays["kept"]
        self.stability_, self.agreement_ = arrays["stability"], arrays["agreement"]
        return self


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)
