"""An ensemble of decision trees as plain arrays: what tree detectors keep, and how they walk it.

scikit-learn's own trees follow stored indices without looking and their files change with its version; these
arrays are checked when they are taken over, and only then walked by its compiled code.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

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
        nodes, own = len(trees.feature), np.arange(len(trees.feature))
        inner = trees.feature >= 0
        sizes = np.diff(trees.root, append=nodes)
        sound = (
            all(len(array) == nodes for name, array in trees.arrays().items() if name != "root")
            and all(getattr(trees, name).dtype == np.int32 for name in ("feature", "left", "right", "root"))
            and bool((trees.feature < features).all())
            and trees.root[:1].tolist() == [0]
            and bool((sizes > 0).all())
            and int(sizes.sum()) == nodes
        )
        if sound:
            end = np.repeat(trees.root + sizes, sizes)  # of each node's own tree
            sound = all(bool(((side > own) & (side < end))[inner].all()) for side in (trees.left, trees.right))
        if not sound:
            raise DataError(f"the trees must have their children behind them and split {features} features")
        return trees

    def arrays(self) -> dict[str, np.ndarray]:
        """The six arrays by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def total(self, x: np.ndarray, base: float = 0.0) -> np.ndarray:
        """`base` plus the leaf values of all trees, in their order, for rows `x` float32 (n, k): float64 `(n,)`."""
        total = np.full(len(x), base)
        starts = range(0, len(x), ROWS)

        def walk(start: int) -> None:
            some = np.ascontiguousarray(x[start : start + ROWS], np.float32)
            for tree, value in self._walkers:
                total[start : start + ROWS] += value[tree.apply(some)]

        if len(starts) < 2:
            for start in starts:
                walk(start)
        else:  # scikit-learn walks without holding Python's lock
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(walk, starts))
        return total

    @cached_property
    def _walkers(self) -> list[tuple[Any, np.ndarray]]:
        """Each tree as one that scikit-learn's compiled code walks, which looks at no index: these have been checked.
        And the values of its nodes."""
        from sklearn.tree._tree import NODE_DTYPE, Tree

        width = int(self.feature.max(initial=0)) + 1
        ends = np.append(self.root[1:], len(self.feature))
        walkers = []
        for start, end in zip(self.root, ends, strict=True):
            feature = self.feature[start:end]
            nodes = np.zeros(end - start, NODE_DTYPE)
            inner = feature >= 0
            nodes["left_child"] = np.where(inner, self.left[start:end] - start, -1)
            nodes["right_child"] = np.where(inner, self.right[start:end] - start, -1)
            nodes["feature"], nodes["threshold"] = np.where(inner, feature, -2), self.threshold[start:end]
            tree = Tree(width, np.ones(1, np.intp), 1)
            tree.__setstate__(
                {
                    "max_depth": len(nodes),
                    "node_count": len(nodes),
                    "nodes": nodes,
                    "values": np.zeros((len(nodes), 1, 1)),
                }
            )
            walkers.append((tree, self.value[start:end]))
        return walkers
