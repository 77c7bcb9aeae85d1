"""An ensemble of decision trees as plain arrays: what tree detectors keep, and how they walk it.

scikit-learn's own trees follow stored indices without looking and their files change with its version; these
arrays are checked when they are taken over and need only numpy.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.errors import DataError

ROWS = 4096  # rows that walk together, so that their values stay in the cache


@dataclass(frozen=True)
class Trees:
    """m nodes of t trees, behind one another. A row goes left when `x[feature] <= threshold`, at a leaf
    (feature -1) it collects `value`.

    `feature`, `left`, `right` are int32 `(m,)` (children as positions among all m nodes), `threshold` and
    `value` float64 `(m,)`, `root` int32 `(t,)`.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    root: np.ndarray

    @classmethod
    def join(cls, trees: list[dict[str, np.ndarray]]) -> Self:
        """One ensemble of single trees, each with the arrays above but `root`, children numbered within the tree."""
        sizes = [len(tree["feature"]) for tree in trees]
        root = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)

        def joined(name: str, dtype: type) -> np.ndarray:
            return np.concatenate([tree[name] for tree in trees]).astype(dtype)

        offset = np.repeat(root, sizes)
        feature = joined("feature", np.int32)
        inner = feature >= 0
        left, right = (np.where(inner, joined(side, np.int32) + offset, 0) for side in ("left", "right"))
        threshold, value = joined("threshold", np.float64), joined("value", np.float64)
        return cls(feature, np.where(inner, threshold, 0.0), left, right, np.where(inner, 0.0, value), root)

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], features: int) -> Self:
        """Take over what `arrays()` gave, for rows of `features` values.

        Raises DataError when a node points outside, or back to where a walk came from."""
        trees = cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        nodes = len(trees.feature)
        own = np.arange(nodes)
        inner = trees.feature >= 0
        lengths = {len(array) for name, array in trees.arrays().items() if name != "root"}
        sound = (
            lengths == {nodes}
            and bool((trees.feature < features).all())
            and all(bool(((side > own) & (side < nodes))[inner].all()) for side in (trees.left, trees.right))
            and bool(((trees.root >= 0) & (trees.root < nodes)).all())
        )
        if not sound:
            raise DataError(f"the trees must have their children behind them and split {features} features")
        return trees

    def arrays(self) -> dict[str, np.ndarray]:
        """The six arrays by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def total(self, x: np.ndarray, base: float = 0.0) -> np.ndarray:
        """`base` plus the leaf values of all trees, in their order, for rows `x` (n, k): float64 `(n,)`."""
        total = np.full(len(x), base)
        for start in range(0, len(x), ROWS):
            some = np.ascontiguousarray(x[start : start + ROWS])
            for root in self.root:
                total[start : start + ROWS] += self.value[self._leaves(some, root)]
        return total

    def _leaves(self, x: np.ndarray, root: int) -> np.ndarray:
        """The leaf that each row of `x` reaches from `root`: int32 `(n,)`."""
        node = np.full(len(x), root, np.int32)
        walking = np.arange(len(x)) if self.feature[root] >= 0 else np.arange(0)
        while len(walking):
            at = node[walking]
            goes_left = x[walking, self.feature[at]] <= self.threshold[at]
            at = np.where(goes_left, self.left[at], self.right[at])
            node[walking] = at
            walking = walking[self.feature[at] >= 0]
        return node
