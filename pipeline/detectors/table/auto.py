"""A small portfolio and a rule that uses no test label: for who does not know which detector suits a table.

Without labelled anomalies: the sum of four unlike detectors (pipeline/parts/portfolio.py), of which those are left out
that two halves of the rows fit differently, or that contradict the others. This is agreement and stability, not
accuracy: nothing without labels can tell that a detector is right.

With labelled anomalies two learners are added, as in Zhao, Hryniewicki: XGBOD (IJCNN 2018) on the columns and on what
the four say: logistic regression with a strong L2 penalty, and extremely randomised trees (Geurts, Ernst, Wehenkel
2006). From five labelled anomalies on, scores of rows that the learners did not see choose between the four, the
learners, and both; with fewer it is both.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Le

from pipeline.errors import DataError
from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.portfolio import MEMBERS, Portfolio
from pipeline.parts.rows import ablation, drawn, learned, read
from pipeline.parts.supervised import Learners, auroc
from pipeline.protocols import ANOMALOUS, Batch, Samples, Scores, State
from pipeline.samples import normals

FOLDS = 5  # of the labelled rows, and labelled anomalies from which a choice is made
ALIKE = 3  # labelled anomalies up to which the four count as much as a learner
CHOICES = ("unsupervised", "labels", "both")


@dataclass
class Auto:
    """Four unlike detectors together, with two learners beside them where some anomalies are labelled.

    Isolation forest, histograms, nearest rows and Mahalanobis distance; `chosen_` says which of `unsupervised`,
    `labels` and `both` scores."""

    # Normals learned from, at least 2, drawn at random from more; time and memory grow with it.
    rows: Annotated[int, Ge(2)] = 20_000
    # Seed of everything random here, at least 0.
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = (
        "Zhao, Hryniewicki: XGBOD. IJCNN 2018; Fisher: Statistical Methods for Research Workers. 1932"
    )

    def fit(self, train: Samples) -> Self:
        """Learn from the normals of `train`, and from its labelled anomalies where there are any.

        Raises DataError for fewer than 2 normals, or for infinity."""
        self.encoder_, x = learned(normals(train))
        x = drawn(x, self.rows, self.seed)
        if len(x) < 2:
            raise DataError(f"table/auto needs at least 2 normal rows, got {len(x)}")
        self.portfolio_ = Portfolio().fit(x, self.seed)
        self.learners_, self.chosen_ = None, CHOICES[0]
        found = {f"stability.{name}": float(v) for name, v in zip(MEMBERS, self.portfolio_.stability_, strict=True)}
        found |= {f"agreement.{name}": float(v) for name, v in zip(MEMBERS, self.portfolio_.agreement_, strict=True)}
        odd = train[train.label == ANOMALOUS]
        if len(odd):
            found |= self._labels(x, self.encoder_.transform(read(odd)))
        self.history_: list[dict[str, float]] = [found]
        return self

    def _labels(self, x: np.ndarray, odd: np.ndarray) -> dict[str, float]:
        """Learn from normals `x` (m, k) and anomalies `odd` (a, k); choose. What held-out rows said of each choice."""
        rows, label = np.concatenate([x, odd]), np.repeat([0, 1], [len(x), len(odd)])
        scores = np.concatenate([self.portfolio_.own_, self.portfolio_.scores(odd)], axis=1)
        tails = self.portfolio_.tails(scores)
        alone = tails[self.portfolio_.kept_].sum(axis=0)
        self.learners_ = Learners().fit(rows, tails, label, self.seed)
        self._known(alone[: len(x)], self.learners_.score(x, tails[:, : len(x)]))
        self.weight_, self.chosen_ = min(1.0, ALIKE / len(odd)), CHOICES[2]
        if len(odd) < FOLDS:
            return {}
        order = np.random.default_rng(self.seed).permutation(len(rows))
        fold = np.empty(len(rows), np.int64)
        for kind in (0, 1):
            at = order[label[order] == kind]
            fold[at] = np.arange(len(at)) % FOLDS
        held = np.empty((len(rows), len(self.learners_.names)))
        for number in range(FOLDS):
            out = fold == number
            learners = Learners().fit(rows[~out], tails[:, ~out], label[~out], self.seed)
            held[out] = learners.score(rows[out], tails[:, out])
        judged = {name: auroc(label, self._sum(name, alone, held)) for name in CHOICES}
        self.chosen_ = max(judged, key=lambda name: judged[name])
        return {f"held_out_auroc.{name}": value for name, value in judged.items()}

    def _known(self, alone: np.ndarray, learned_: np.ndarray) -> None:
        """Keep the sorted scores of the normals, float64 `(3, m)`: what makes tails of scores."""
        self.known_ = np.sort(np.column_stack([alone, learned_]).T, axis=1)

    def _sum(self, name: str, alone: np.ndarray, held: np.ndarray) -> np.ndarray:
        """What a choice says of rows that the four score `alone` (n,) and the learners `held` (n, 2)."""
        if name == CHOICES[0]:
            return alone
        own = [_tail(known, one) for known, one in zip(self.known_, (alone, *held.T), strict=True)]
        return own[1] + own[2] + (self.weight_ * own[0] if name == CHOICES[2] else 0.0)

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 `(n,)`. Raises DataError for other columns or infinity."""
        must_be_fitted(self, "portfolio_")
        return Scores(self._score(batch.x))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """How much lower the score is with one column at its median or commonest text, `(n, c)` (see `ablation`)."""
        must_be_fitted(self, "portfolio_")
        return ablation(self._score, self.encoder_, batch.x)

    def _score(self, frame: pd.DataFrame) -> np.ndarray:
        x = self.encoder_.transform(frame)
        scores = self.portfolio_.scores(x)
        alone = self.portfolio_.together(scores)
        if self.learners_ is None or self.chosen_ == CHOICES[0]:
            return alone.astype(np.float32)
        held = self.learners_.score(x, self.portfolio_.tails(scores))
        return self._sum(self.chosen_, alone, held).astype(np.float32)

    def state(self) -> State:
        must_be_fitted(self, "portfolio_")
        arrays = {f"portfolio/{name}": array for name, array in self.portfolio_.arrays().items()}
        meta = {"columns": self.encoder_.meta(), "chosen": self.chosen_, "history": self.history_}
        if self.learners_ is not None:
            arrays |= {f"learners/{name}": array for name, array in self.learners_.arrays().items()}
            arrays["known"], meta["weight"] = self.known_, self.weight_
        return State(arrays, meta)

    def from_state(self, state: State) -> Self:
        def under(name: str) -> dict[str, np.ndarray]:
            return {key.removeprefix(name): array for key, array in state.arrays.items() if key.startswith(name)}

        self.encoder_ = Columns().from_meta(state.meta["columns"])
        columns = len(self.encoder_.features_)
        self.portfolio_ = Portfolio().from_arrays(under("portfolio/"), columns)
        self.learners_, self.chosen_, self.history_ = None, state.meta["chosen"], state.meta["history"]
        if "known" in state.arrays:
            self.learners_ = Learners().from_arrays(under("learners/"), columns)
            self.known_, self.weight_ = state.arrays["known"], float(state.meta["weight"])
        return self


def _tail(known: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """-log of the share of `known` scores, sorted, that are as high, with a little of the distance beyond them all:
    anomalies that the learners tell apart are above every normal, and are to be ordered still."""
    share = (len(known) - np.searchsorted(known, scores, side="left") + 1) / (len(known) + 1)
    spread = known[-1] - known[len(known) // 2] or 1.0
    return -np.log(share) + np.log1p(np.maximum(scores - known[-1], 0) / spread)
