"""Ramaswamy, Rastogi, Shim: Efficient Algorithms for Mining Outliers from Large Data Sets. SIGMOD 2000.

A row is as anomalous as it is far from the normal rows nearest to it: the distance to the k-th of them
(section 2.1) or the mean over all k (Angiulli, Pizzuti: Fast Outlier Detection in High Dimensional Spaces, PKDD 2002).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge

from pipeline.errors import DataError
from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.nearest import Nearest
from pipeline.parts.rows import by_column, drawn, learned
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals


@dataclass
class KNN:
    """Distance to the nearest normal rows.

    Euclidean, in encoded columns, to the normals that `bank_` keeps."""

    # Number k of neighbours, at least 1; more smooth the score.
    neighbours: Annotated[int, Ge(1)] = 5
    # `mean` of the k distances, or the `largest` of them.
    distance: Literal["mean", "largest"] = "mean"
    # Normals kept, at least 1, drawn at random from more; memory and time grow with it.
    rows: Annotated[int, Ge(1)] = 50_000
    # Seed of that draw, at least 0.
    seed: Annotated[int, Ge(0)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "Ramaswamy, Rastogi, Shim: Efficient Algorithms for Mining Outliers. SIGMOD 2000"

    def fit(self, train: Samples) -> Self:
        """Keep the normals of `train`. Raises DataError when there are fewer than k, or for infinity."""
        self.encoder_, x = learned(normals(train))
        bank = drawn(x, self.rows, self.seed)
        if len(bank) < self.neighbours:
            raise DataError(
                f"table/knn.neighbours must be at most the number of normals it keeps, {len(bank)}, "
                f"got {self.neighbours}"
            )
        self._keep(bank)
        return self

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 distances `(n,)`. Raises DataError for other columns or infinity."""
        must_be_fitted(self, "bank_")
        near, _ = self._nearest.of(self.encoder_.transform(batch.x), self.neighbours)
        return Scores((near.mean(axis=1) if self.distance == "mean" else near[:, -1]).astype(np.float32))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """What each column adds to the score, `(n, c)`: a distance d is the sum of (x_j - b_j)^2 / d."""
        must_be_fitted(self, "bank_")
        x = self.encoder_.transform(batch.x)
        near, place = self._nearest.of(x, self.neighbours)
        if self.distance == "largest":
            near, place = near[:, -1:], place[:, -1:]
        parts = np.zeros(x.shape)
        for distance, which in zip(near.T, place.T, strict=True):
            apart = x.astype(np.float64) - self.bank_[which]
            parts += apart**2 / np.where(distance > 0, distance, 1)[:, None]
        return by_column(self.encoder_, parts / near.shape[1], batch.x)

    def state(self) -> State:
        must_be_fitted(self, "bank_")
        return State({"bank": self.bank_}, {"columns": self.encoder_.meta()})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        bank = state.arrays["bank"]
        if bank.ndim != 2 or bank.shape[1] != len(self.encoder_.features_):
            raise DataError(f"bank must be (m, {len(self.encoder_.features_)}), got {bank.shape}")
        self._keep(bank)
        return self

    def _keep(self, bank: np.ndarray) -> None:
        self.bank_ = bank
        self._nearest = Nearest(bank)
        self.history_: list[dict[str, float]] = []
