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
from pipeline.parts.isolation import expected_path
from pipeline.parts.rows import ablation, learned, must_be_fitted
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
        from sklearn.ensemble import IsolationForest as Forest

        self.encoder_, x = learned(normals(train))
        psi = min(self.rows, len(x))
        forest = Forest(
            n_estimators=self.trees, max_samples=psi, max_features=self.columns, random_state=self.seed
        ).fit(x)
        grown = zip(forest.estimators_, forest.estimators_features_, strict=True)
        self.trees_ = Trees.join([_tree(estimator.tree_, features) for estimator, features in grown])
        self.scale_ = len(forest.estimators_) * float(expected_path(np.array([psi]))[0])
        self.history_: list[dict[str, float]] = []
        return self

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 `(n,)` in (0, 1). Raises DataError for other columns or infinity."""
        must_be_fitted(self, "trees_", "table/isolation_forest")
        return Scores(self._score(batch.x))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """How much lower the score is with one column at its median or commonest text, `(n, c)` (see `ablation`)."""
        must_be_fitted(self, "trees_", "table/isolation_forest")
        return ablation(self._score, self.encoder_, batch.x)

    def _score(self, frame: pd.DataFrame) -> np.ndarray:
        depths = self.trees_.total(self.encoder_.transform(frame))
        # One training row leaves nothing to cut: every row then counts as average, as in scikit-learn.
        relative = depths / self.scale_ if self.scale_ else np.ones_like(depths)
        return 2.0 ** -relative.astype(np.float32)

    def state(self) -> State:
        must_be_fitted(self, "trees_", "table/isolation_forest")
        return State(self.trees_.arrays(), {"columns": self.encoder_.meta(), "scale": self.scale_})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        self.trees_ = Trees.from_arrays(state.arrays, len(self.encoder_.features_))
        self.scale_ = float(state.meta["scale"])
        self.history_ = []
        return self


def _tree(tree: object, features: np.ndarray) -> dict[str, np.ndarray]:
    """One scikit-learn tree; a leaf's value is its depth plus c of the rows it holds (algorithm 3)."""
    left, right = tree.children_left, tree.children_right  # type: ignore[attr-defined]
    inner = left >= 0
    depth = np.zeros(len(left))
    for _ in range(tree.max_depth):  # type: ignore[attr-defined]
        depth[left[inner]] = depth[right[inner]] = depth[inner] + 1
    cut = tree.feature  # type: ignore[attr-defined]
    return {
        "feature": np.where(inner, features[np.where(inner, cut, 0)], -1),
        "threshold": tree.threshold,  # type: ignore[attr-defined]
        "left": left,
        "right": right,
        "value": depth + expected_path(tree.n_node_samples),  # type: ignore[attr-defined]
    }
