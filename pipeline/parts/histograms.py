"""A histogram of each column: what HBOS counts with (Goldstein, Dengel: Histogram-Based Outlier Score. KI 2012)."""

from typing import Self

import numpy as np

from pipeline.errors import DataError


class Histograms:
    """k columns in `bins` bins of equal width: densities float64 `(k, bins)`, lower ends and widths float64 `(k,)`."""

    def fit(self, x: np.ndarray, bins: int) -> Self:
        """Learn from rows `x` (m, k). A constant column has one bin of width 1 around its value, as numpy has it."""
        columns = x.astype(np.float64).T
        low, high = columns.min(axis=1), columns.max(axis=1)
        low, high = np.where(low == high, low - 0.5, low), np.where(low == high, high + 0.5, high)
        self.low_, self.width_ = low, (high - low) / bins
        place, _ = self._places(x, bins)
        counts = np.stack([np.bincount(column, minlength=bins) for column in place.T])
        self.density_ = counts / (len(x) * self.width_[:, None])
        return self

    def of(self, x: np.ndarray) -> np.ndarray:
        """The density at each value of `x` (n, k): float64 `(n, k)`, 0 outside by more than half a bin."""
        bins = self.density_.shape[1]
        place, outside = self._places(x, bins)
        return np.where(outside > 0.5, 0.0, np.take_along_axis(self.density_.T, place, axis=0))

    def _places(self, x: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
        """The bin of each value, int64 `(n, k)`, and how many bins outside it lies, float64 `(n, k)`."""
        at = (x - self.low_) / self.width_
        return np.clip(at, 0, bins - 1).astype(np.int64), np.maximum(-at, at - bins)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"density": self.density_, "low": self.low_, "width": self.width_}

    def from_arrays(self, arrays: dict[str, np.ndarray], columns: int) -> Self:
        """Take over what `arrays()` gave, for `columns` columns. Raises DataError when they do not fit."""
        self.density_, self.low_, self.width_ = (arrays[name] for name in ("density", "low", "width"))
        if self.density_.ndim != 2 or not len(self.density_) == len(self.low_) == len(self.width_) == columns:
            raise DataError(f"densities must be ({columns}, bins), got {self.density_.shape}")
        return self
