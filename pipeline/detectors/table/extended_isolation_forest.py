"""Hariri, Carrasco Kind, Brunner: Extended Isolation Forest. TKDE 2021.

Trees cut the table at random hyperplanes, which need not be parallel to an axis; a row that few cuts set apart from
all others is anomalous. The score is s = 2^(-E[h(x)] / c(psi)) (equation 1), in (0, 1).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Le

from pipeline.errors import DataError
from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.isolation import expected_path
from pipeline.parts.rows import ablation, learned
from pipeline.parts.trees import Trees
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

BLOCK = 1 << 22  # projections held at a time (32 MB)
MOST = float(np.finfo(np.float32).max)


@dataclass
class ExtendedIsolationForest:
    """Random trees with tilted cuts that need few of them to set an odd row apart.

    Free of the bands that cuts parallel to the axes draw through the table; blind to no column."""

    # Number of trees, at least 1; more give steadier scores and take proportionally longer.
    trees: Annotated[int, Ge(1), Le(10_000)] = 100
    # Normal rows that each tree sees (psi), at least 2; fewer than this are all used.
    rows: Annotated[int, Ge(2)] = 256
    # Extension level: encoded columns that a cut tilts into besides its first, from 0 (parallel to an axis, as in an
    # isolation forest) to their number less 1; null is that number.
    extension: Annotated[int, Ge(0)] | None = None
    # Seed of the rows drawn and of the cuts, at least 0.
    seed: Annotated[int, Ge(0)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "Hariri, Carrasco Kind, Brunner: Extended Isolation Forest. TKDE 2021"

    def fit(self, train: Samples) -> Self:
        """Grow the trees on the normals of `train`.

        Raises DataError when there is none, for an extension beyond the columns, or for infinity."""
        encoder, rows = learned(normals(train))
        n, k = rows.shape
        extension = k - 1 if self.extension is None else self.extension
        if extension >= k:
            raise DataError(
                f"table/extended_isolation_forest.extension must be at most the encoded columns less 1, {k - 1}, "
                f"got {extension}"
            )
        rng = np.random.default_rng(self.seed)
        psi = min(self.rows, n)
        height = int(np.ceil(np.log2(psi)))
        grown = []
        for _ in range(self.trees):
            sample = rows[rng.choice(n, psi, replace=False)].astype(np.float64)
            grown.append(_grow(sample, height, extension + 1, rng))
        inner = np.cumsum([0] + [len(cuts) for _, cuts in grown])
        for (tree, _), before in zip(grown, inner, strict=False):
            tree["feature"] = np.where(tree["feature"] >= 0, tree["feature"] + before, -1)
        self.encoder_ = encoder
        self.trees_ = Trees.join([tree for tree, _ in grown])
        self.cuts_ = np.concatenate([cuts for _, cuts in grown])
        self.scale_ = self.trees * float(expected_path(np.array([psi]))[0])
        self.history_: list[dict[str, float]] = []
        return self

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 `(n,)` in (0, 1). Raises DataError for other columns or infinity."""
        must_be_fitted(self, "trees_")
        return Scores(self._raw(batch.x))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """How much lower each score is with a column at what is typical of it: float32 `(n, c)`."""
        must_be_fitted(self, "trees_")
        return ablation(self._raw, self.encoder_, batch.x)

    def _raw(self, frame: pd.DataFrame) -> np.ndarray:
        """Scores of rows, float32 `(n,)`."""
        x = self.encoder_.transform(frame)
        across = self.cuts_.T.astype(np.float64)
        step = max(1, BLOCK // max(1, len(self.cuts_)))
        depths = []
        for start in range(0, max(1, len(x)), step):
            # to all cuts of all trees, (b, m): what the trees look at
            projected = x[start : start + step].astype(np.float64) @ across
            depths.append(self.trees_.total(projected.clip(-MOST, MOST, out=projected)))
        # One training row leaves nothing to cut: every row then counts as average.
        relative = np.concatenate(depths) / self.scale_ if self.scale_ else np.ones(len(x))
        return 2.0 ** -relative.astype(np.float32)

    def state(self) -> State:
        must_be_fitted(self, "trees_")
        meta = {"columns": self.encoder_.meta(), "scale": self.scale_}
        return State({**self.trees_.arrays(), "cuts": self.cuts_}, meta)

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        self.cuts_ = state.arrays["cuts"]
        if self.cuts_.ndim != 2 or self.cuts_.shape[1] != len(self.encoder_.features_):
            raise DataError(f"cuts must be (m, {len(self.encoder_.features_)}), got {self.cuts_.shape}")
        self.trees_ = Trees.from_arrays(state.arrays, len(self.cuts_))
        self.scale_ = float(state.meta["scale"])
        self.history_ = []
        return self


def _grow(
    x: np.ndarray, height: int, columns: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One tree over rows `x` (psi, k), level by level (algorithm 2): arrays as `Trees.join` takes them, `feature` an
    index into the normals of its cuts, which come as well: float32 `(m, k)`, `columns` of each not 0.

    Rows that are all alike are a leaf: no cut could part them. Of a cut's columns at least one varies in its node."""
    k = x.shape[1]
    feature, threshold, left, right, value, cuts = [], [], [], [], [], []
    sizes = np.array([len(x)])  # of the nodes of this level, whose rows lie behind one another in x
    behind = 0  # nodes of the levels above
    inner = 0
    for depth in range(height + 1):
        filled = np.flatnonzero(sizes)
        starts = (np.cumsum(sizes) - sizes)[filled]
        low, high = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
        varies = high > low
        able = varies.any(axis=1) & (depth < height)
        cut = filled[able]
        normal = _normals(varies[able], columns, rng)
        point = low[able] + (high - low)[able] * rng.random((len(cut), k))
        level = len(sizes)
        number = np.full(level, -1)
        number[cut] = np.arange(len(cut))
        children = behind + level + 2 * number
        feature.append(np.where(number >= 0, number + inner, -1))
        limit = np.zeros(level)
        limit[cut] = (point * normal).sum(axis=1)
        threshold.append(limit)
        left.append(children)
        right.append(children + 1)
        value.append(depth + expected_path(sizes))
        cuts.append(normal)
        behind, inner = behind + level, inner + len(cut)
        if not len(cut):
            break
        node = np.repeat(number, sizes)
        x, node = x[node >= 0], node[node >= 0]
        goes = 2 * node + ((x * normal[node]).sum(axis=1) > np.repeat(limit[cut], sizes[cut]))
        order = np.argsort(goes, kind="stable")
        x, sizes = x[order], np.bincount(goes, minlength=2 * len(cut))
    arrays = {"feature": feature, "threshold": threshold, "left": left, "right": right, "value": value}
    return {name: np.concatenate(parts) for name, parts in arrays.items()}, np.concatenate(cuts).astype(np.float32)


def _normals(varies: np.ndarray, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Normals of cuts, one per node: standard normal in `columns` of the k columns, 0 in the others; float64 `(c, k)`
    that float32 holds. `varies` (c, k) says which columns vary in each node; one of those is always among them."""
    normal = rng.normal(size=varies.shape).astype(np.float32).astype(np.float64)
    k = varies.shape[1]
    if columns == k:
        return normal
    first = np.where(varies, rng.random(varies.shape), -1.0).argmax(axis=1)
    rank = rng.random(varies.shape)
    rank[np.arange(len(rank)), first] = -1.0
    chosen = np.argpartition(rank, columns - 1, axis=1)[:, :columns]
    kept = np.zeros(varies.shape, bool)
    np.put_along_axis(kept, chosen, True, axis=1)
    return np.where(kept, normal, 0.0)
