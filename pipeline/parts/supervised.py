"""Two learners for a few labelled anomalies among many rows: what `table/auto` adds to its portfolio.

Logistic regression with a strong L2 penalty and extremely randomised trees (Geurts, Ernst, Wehenkel, Machine Learning
2006), both with classes weighed alike, on the encoded columns and on the tails of the portfolio."""

from typing import ClassVar, Self

import numpy as np
from scipy.stats import rankdata

from pipeline.errors import DataError
from pipeline.parts.trees import Trees

CLIP = 5.0  # deviations beyond which a value counts as no further out
PENALTY = 0.01  # scikit-learn's C, the inverse of the penalty's strength
TREES, LEAF = 100, 5  # trees, and rows that a leaf holds at least


class Learners:
    """The fitted learners; scores are log-odds, and shares of the trees' votes."""

    names: ClassVar[tuple[str, ...]] = ("linear", "trees")

    def fit(self, x: np.ndarray, tails: np.ndarray, label: np.ndarray, seed: int) -> Self:
        """Learn from rows `x` float32 (n, k), their `tails` (4, n) and `label` (n,), 0 or 1, both of which come."""
        from sklearn.ensemble import ExtraTreesClassifier
        from sklearn.linear_model import LogisticRegression

        seen = _seen(x, tails)
        linear = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=1000).fit(seen, label)
        self._weights = np.append(linear.coef_[0], linear.intercept_)
        forest = ExtraTreesClassifier(TREES, class_weight="balanced", min_samples_leaf=LEAF, random_state=seed)
        forest.fit(seen, label)
        self._trees = Trees.join([_tree(one.tree_) for one in forest.estimators_])
        return self

    def score(self, x: np.ndarray, tails: np.ndarray) -> np.ndarray:
        """What the two say of rows `x` (n, k) with `tails` (4, n): float64 `(n, 2)`, higher is more anomalous."""
        seen = _seen(x, tails)
        return np.column_stack([seen @ self._weights[:-1] + self._weights[-1], self._trees.total(seen) / TREES])

    def arrays(self) -> dict[str, np.ndarray]:
        return {"weights": self._weights, **{f"trees/{name}": a for name, a in self._trees.arrays().items()}}

    def from_arrays(self, arrays: dict[str, np.ndarray], columns: int) -> Self:
        """Take over what `arrays()` gave, for `columns` columns. Raises DataError when they do not fit."""
        self._weights = arrays["weights"]
        width = len(self._weights) - 1
        if self._weights.ndim != 1 or width < columns:
            raise DataError(f"weights must be of {columns} columns and the tails, got {self._weights.shape}")
        self._trees = Trees.from_arrays({n.removeprefix("trees/"): a for n, a in arrays.items() if "/" in n}, width)
        return self


def auroc(label: np.ndarray, scores: np.ndarray) -> float:
    """The area under the ROC curve, ties half. Where anomalies hide among the 0s, it orders scores as the true one does
    (Menon, van Rooyen, Ong, Williamson: Learning from Corrupted Binary Labels. ICML 2015, corollary 3)."""
    ranks, odd = rankdata(scores), label == 1
    count = int(odd.sum())
    return float((ranks[odd].sum() - count * (count + 1) / 2) / (count * (len(label) - count)))


def _seen(x: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """Columns and tails as the learners see them, float32 `(n, k + 4)`; a tail becomes the normal deviate of its
    share."""
    from scipy.special import ndtri

    deviates = -ndtri(np.clip(np.exp(-tails.T), 1e-12, 1 - 1e-6))
    return np.concatenate([np.clip(x, -CLIP, CLIP), deviates.astype(np.float32)], axis=1)


def _tree(tree: object) -> dict[str, np.ndarray]:
    """One of scikit-learn's trees; a leaf's value is the weighed share of anomalies in it."""
    left = tree.children_left  # type: ignore[attr-defined]
    votes = tree.value[:, 0, :]  # type: ignore[attr-defined]
    return {
        "feature": np.where(left >= 0, tree.feature, -1),  # type: ignore[attr-defined]
        "threshold": tree.threshold,  # type: ignore[attr-defined]
        "left": left,
        "right": tree.children_right,  # type: ignore[attr-defined]
        "value": votes[:, 1] / votes.sum(axis=1),
    }
