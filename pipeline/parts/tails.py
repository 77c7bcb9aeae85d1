"""How far out in the tails of each column a value lies, by the empirical distribution of the normals: what ECOD and
COPOD count with (Li, Zhao, Hu, Botta, Ionescu, Chen: ECOD. TKDE 2022, equations 4 to 6)."""

from typing import Self

import numpy as np

from pipeline.errors import DataError


class Tails:
    """The sorted columns of m rows, float32 `(k, m)`, and the sign of each column's skewness, int8 `(k,)`."""

    def fit(self, x: np.ndarray) -> Self:
        """Learn from rows `x` (m, k)."""
        self.sorted_ = np.sort(x.T, axis=1)
        centred = x - x.mean(axis=0, dtype=np.float64)
        self.skew_ = np.sign((centred * centred * centred).mean(axis=0)).astype(np.int8)
        return self

    def of(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-log of the left and the right tail probability of each value of `x` (n, k), and of the tail that the
        skewness points at (left where it is negative): three float64 `(n, k)`.

        A row counts among the m it is compared with, so that beyond all of them the probability is 1 / (m + 1)."""
        m = self.sorted_.shape[1]
        left, right = np.empty(x.shape), np.empty(x.shape)
        for j, known in enumerate(self.sorted_):
            values = np.ascontiguousarray(x[:, j])
            left[:, j] = np.searchsorted(known, values, side="right")
            right[:, j] = m - np.searchsorted(known, values, side="left")
        left, right = (-np.log((count + 1) / (m + 1)) for count in (left, right))
        return left, right, np.where(self.skew_ < 0, left, right)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"sorted": self.sorted_, "skew": self.skew_}

    def from_arrays(self, arrays: dict[str, np.ndarray], columns: int) -> Self:
        """Take over what `arrays()` gave, for `columns` columns. Raises DataError when they do not fit."""
        self.sorted_, self.skew_ = arrays["sorted"], arrays["skew"]
        if self.sorted_.ndim != 2 or len(self.sorted_) != columns or self.skew_.shape != (columns,):
            raise DataError(f"sorted columns must be ({columns}, m), got {self.sorted_.shape}")
        return self
