"""Liu, Ting, Zhou: Isolation Forest. ICDM 2008: what trees that isolate rows count."""

from typing import Any

import numpy as np

from pipeline.parts.trees import Trees


def expected_path(rows: np.ndarray) -> np.ndarray:
    """c(n) of equation 1: the average path length of an unsuccessful search among n rows; float64 `(k,)`."""
    rows = np.asarray(rows, np.float64)
    many = np.maximum(rows, 3)
    harmonic = np.log(many - 1) + np.euler_gamma
    return np.where(rows > 2, 2 * harmonic - 2 * (many - 1) / many, np.where(rows == 2, 1.0, 0.0))


def isolating(x: np.ndarray, trees: int, rows: int, columns: float, seed: int) -> tuple[Trees, float]:
    """Trees that isolate rows of `x` float32 (n, k), each grown on at most `rows` of them and a share `columns` of the
    columns by scikit-learn, and what their total depth counts in (the denominator of equation 2, summed)."""
    from sklearn.ensemble import IsolationForest

    psi = min(rows, len(x))
    forest = IsolationForest(n_estimators=trees, max_samples=psi, max_features=columns, random_state=seed).fit(x)
    grown = zip(forest.estimators_, forest.estimators_features_, strict=True)
    joined = Trees.join([_tree(estimator.tree_, features) for estimator, features in grown])
    return joined, trees * float(expected_path(np.array([psi]))[0])


def isolation(trees: Trees, scale: float, x: np.ndarray) -> np.ndarray:
    """The score of equation 2 for rows `x` float32 (n, k): float32 `(n,)` in (0, 1)."""
    depths = trees.total(x)
    # One training row leaves nothing to cut: every row then counts as average, as in scikit-learn.
    relative = depths / scale if scale else np.ones_like(depths)
    return 2.0 ** -relative.astype(np.float32)


def _tree(tree: Any, features: np.ndarray) -> dict[str, np.ndarray]:
    """One scikit-learn tree; a leaf's value is its depth plus c of the rows it holds (algorithm 3)."""
    left, right = tree.children_left, tree.children_right
    inner = left >= 0
    depth = np.zeros(len(left))
    for _ in range(tree.max_depth):
        depth[left[inner]] = depth[right[inner]] = depth[inner] + 1
    cut = tree.feature
    return {
        "feature": np.where(inner, features[np.where(inner, cut, 0)], -1),
        "threshold": tree.threshold,
        "left": left,
        "right": right,
        "value": depth + expected_path(tree.n_node_samples),
    }
