"""Chawla et al.: SMOTE, JAIR 2002, for the balance; Ke et al.: LightGBM, NeurIPS 2017, for the learner
(scikit-learn's histogram gradient boosting).

Learns from labels: the few labelled anomalies of the training part, and those that `augment: {kind: smote}` makes
out of them. With `normals_per_anomaly` as well this is the paper's combination (section 4.2): anomalies are added, then
normals are left out at random. The learner does that, so that candidates of the same line that learn from normals keep
all of them. The score is the log-odds of being anomalous.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le

from pipeline.errors import DataError
from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.rows import ablation, learned
from pipeline.parts.trees import Trees
from pipeline.protocols import ANOMALOUS, Batch, Samples, Scores, State
from pipeline.samples import normals, presumed_normal


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
    # Normals kept per anomaly, synthetic ones counted, above 0: the rest is left out at random; null keeps all.
    normals_per_anomaly: Annotated[float, Gt(0)] | None = None
    # `balanced` gives normals and anomalies equal weight in sum, however many there are; `none` each row the same.
    weights: Literal["none", "balanced"] = "none"
    # Seed of the normals that are kept and of the binning of large tables, at least 0.
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = "Chawla, Bowyer, Hall, Kegelmeyer: SMOTE. JAIR 16, 2002"

    def fit(self, train: Samples) -> Self:
        """Boost on the anomalies of `train` and on what stands for normal in it: rows labelled so, or those of unknown
        label where none is. Raises DataError when one of the two is absent."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        normals(train)
        anomalous = train.label == ANOMALOUS
        if not anomalous.any():
            raise DataError(
                "table/smote_classifier learns from labelled anomalies and the training part has none; give it some "
                "with split.anomalies.train, or use a detector that learns from normals"
            )
        used = presumed_normal(train.label) | anomalous
        self.encoder_, x = learned(train[used])
        label = anomalous[used].astype(np.int8)
        kept = self._kept(label)
        learner = HistGradientBoostingClassifier(
            max_iter=self.rounds,
            learning_rate=self.rate,
            max_leaf_nodes=self.leaves,
            max_depth=None,
            min_samples_leaf=self.leaf_rows,
            l2_regularization=self.l2,
            class_weight=None if self.weights == "none" else self.weights,
            early_stopping=False,
            random_state=self.seed,
        ).fit(x[kept], label[kept])
        self.trees_ = Trees.join([_tree(round_[0].nodes) for round_ in learner._predictors])
        self.base_ = float(learner._baseline_prediction[0, 0])  # log-odds of an anomaly among the training rows
        self.history_: list[dict[str, float]] = []
        return self

    def _kept(self, label: np.ndarray) -> np.ndarray:
        """Which rows to learn from, int, in their order: all anomalies, and normals as many as wanted, at least 1."""
        anomalies = int(label.sum())
        good = len(label) - anomalies
        wanted = good if self.normals_per_anomaly is None else max(1, round(self.normals_per_anomaly * anomalies))
        if wanted >= good:
            return np.arange(len(label))
        from imblearn.under_sampling import RandomUnderSampler

        sampler = RandomUnderSampler(sampling_strategy={0: wanted}, random_state=self.seed)
        sampler.fit_resample(np.zeros((len(label), 1)), label)
        return np.sort(sampler.sample_indices_)

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 log-odds `(n,)`. Raises DataError for other columns or infinity."""
        must_be_fitted(self, "trees_")
        return Scores(self._log_odds(batch.x))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """How much lower the log-odds of each row are without each column: float32 `(n, c)`, see `rows.ablation`."""
        must_be_fitted(self, "trees_")
        return ablation(self._log_odds, self.encoder_, batch.x)

    def _log_odds(self, frame: pd.DataFrame) -> np.ndarray:
        return self.trees_.total(self.encoder_.transform(frame), self.base_).astype(np.float32)

    def state(self) -> State:
        must_be_fitted(self, "trees_")
        return State(self.trees_.arrays(), {"columns": self.encoder_.meta(), "base": self.base_})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        self.trees_ = Trees.from_arrays(state.arrays, len(self.encoder_.features_))
        self.base_ = float(state.meta["base"])
        self.history_ = []
        return self


def _tree(nodes: np.ndarray) -> dict[str, np.ndarray]:
    """One tree of scikit-learn's booster (a structured array)."""
    names = {"left": "left", "right": "right", "threshold": "num_threshold", "value": "value"}
    feature = np.where(nodes["is_leaf"] == 1, -1, nodes["feature_idx"])
    return {"feature": feature, **{name: nodes[theirs] for name, theirs in names.items()}}
