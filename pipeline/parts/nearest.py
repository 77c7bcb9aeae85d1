"""The rows nearest to others, exactly and whatever the batch: what detectors of tables by distance search with."""

from typing import Any

import numpy as np

BLOCK = 1 << 22  # values of candidates held at a time (32 MB)
SPARE = 8  # candidates beyond k, so that rounding in the fast search cannot lose a neighbour
NARROW = 12  # columns up to which a tree is faster than looking at every row


class Nearest:
    """A bank of rows, float32 `(m, d)`, m >= 1, to look nearest ones up in; distances are Euclidean.

    Few columns are searched by a tree (scipy's cKDTree), cut at the middle of each side, so that equal and clustered
    rows do no harm. Many columns by scikit-learn's brute force in float32; its distances round differently with
    the number of rows asked for, so those of its candidates are taken again from the differences, in float64."""

    def __init__(self, bank: np.ndarray) -> None:
        self.bank = bank
        self._search: Any = None

    def of(self, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k <= m rows of the bank nearest to each row of `x` (n, d): distances float64 and positions int64, both
        `(n, k)`, the nearest first."""
        narrow = self.bank.shape[1] <= NARROW
        if self._search is None:
            self._search = self._tree() if narrow else self._brute()
        if not len(x):
            return np.zeros((0, k)), np.zeros((0, k), np.int64)
        if narrow:
            distance, place = self._search.query(x, k, workers=-1)
            return distance.reshape(len(x), k), place.reshape(len(x), k).astype(np.int64)
        count = min(k + SPARE, len(self.bank))
        step = max(1, BLOCK // (count * self.bank.shape[1]))
        rough = self._search.kneighbors(x, count, return_distance=False)
        parts = [self._exact(x[i : i + step], rough[i : i + step], k) for i in range(0, len(x), step)]
        return np.concatenate([d for d, _ in parts]), np.concatenate([place for _, place in parts])

    def _exact(self, x: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of the `candidates` (n, count) of each row; of equal ones the first in the bank."""
        apart = self.bank[candidates].astype(np.float64) - x[:, None, :]
        squares = np.einsum("ncd,ncd->nc", apart, apart)
        order = np.lexsort((candidates, squares), axis=1)[:, :k]
        return np.sqrt(np.take_along_axis(squares, order, axis=1)), np.take_along_axis(candidates, order, axis=1)

    def _tree(self) -> Any:
        from scipy.spatial import cKDTree

        return cKDTree(self.bank, leafsize=32, balanced_tree=False)

    def _brute(self) -> Any:
        from sklearn.neighbors import NearestNeighbors

        return NearestNeighbors(algorithm="brute").fit(self.bank)


def others(distance: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The k neighbours of the bank's own rows out of k + 1, `(m, k + 1)`: without the row itself, which, among more
    than k equal ones, may not be found; then without the last."""
    own = place == np.arange(len(place))[:, None]
    own[:, -1] |= ~own.any(axis=1)
    shape = (len(place), place.shape[1] - 1)
    return distance[~own].reshape(shape), place[~own].reshape(shape)
