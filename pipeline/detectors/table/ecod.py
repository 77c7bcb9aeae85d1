"""Li, Zhao, Hu, Botta, Ionescu, Chen: ECOD: Unsupervised Outlier Detection Using Empirical Cumulative Distribution
Functions. TKDE 2022.

A value far out in a tail of its column is odd; the columns count as independent. Nothing to choose.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge

from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.rows import by_column, drawn, learned
from pipeline.parts.tails import Tails
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals


@dataclass
class ECOD:
    """How far out the values of a row lie in the tails of their columns.

    The sum over columns of -log of the probability of the smaller tail."""

    # Where the larger of the tails is taken: for each `column` (as PyOD does), or for the `row` as a whole (as the
    # paper's algorithm 1, which compares the sums of the left, the right and the skewed tails).
    largest: Literal["column", "row"] = "column"
    # Normals kept, at least 1, drawn at random from more; memory grows with it.
    rows: Annotated[int, Ge(1)] = 50_000
    # Seed of that draw, at least 0.
    seed: Annotated[int, Ge(0)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "Li, Zhao, Hu, Botta, Ionescu, Chen: ECOD. TKDE 2022"

    def fit(self, train: Samples) -> Self:
        """Keep the columns of the normals of `train`, sorted. Raises DataError when there is none, or for infinity."""
        self.encoder_, x = learned(normals(train))
        self.tails_ = Tails().fit(drawn(x, self.rows, self.seed))
        self.history_: list[dict[str, float]] = []
        return self

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 `(n,)`, at least 0. Raises DataError for other columns or infinity."""
        return Scores(self._parts(batch).sum(axis=1).astype(np.float32))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """What each column adds to the score, `(n, c)`."""
        return by_column(self.encoder_, self._parts(batch), batch.x)

    def _parts(self, batch: Batch) -> np.ndarray:
        """The addends of the scores, float64 `(n, k)`."""
        must_be_fitted(self, "tails_")
        left, right, skewed = self.tails_.of(self.encoder_.transform(batch.x))
        if self.largest == "column":
            return np.maximum(left, right)
        each = np.stack([left, right, skewed])
        return each[each.sum(axis=2).argmax(axis=0), np.arange(len(left))]

    def state(self) -> State:
        must_be_fitted(self, "tails_")
        return State(self.tails_.arrays(), {"columns": self.encoder_.meta()})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        self.tails_ = Tails().from_arrays(state.arrays, len(self.encoder_.features_))
        self.history_ = []
        return self
