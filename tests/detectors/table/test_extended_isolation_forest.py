import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from pipeline.detectors.table import extended_isolation_forest
from pipeline.detectors.table.extended_isolation_forest import ExtendedIsolationForest
from pipeline.detectors.table.isolation_forest import IsolationForest
from pipeline.errors import DataError, NotFittedError
from pipeline.protocols import State
from tests.detectors.table.rows import batch, mixed, view


def average_path(n: int) -> float:
    """c(n) of equation 2."""
    if n <= 2:
        return float(n == 2)
    return 2 * (np.log(n - 1) + 0.5772156649015329) - 2 * (n - 1) / n


def test_two_rows_by_hand() -> None:
    """On one line the first cut parts two rows: h = 1 = c(2), and every row scores 2^-1."""
    train = view(pd.DataFrame({"a": [0.0, 1.0], "b": [7.0, 7.0]}), [0, 0])
    scores = ExtendedIsolationForest(trees=5).fit(train).score(batch(pd.DataFrame({"a": [-5.0, 0.0], "b": [7.0, 9.0]})))
    np.testing.assert_array_equal(scores.sample, np.float32([0.5, 0.5]))


def test_rows_all_alike_or_one_alone_make_every_row_average() -> None:
    same = ExtendedIsolationForest(trees=3).fit(view(pd.DataFrame({"a": [1.0] * 9}), [0] * 9))
    alone = ExtendedIsolationForest(trees=3).fit(view(pd.DataFrame({"a": [1.0]}), [0]))
    for detector in (same, alone):  # one leaf: its h is c(psi)
        assert len(detector.trees_.feature) == 3
        scores = detector.score(batch(pd.DataFrame({"a": [1.0, 7.0]}))).sample
        np.testing.assert_array_equal(scores, np.float32([0.5, 0.5]))


@pytest.mark.parametrize(("extension", "height"), [(None, 5), (0, 5), (2, 5)])
def test_leaves_count_their_rows_and_scores_average_their_paths(extension: int | None, height: int) -> None:
    """Walks every tree row by row; with psi = n each tree saw all rows."""
    train, test = mixed(32), mixed(6, seed=1)
    detector = ExtendedIsolationForest(trees=8, rows=32, extension=extension).fit(view(train, [0] * 32))
    trees = detector.trees_

    def leaf(row: np.ndarray, node: int) -> tuple[int, int]:
        depth = 0
        while trees.feature[node] >= 0:
            right = np.float32(detector.cuts_[trees.feature[node]].astype(np.float64) @ row) > trees.threshold[node]
            node = int(trees.right[node] if right else trees.left[node])
            depth += 1
        return node, depth

    x, y = (detector.encoder_.transform(frame).astype(np.float64) for frame in (train, test))
    paths = np.zeros((len(y), 8))
    for number, root in enumerate(trees.root):
        reached = [leaf(row, root)[0] for row in x]
        for at, row in enumerate(y):
            node, depth = leaf(row, root)
            paths[at, number] = depth + average_path(reached.count(node))
            assert depth <= height
            assert trees.value[node] == pytest.approx(paths[at, number], abs=1e-12)
    expected = 2 ** -(paths.mean(axis=1) / average_path(32))
    np.testing.assert_allclose(detector.score(batch(test)).sample, expected, rtol=1e-6)


def test_extension_is_how_far_cuts_tilt() -> None:
    for extension, tilted in ((0, 1), (1, 2), (6, 7), (None, 7)):
        detector = ExtendedIsolationForest(trees=5, extension=extension).fit(view(mixed(60), [0] * 60))
        assert ((detector.cuts_ != 0).sum(axis=1) == tilted).all()
    normal = ExtendedIsolationForest(trees=50).fit(view(mixed(300), [0] * 300)).cuts_
    assert abs(normal.mean()) < 0.02  # directions are uniform: standard normal coordinates
    assert normal.std() == pytest.approx(1, abs=0.02)


def test_level_0_agrees_with_the_isolation_forest() -> None:
    rng = np.random.default_rng(0)
    train, test = (pd.DataFrame(rng.standard_t(4, size=(n, 4))).add_prefix("x") for n in (400, 200))
    level = ExtendedIsolationForest(trees=200, extension=0).fit(view(train, [0] * 400)).score(batch(test)).sample
    forest = IsolationForest(trees=200).fit(view(train, [0] * 400)).score(batch(test)).sample
    assert spearmanr(level, forest).statistic > 0.95
    np.testing.assert_allclose(level.mean(), forest.mean(), atol=0.02)


def test_scores_have_no_bands_along_the_axes() -> None:
    """Around a round cloud all directions are alike; cuts parallel to the axes favour those (section 2)."""
    rng = np.random.default_rng(0)
    train = view(pd.DataFrame(rng.normal(size=(1000, 2)), columns=["a", "b"]), [0] * 1000)
    angle = np.arange(0, 2 * np.pi, np.pi / 4)
    circle = batch(pd.DataFrame({"a": 5 * np.cos(angle), "b": 5 * np.sin(angle)}))
    gaps = []
    for extension in (0, None):
        scores = ExtendedIsolationForest(extension=extension).fit(train).score(circle).sample
        gaps.append(scores[1::2].mean() - scores[::2].mean())  # diagonals less axes
    assert gaps[0] > 3 * abs(gaps[1])


def test_notices_a_column_that_never_varied() -> None:
    frame = mixed(200)[["a", "b"]].assign(still=1.0)
    detector = ExtendedIsolationForest().fit(view(frame, [0] * 200))
    odd = detector.score(batch(frame.assign(still=9.0))).sample
    assert (odd > detector.score(batch(frame)).sample).mean() > 0.95


def test_draws_and_cuts_by_seed() -> None:
    first, again, other = (
        ExtendedIsolationForest(trees=4, rows=16, seed=s).fit(view(mixed(50), [0] * 50)).cuts_ for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[:5], other[:5])


def test_explains_by_ablation_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = ExtendedIsolationForest(trees=50).fit(view(mixed(200), [0] * 200))
    rows = mixed(5, seed=1)
    rows.loc[2, "b"] = 1000.0
    rows.loc[3, "a"] = 1e37
    whole = detector.score(batch(rows)).sample
    parts = detector.explain(batch(rows))
    assert parts.shape == (5, 5)
    assert parts.loc[2].idxmax() == "b"
    assert parts.loc[3].idxmax() == "a"
    monkeypatch.setattr(extended_isolation_forest, "BLOCK", 1)
    np.testing.assert_array_equal(detector.score(batch(rows)).sample, whole)


def test_says_why_it_cannot_learn_or_score() -> None:
    with pytest.raises(DataError, match=r"extension must be at most the encoded columns less 1, 6, got 7$"):
        ExtendedIsolationForest(extension=7).fit(view(mixed(30), [0] * 30))
    with pytest.raises(NotFittedError, match="table/extended_isolation_forest must be fitted"):
        ExtendedIsolationForest().explain(batch(mixed(1)))
    state = ExtendedIsolationForest(trees=2).fit(view(mixed(50), [0] * 50)).state()
    with pytest.raises(DataError, match=r"cuts must be \(m, 7\), got"):
        ExtendedIsolationForest().from_state(State({**state.arrays, "cuts": state.arrays["cuts"][:, :3]}, state.meta))
    with pytest.raises(DataError, match="trees must have their children behind them"):
        ExtendedIsolationForest().from_state(State({**state.arrays, "cuts": state.arrays["cuts"][:3]}, state.meta))
