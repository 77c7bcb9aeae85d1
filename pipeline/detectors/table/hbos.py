"""Goldstein, Dengel: Histogram-Based Outlier Score (HBOS): A Fast Unsupervised Anomaly Detection Algorithm. KI 2012.

A histogram for each column; a row in thin bins is odd, the columns count as independent (equation 1).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le

from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.histograms import Histograms
from pipeline.parts.rows import by_column, learned
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals


@dataclass
class HBOS:
    """The sum over columns of -log2 of the density where the value lies, in bins of equal width."""

    # Bins of a column, at least 1; more tell finer, and need more rows.
    bins: Annotated[int, Ge(1), Le(10_000)] = 10
    # Added to every density (per standard deviation), above 0; larger makes empty bins matter less.
    floor: Annotated[float, Gt(0)] = 0.1

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "Goldstein, Dengel: Histogram-Based Outlier Score (HBOS). KI 2012"

    def fit(self, train: Samples) -> Self:
        """Count the normals of `train`. Raises DataError when there is none, or for infinity."""
        self.encoder_, x = learned(normals(train))
        self.histograms_ = Histograms().fit(x, self.bins)
        self.history_: list[dict[str, float]] = []
        return self

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 `(n,)`. Raises DataError for other columns or infinity."""
        return Scores(self._parts(batch).sum(axis=1).astype(np.float32))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """What each column adds to the score, `(n, c)`."""
        return by_column(self.encoder_, self._parts(batch), batch.x)

    def _parts(self, batch: Batch) -> np.ndarray:
        """The addends of the scores, float64 `(n, k)`."""
        must_be_fitted(self, "histograms_")
        return -np.log2(self.histograms_.of(self.encoder_.transform(batch.x)) + self.floor)

    def state(self) -> State:
        must_be_fitted(self, "histograms_")
        return State(self.histograms_.arrays(), {"columns": self.encoder_.meta()})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        self.histograms_ = Histograms().from_arrays(state.arrays, len(self.encoder_.features_))
        self.history_ = []
        return self
