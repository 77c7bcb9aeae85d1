"""Mahalanobis: On the Generalised Distance in Statistics. Proceedings of the National Institute of Sciences of India
1936.

A Gaussian around the normals; the score is d^2 = (x - m)' S^-1 (x - m). S is shrunk towards a sphere (Ledoit, Wolf: A
Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Journal of Multivariate Analysis 2004), or the
covariance of the most concentrated half, reweighted (Rousseeuw, Van Driessen: A Fast Algorithm for the Minimum
Covariance Determinant Estimator, Technometrics 1999). Both are scikit-learn's.
"""

import warnings
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Le

from pipeline.errors import DataError
from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.rows import by_column, drawn, learned
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

BLOCK = 1 << 22  # values scored at a time (32 MB each)
SINGULAR = 1e-12  # smallest variance in any direction, as a share of the largest, below which there is no inverse
MOST = float(np.finfo(np.float32).max)


@dataclass
class Mahalanobis:
    """Distance to the mean of the normals, in deviations of the direction.

    Squared: about k on average for normals of k encoded columns."""

    # `shrunk` learns from all normals and takes more columns than rows; `robust` lets up to half of the normals be
    # anomalous, and needs more rows than columns, none of which the others determine.
    covariance: Literal["shrunk", "robust"] = "shrunk"
    # Normals that `robust` learns from, at least 2, drawn at random from more; time grows with it.
    rows: Annotated[int, Ge(2)] = 10_000
    # Seed of that draw and of the subsets where `robust` starts, at least 0.
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "Mahalanobis: On the Generalised Distance in Statistics. 1936"

    def fit(self, train: Samples) -> Self:
        """Estimate mean and covariance of the normals of `train`.

        Raises DataError for too few of them, for columns that leave the covariance without an inverse, or infinity."""
        encoder, rows = learned(normals(train))
        x = rows.astype(np.float64)
        if len(x) < 2:
            raise DataError(f"table/mahalanobis needs at least 2 normals, got {len(x)}")
        mean, covariance = self._shrunk(x) if self.covariance == "shrunk" else self._robust(x)
        variance, directions = np.linalg.eigh(covariance)
        if variance[0] <= SINGULAR * variance[-1]:
            raise DataError(self._why_singular(x, encoder))
        self.encoder_, self.mean_ = encoder, mean
        self.precision_ = (directions / variance) @ directions.T
        self.history_: list[dict[str, float]] = []
        return self

    def _shrunk(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.covariance import ledoit_wolf

        mean = x.mean(axis=0)
        return mean, ledoit_wolf(x - mean, assume_centered=True)[0]

    def _robust(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.covariance import MinCovDet

        x = drawn(x, self.rows, self.seed)
        n, k = x.shape
        if n <= k:
            raise DataError(
                f"table/mahalanobis.covariance: robust needs more normals than encoded columns, {k}, got {n}; shrunk "
                "does not"
            )
        with warnings.catch_warnings():  # of a singular covariance, which `fit` refuses
            warnings.simplefilter("ignore")
            found = MinCovDet(random_state=self.seed).fit(x)
        return found.location_, found.covariance_

    def _why_singular(self, x: np.ndarray, encoder: Columns) -> str:
        """Why the covariance of encoded rows (n, k) has no inverse."""
        if self.covariance == "shrunk":
            return f"table/mahalanobis needs at least 3 normals that differ, got too few among {len(x)}"
        ordered = np.sort(x, axis=0)
        half = len(x) // 2
        still = np.flatnonzero((ordered[half:] == ordered[: len(x) - half]).any(axis=0))  # half of the rows alike
        came = f"{encoder.features_[still[0]]!r}, which does not" if len(still) else "some that others determine"
        return (
            "table/mahalanobis.covariance: robust needs columns that vary, each for itself, among half of the normals, "
            f"got {came}; shrunk takes any"
        )

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 squared distances `(n,)`. Raises DataError for other columns or infinity."""
        must_be_fitted(self, "precision_")
        x = self.encoder_.transform(batch.x)
        step = max(1, BLOCK // x.shape[1])
        raw = [self._parts(x[start : start + step]).sum(axis=1) for start in range(0, max(1, len(x)), step)]
        return Scores(np.concatenate(raw).clip(0, MOST).astype(np.float32))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """What each column adds to each score: float32 `(n, c)`. Exact: a row's values add up to its d^2.

        (x - m)_i (S^-1 (x - m))_i, negative where a column makes the others more plausible."""
        must_be_fitted(self, "precision_")
        parts = self._parts(self.encoder_.transform(batch.x))
        return by_column(self.encoder_, parts.clip(-MOST, MOST), batch.x)

    def _parts(self, x: np.ndarray) -> np.ndarray:
        """The addends of d^2 of encoded rows (n, k): float64 `(n, k)`."""
        away = x.astype(np.float64) - self.mean_
        return away * (away @ self.precision_)

    def state(self) -> State:
        must_be_fitted(self, "precision_")
        return State({"mean": self.mean_, "precision": self.precision_}, {"columns": self.encoder_.meta()})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        k = len(self.encoder_.features_)
        for name, shape in {"mean": (k,), "precision": (k, k)}.items():
            if state.arrays[name].shape != shape:
                raise DataError(f"{name} must be {shape}, got {state.arrays[name].shape}")
        self.mean_, self.precision_ = state.arrays["mean"], state.arrays["precision"]
        self.history_ = []
        return self
