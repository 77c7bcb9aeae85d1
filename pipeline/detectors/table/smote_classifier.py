"""Chawla et al.: SMOTE, JAIR 2002, for the balance; Ke et al.: LightGBM, NeurIPS 2017, for the learner
(scikit-learn's histogram gradient boosting).

Learns from labels: the few labelled anomalies of the training part, and those that `augment: {kind: smote}` makes
out of them. The score is the log-odds of being anomalous.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le

from pipeline.errors import DataError, NotFittedError
from pipeline.parts.columns import Columns
from pipeline.parts.trees import Trees
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals


@dataclass
class SmoteClassifier:
    """Gradient boosting on rows balanced by SMOTE, where some anomalies are labelled.

    Fitted with scikit-learn, kept and walked as plain arrays; equal to its `decision_function`."""

    # Boosting rounds, one tree each, at least 1; more fit the training rows more closely.
    rounds: Annotated[int, Ge(1), Le(10_000)] = 200
    # Share of each tree's correction that is applied, in (0, 1]; smaller needs more rounds.
    rate: Annotated[float, Gt(0), Le(1)] = 0.1
    # Leaves of a tree, at least 2; more allow more interplay between columns.
    leaves: Annotated[int, Ge(2)] = 31
    # Training rows that a leaf must hold, at least 1; more give smoother scores.
    leaf_rows: Annotated[int, Ge(1)] = 20
    # L2 penalty on the values of leaves, at least 0.
    l2: Annotated[float, Ge(0)] = 1.0
    # Seed of the binning of large tables, at least 0.
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = "Chawla, Bowyer, Hall, Kegelmeyer: SMOTE. JAIR 16, 2002"

    def fit(self, train: Samples) -> Self:
        """Boost on the rows of `train` with label 0 or 1. Raises DataError when one of them is absent."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        normals(train)
        if not (train.label == 1).any():
            raise DataError(
                "table/smote_classifier learns from labelled anomalies and the training part has none; give it some "
                "with split.anomalies.train, or use a detector that learns from normals"
            )
        labelled = train[train.label >= 0]
        frame = pd.concat([batch.x for batch in labelled.batches(1 << 16)])
        self.encoder_ = Columns().fit(frame)
        learner = HistGradientBoostingClassifier(
            max_iter=self.rounds,
            learning_rate=self.rate,
            max_leaf_nodes=self.leaves,
            max_depth=None,
            min_samples_leaf=self.leaf_rows,
            l2_regularization=self.l2,
            early_stopping=False,
            random_state=self.seed,
        ).fit(self.encoder_.transform(frame), labelled.label)
        self.trees_ = Trees.join([_tree(round_[0].nodes) for round_ in learner._predictors])
        self.base_ = float(learner._baseline_prediction[0, 0])  # log-odds of an anomaly among the training rows
        self.history_: list[dict[str, float]] = []
        return self

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 log-odds `(n,)`. Raises DataError for other columns or infinity."""
        self._check_fitted()
        return Scores(self.trees_.total(self.encoder_.transform(batch.x), self.base_).astype(np.float32))

    def state(self) -> State:
        self._check_fitted()
        return State(self.trees_.arrays(), {"columns": self.encoder_.meta(), "base": self.base_})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        self.trees_ = Trees.from_arrays(state.arrays, len(self.encoder_.features_))
        self.base_ = float(state.meta["base"])
        self.history_ = []
        return self

    def _check_fitted(self) -> None:
        if not hasattr(self, "trees_"):
            raise NotFittedError("table/smote_classifier must be fitted before it scores")


def _tree(nodes: np.ndarray) -> dict[str, np.ndarray]:
    """One tree of scikit-learn's booster (a structured array)."""
    names = {"left": "left", "right": "right", "threshold": "num_threshold", "value": "value"}
    feature = np.where(nodes["is_leaf"] == 1, -1, nodes["feature_idx"])
    return {"feature": feature, **{name: nodes[theirs] for name, theirs in names.items()}}
