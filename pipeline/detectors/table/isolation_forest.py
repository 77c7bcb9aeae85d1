"""Liu, Ting, Zhou: Isolation Forest. ICDM 2008 (scikit-learn's implementation).

Trees cut the table at random; a row that few cuts set apart from all others is anomalous. The score is
s = 2^(-E[h(x)] / c(psi)) (equation 2), in (0, 1).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le

from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.isolation import isolating, isolation
from pipeline.parts.rows import ablation, learned
from pipeline.parts.trees import Trees
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals


@dataclass
class IsolationForest:
    """Random trees that need few cuts to set an odd row apart.

    Fitted with scikit-learn, kept and walked as plain arrays; equal to scikit-learn's `-score_samples`."""

    # Number of trees, at least 1; more give steadier scores and take proportionally longer.
    trees: Annotated[int, Ge(1), Le(10_000)] = 200
    # Normal rows that each tree sees (psi), at least 2; fewer than this are all used.
    rows: Annotated[int, Ge(2)] = 256
    # Share of the encoded columns that each tree may cut, in (0, 1].
    columns: Annotated[float, Gt(0), Le(1)] = 1.0
    # Seed of the random cuts, at least 0.
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "Liu, Ting, Zhou: Isolation Forest. ICDM 2008"

    def fit(self, train: Samples) -> Self:
        """Grow the trees on the normals of `train`. Raises DataError when there is none, or for infinity."""
        self.encoder_, x = learned(normals(train))
        self.trees_, self.scale_ = isolating(x, self.trees, self.rows, self.columns, self.seed)
        self.history_: list[dict[str, float]] = []
        return self

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 `(n,)` in (0, 1). Raises DataError for other columns or infinity."""
        must_be_fitted(self, "trees_")
        return Scores(self._score(batch.x))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """How much lower the score is with one column at its median or commonest text, `(n, c)` (see `ablation`)."""
        must_be_fitted(self, "trees_")
        return ablation(self._score, self.encoder_, batch.x)

    def _score(self, frame: pd.DataFrame) -> np.ndarray:
        return isolation(self.trees_, self.scale_, self.encoder_.transform(frame))

    def state(self) -> State:
        must_be_fitted(self, "trees_")
        return State(self.trees_.arrays(), {"columns": self.encoder_.meta(), "scale": self.scale_})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        self.trees_ = Trees.from_arrays(state.arrays, len(self.encoder_.features_))
        self.scale_ = float(state.meta["scale"])
        self.history_ = []
        return self
