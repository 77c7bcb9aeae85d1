import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import IsolationForest as Reference

from pipeline.detectors.table.isolation_forest import IsolationForest
from pipeline.errors import DataError, NotFittedError
from pipeline.parts.columns import Columns
from pipeline.parts.isolation import expected_path
from pipeline.protocols import State
from tests.detectors.table.rows import batch, mixed, view


@pytest.mark.parametrize(("rows", "columns"), [(256, 1.0), (32, 1.0), (64, 0.5)])
def test_equals_scikit_learn(rows: int, columns: float) -> None:
    train, test = mixed(200), mixed(50, seed=1)
    detector = IsolationForest(trees=25, rows=rows, columns=columns, seed=3).fit(view(train, [0] * 200))
    encoder = Columns().fit(train)
    reference = Reference(n_estimators=25, max_samples=min(rows, 200), max_features=columns, random_state=3)
    reference.fit(encoder.transform(train))
    expected = -reference.score_samples(encoder.transform(test))
    np.testing.assert_allclose(detector.score(batch(test)).sample, expected, rtol=1e-6)


def test_expected_path_by_hand() -> None:
    # c(n) = 2 H(n - 1) - 2 (n - 1) / n with H(i) = ln i + gamma; c(2) = 1
    expected = [0, 1, 2 * (np.log(2) + 0.5772156649015329) - 4 / 3]
    np.testing.assert_allclose(expected_path(np.array([1, 2, 3])), expected, rtol=1e-15)


def test_two_rows_by_hand() -> None:
    """One cut sets two rows apart: h = 1 = c(2), so that every row scores 2^-1."""
    train = view(pd.DataFrame({"a": [0.0, 1.0]}), [0, 0])
    scores = IsolationForest(trees=5).fit(train).score(batch(pd.DataFrame({"a": [-5.0, 0.0, 9.0]})))
    np.testing.assert_array_equal(scores.sample, np.float32([0.5, 0.5, 0.5]))


def test_one_row_makes_every_row_average() -> None:
    detector = IsolationForest(trees=3).fit(view(pd.DataFrame({"a": [1.0]}), [0]))
    np.testing.assert_array_equal(detector.score(batch(pd.DataFrame({"a": [1.0, 7.0]}))).sample, np.float32([0.5, 0.5]))


def test_learns_from_normals_only() -> None:
    frame = mixed(100)
    alone = IsolationForest(trees=10).fit(view(frame, [0] * 100))
    marked = pd.concat([frame, mixed(40, seed=5).assign(a=1e6)], ignore_index=True)
    among = IsolationForest(trees=10).fit(view(marked, [0] * 100 + [1] * 30 + [-1] * 10))
    np.testing.assert_array_equal(alone.score(batch(frame)).sample, among.score(batch(frame)).sample)


def test_needs_normals_and_a_fit() -> None:
    with pytest.raises(DataError, match="at least one normal sample"):
        IsolationForest().fit(view(mixed(3), [1, 1, 1]))
    with pytest.raises(NotFittedError, match="table/isolation_forest must be fitted"):
        IsolationForest().score(batch(mixed(1)))


def test_refuses_trees_that_point_outside() -> None:
    detector = IsolationForest(trees=2).fit(view(mixed(50), [0] * 50))
    state = detector.state()
    spoiled = state.arrays["left"].copy()
    spoiled[0] = 10**6
    with pytest.raises(DataError, match="trees must have their children behind them"):
        IsolationForest().from_state(State({**state.arrays, "left": spoiled}, state.meta))


def test_explains_by_the_column_that_is_odd() -> None:
    frame = mixed(200)
    detector = IsolationForest(trees=50).fit(view(frame, [0] * 200))
    found = detector.explain(batch(frame.iloc[:2].assign(b=[100.0, 900.0])))
    assert list(found.columns) == list(frame.columns)
    assert found.iloc[1].idxmax() == "b"
    assert found["b"].iloc[1] > 0.05
