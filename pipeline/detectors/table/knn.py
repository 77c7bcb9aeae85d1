"""Ramaswamy, Rastogi, Shim: Efficient Algorithms for Mining Outliers from Large Data Sets. SIGMOD 2000.

A row is as anomalous as it is far from the normal rows nearest to it: the distance to the k-th of them
(section 2.1) or the mean over all k (Angiulli, Pizzuti: Fast Outlier Detection in High Dimensional Spaces, PKDD 2002).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge

from pipeline.errors import DataError, NotFittedError
from pipeline.parts.columns import Columns
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

BLOCK = 1 << 23  # distances held at a time (64 MB)
SPARE = 8  # candidates beyond k, so that rounding in the fast search cannot lose a neighbour


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
        good = normals(train)
        frame = pd.concat([batch.x for batch in good.batches(1 << 16)])
        self.encoder_ = Columns().fit(frame)
        bank = self.encoder_.transform(frame)
        if len(bank) > self.rows:
            bank = bank[np.sort(np.random.default_rng(self.seed).choice(len(bank), self.rows, replace=False))]
        if len(bank) < self.neighbours:
            raise DataError(
                f"table/knn.neighbours must be at most the number of normals it keeps, {len(bank)}, "
                f"got {self.neighbours}"
            )
        self.bank_ = bank
        self.history_: list[dict[str, float]] = []
        return self

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 distances `(n,)`. Raises DataError for other columns or infinity."""
        self._check_fitted()
        x = self.encoder_.transform(batch.x).astype(np.float64)
        bank = self.bank_.astype(np.float64)
        squares = (bank**2).sum(axis=1)
        step = max(1, BLOCK // len(bank))
        found = [self._distances(x[start : start + step], bank, squares) for start in range(0, len(x), step)]
        near = np.concatenate(found) if found else np.zeros((0, self.neighbours))
        return Scores((near.mean(axis=1) if self.distance == "mean" else near[:, -1]).astype(np.float32))

    def _distances(self, x: np.ndarray, bank: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """The distances of `x` (n, d) to its k nearest rows of `bank` (m, d), ascending: float64 `(n, k)`.

        Candidates come from |b|^2 - 2xb, which rounds differently in blocks of different size; their distances
        are then taken from the differences, so that the scores do not depend on the batch."""
        count = min(self.neighbours + SPARE, len(bank))
        rough = squares[None, :] - 2 * (x @ bank.T)
        candidates = np.argpartition(rough, count - 1, axis=1)[:, :count]
        exact = np.stack([((bank[candidates[:, j]] - x) ** 2).sum(axis=1) for j in range(count)], axis=1)
        return np.sqrt(np.sort(exact, axis=1)[:, : self.neighbours])

    def state(self) -> State:
        self._check_fitted()
        return State({"bank": self.bank_}, {"columns": self.encoder_.meta()})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        self.bank_ = state.arrays["bank"]
        if self.bank_.ndim != 2 or self.bank_.shape[1] != len(self.encoder_.features_):
            raise DataError(f"bank must be (m, {len(self.encoder_.features_)}), got {self.bank_.shape}")
        self.history_ = []
        return self

    def _check_fitted(self) -> None:
        if not hasattr(self, "bank_"):
            raise NotFittedError("table/knn must be fitted before it scores")
