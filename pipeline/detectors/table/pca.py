"""Shyu, Chen, Sarinnapakorn, Chang: A Novel Anomaly Detection Scheme Based on Principal Component Classifier. ICDM
workshop on Foundations and New Directions of Data Mining 2003.

The principal components of the correlation matrix say along which directions the normals vary and how much; a row
that moves along the others is anomalous. `hyperplanes` is the paper's measure; `eigenvectors`, the default, is what
PyOD's PCA computes and follows, where columns are many, little more than the length of the standardised row.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le

from pipeline.errors import DataError
from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.rows import by_column, learned
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

BLOCK = 1 << 22  # values scored at a time (32 MB each for rows and distances)
FLAT = 1e-10  # share of the largest variance below which a component is rounding of float32, and left out
MOST = float(np.finfo(np.float32).max)


@dataclass
class PCA:
    """Rows that leave the directions in which normals vary.

    Encoded columns are standardised once more, so that texts and switches weigh as much as numbers."""

    # Share of the variance that the major components together explain at least, in (0, 1]; 1 takes all, the paper 0.5.
    components: Annotated[float, Gt(0), Le(1)] = 1.0
    # Components of less variance than this count too, at least 0 (a column has variance 1); the paper takes 0.2.
    minor: Annotated[float, Ge(0)] = 0.0
    # `eigenvectors`: distances to the unit eigenvectors, each over its share of the variance; `hyperplanes`: squared
    # distances to the planes through the mean across them, each over its variance.
    distance: Literal["eigenvectors", "hyperplanes"] = "eigenvectors"

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "Shyu, Chen, Sarinnapakorn, Chang: Principal Component Classifier. ICDM workshop 2003"

    def fit(self, train: Samples) -> Self:
        """Find the components of the normals of `train`. Raises DataError when no column varies, or for infinity."""
        encoder, rows = learned(normals(train))
        x = rows.astype(np.float64)
        mean, spread = x.mean(axis=0), x.std(axis=0)
        flat = spread <= np.finfo(np.float32).eps * np.abs(x).max(axis=0)
        if flat.all():
            raise DataError(
                f"table/pca needs normals that differ in at least one column, got {len(x)} of them that do not"
            )
        spread = np.where(flat, 1.0, spread)
        variance, vectors = _components((x - mean) / spread)
        share = variance / variance.sum()
        major = np.cumsum(share) - share < self.components * (1 - 1e-12)  # what came before does not suffice yet
        kept = (variance > FLAT * variance[0]) & (major | (variance < self.minor))
        self.encoder_, self.mean_, self.spread_ = encoder, mean, spread
        self.variance_, self.share_, self.vectors_ = variance[kept], share[kept], vectors[kept]
        self.history_: list[dict[str, float]] = []
        return self

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 `(n,)`, at least 0. Raises DataError for other columns or infinity."""
        must_be_fitted(self, "vectors_")
        x = self.encoder_.transform(batch.x)
        step = max(1, BLOCK // x.shape[1])
        raw = [self._raw(x[start : start + step]) for start in range(0, max(1, len(x)), step)]
        return Scores(np.minimum(np.concatenate(raw), MOST).astype(np.float32))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """What each column adds to each score: float32 `(n, c)`. Exact: a row's values add up to its score.

        A distance to an eigenvector, |z - v|, is split by (z_i - v_i)^2 / |z - v|; a squared distance to a
        hyperplane, (vz)^2, by z_i v_i (vz), which may be negative."""
        must_be_fitted(self, "vectors_")
        z = self._standardised(self.encoder_.transform(batch.x))
        if self.distance == "hyperplanes":
            parts = z * ((z @ self.vectors_.T / self.variance_) @ self.vectors_)
        else:
            away = self._away(z)
            each = np.divide(1 / self.share_, away, out=np.zeros_like(away), where=away > 0)
            parts = z**2 * each.sum(axis=1, keepdims=True) - 2 * z * (each @ self.vectors_) + each @ self.vectors_**2
        return by_column(self.encoder_, parts.clip(-MOST, MOST), batch.x)

    def _raw(self, x: np.ndarray) -> np.ndarray:
        """Scores of encoded rows (n, k): float64 `(n,)`."""
        z = self._standardised(x)
        if self.distance == "hyperplanes":
            return ((z @ self.vectors_.T) ** 2 / self.variance_).sum(axis=1)
        return (self._away(z) / self.share_).sum(axis=1)

    def _away(self, z: np.ndarray) -> np.ndarray:
        """Distances of standardised rows (n, k) to the q unit eigenvectors: float64 `(n, q)`."""
        squares = (z**2).sum(axis=1, keepdims=True) - 2 * (z @ self.vectors_.T) + 1
        return np.sqrt(squares.clip(min=0))

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        return (x.astype(np.float64) - self.mean_) / self.spread_

    def state(self) -> State:
        must_be_fitted(self, "vectors_")
        names = ("mean", "spread", "variance", "share", "vectors")
        return State({name: getattr(self, f"{name}_") for name in names}, {"columns": self.encoder_.meta()})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        arrays, k = state.arrays, len(self.encoder_.features_)
        q = len(arrays["variance"])
        wanted = {"mean": (k,), "spread": (k,), "variance": (q,), "share": (q,), "vectors": (q, k)}
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                raise DataError(f"{name} must be {shape}, got {arrays[name].shape}")
        self.mean_, self.spread_ = arrays["mean"], arrays["spread"]
        self.variance_, self.share_, self.vectors_ = arrays["variance"], arrays["share"], arrays["vectors"]
        self.history_ = []
        return self


def _components(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances `(q,)`, descending, and unit eigenvectors `(q, k)` of centred rows `z` (n, k), q = min(n, k).

    An eigenvector's sign is arbitrary, yet a distance to it depends on it: its largest entry is made positive."""
    n, k = z.shape
    if n < k:
        _, singular, vectors = np.linalg.svd(z, full_matrices=False)
        variance = singular**2 / n
    else:
        ascending, columns = np.linalg.eigh(z.T @ z / n)
        variance, vectors = ascending[::-1].clip(min=0), columns[:, ::-1].T
    largest = vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)]
    return variance, vectors * np.where(largest < 0, -1.0, 1.0)[:, None]
