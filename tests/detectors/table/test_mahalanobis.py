import numpy as np
import pandas as pd
import pytest
from sklearn.covariance import LedoitWolf, MinCovDet

from pipeline.detectors.table import mahalanobis
from pipeline.detectors.table.mahalanobis import Mahalanobis
from pipeline.errors import DataError, NotFittedError
from pipeline.protocols import State
from tests.detectors.table.rows import batch, mixed, view

# Mean 3, variance 5; one column leaves nothing to shrink.
LINE = pd.DataFrame({"a": [0.0, 2.0, 4.0, 6.0]})


def numbers(n: int, k: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.normal(size=(n, k)) @ np.random.default_rng(9).normal(size=(k, k))).add_prefix("x")


def test_one_column_by_hand() -> None:
    detector = Mahalanobis().fit(view(LINE, [0] * 4))
    scores = detector.score(batch(pd.DataFrame({"a": [3.0, 8.0, -7.0]}))).sample
    np.testing.assert_allclose(scores, [0, 25 / 5, 100 / 5], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "k"), [(200, 5), (15, 40)])
def test_shrunk_equals_scikit_learn(n: int, k: int) -> None:
    """Also with more columns than rows."""
    train, test = numbers(n, k), numbers(20, k, seed=1)
    detector = Mahalanobis().fit(view(train, [0] * n))
    reference = LedoitWolf().fit(detector.encoder_.transform(train).astype(np.float64))
    expected = reference.mahalanobis(detector.encoder_.transform(test).astype(np.float64))
    np.testing.assert_allclose(detector.score(batch(test)).sample, expected, rtol=1e-5)


def test_robust_equals_scikit_learn_and_forgives_a_fifth() -> None:
    train, test = numbers(150, 4), numbers(20, 4, seed=1)
    train[120:] += 60.0  # anomalies without labels
    detector = Mahalanobis(covariance="robust", seed=3).fit(view(train, [-1] * 150))
    reference = MinCovDet(random_state=3).fit(detector.encoder_.transform(train).astype(np.float64))
    expected = reference.mahalanobis(detector.encoder_.transform(test).astype(np.float64))
    robust = detector.score(batch(test)).sample
    np.testing.assert_allclose(robust, expected, rtol=1e-5)
    far = batch(test + 60.0)
    assert np.median(detector.score(far).sample) > 100
    shrunk = Mahalanobis().fit(view(train, [-1] * 150))
    assert np.median(shrunk.score(far).sample) < 5  # d^2 of a share p of the rows that lie together is near 1 / p


def test_columns_add_up_to_the_score() -> None:
    detector = Mahalanobis().fit(view(mixed(200), [0] * 200))
    rows = batch(mixed(30, seed=1))
    parts = detector.explain(rows)
    assert parts.shape == (30, 5)
    np.testing.assert_allclose(parts.sum(axis=1), detector.score(rows).sample, rtol=1e-4)


def test_a_column_adds_what_it_has_beside_the_others_by_hand() -> None:
    """With S^-1 = [[2, -1], [-1, 2]], x - m = (1, 2) adds 1 (2 - 2) and 2 (-1 + 4)."""
    detector = Mahalanobis().fit(view(numbers(50, 2), [0] * 50))
    detector.mean_, detector.precision_ = np.zeros(2), np.array([[2.0, -1.0], [-1.0, 2.0]])
    for learned in detector.encoder_.columns_:
        learned.update(mean=0.0, deviation=1.0)
    row = batch(pd.DataFrame({"x1": [2.0], "x0": [1.0]}))
    parts = detector.explain(row)
    assert parts.columns.tolist() == ["x0", "x1"]
    np.testing.assert_array_equal(parts, [[0.0, 6.0]])
    np.testing.assert_array_equal(detector.score(row).sample, [6.0])


def test_does_not_care_about_blocks_or_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Mahalanobis().fit(view(LINE, [0] * 4))
    rows = batch(pd.DataFrame({"a": [1.0, 7.0, 1e30]}))
    whole = detector.score(rows).sample
    assert whole[2] == np.finfo(np.float32).max
    monkeypatch.setattr(mahalanobis, "BLOCK", 1)
    np.testing.assert_array_equal(detector.score(rows).sample, whole)


def test_robust_draws_rows_by_seed() -> None:
    train = numbers(200, 2)
    few = [Mahalanobis("robust", rows=50, seed=s).fit(view(train, [0] * 200)).mean_ for s in (0, 0, 1)]
    np.testing.assert_array_equal(few[0], few[1])
    assert not np.array_equal(few[0], few[2])


def test_says_why_it_cannot_learn_or_score() -> None:
    with pytest.raises(DataError, match=r"at least 2 normals, got 1$"):
        Mahalanobis().fit(view(LINE[:1], [0]))
    with pytest.raises(DataError, match=r"at least 3 normals that differ, got too few among 2$"):
        Mahalanobis().fit(view(numbers(2, 3), [0] * 2))
    with pytest.raises(DataError, match=r"robust needs more normals than encoded columns, 6, got 6; shrunk does not$"):
        Mahalanobis("robust").fit(view(numbers(6, 6), [0] * 6))
    still = numbers(60, 2).assign(flag=[1.0] + [0.0] * 59)
    with pytest.raises(DataError, match=r"robust needs columns that vary.*got 'flag', which does not"):
        Mahalanobis("robust").fit(view(still, [0] * 60))
    doubled = numbers(60, 2).assign(again=lambda x: x["x0"] - x["x1"])
    with pytest.raises(DataError, match=r"robust needs columns that vary.*got some that others determine"):
        Mahalanobis("robust").fit(view(doubled, [0] * 60))
    with pytest.raises(NotFittedError, match="table/mahalanobis must be fitted"):
        Mahalanobis().explain(batch(LINE))
    state = Mahalanobis().fit(view(LINE, [0] * 4)).state()
    with pytest.raises(DataError, match=r"precision must be \(1, 1\), got \(2, 2\)"):
        Mahalanobis().from_state(State({**state.arrays, "precision": np.eye(2)}, state.meta))
