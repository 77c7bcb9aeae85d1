import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import LocalOutlierFactor

from pipeline.detectors.table.lof import LOF
from pipeline.errors import DataError
from tests.detectors.table.rows import batch, mixed, view


def test_by_hand() -> None:
    # Rows 0, 1, 2, 10 and k = 1: the row nearest to 10 is 2, whose nearest is 1, at distance 1.
    frame = pd.DataFrame({"a": [0.0, 1.0, 2.0, 10.0]})
    detector = LOF(neighbours=1).fit(view(frame, [0] * 4))
    unit = frame["a"].std(ddof=0)
    np.testing.assert_allclose(detector.reach_ * unit, [1, 1, 1, 8], rtol=1e-6)
    np.testing.assert_allclose(detector.density_ / unit, [1, 1, 1, 1 / 8], rtol=1e-6)
    # A new row at 6 is 4 from both 2 and 10. One at 5 is 3 from 2: density 1/3 against 1.
    np.testing.assert_allclose(detector.score(batch(pd.DataFrame({"a": [5.0, 2.5]}))).sample, [3, 1], rtol=1e-6)


@pytest.mark.parametrize("many", [0, 20])
def test_equals_scikit_learn(many: int) -> None:
    train, test = mixed(300), mixed(60, seed=1)
    for i in range(many):  # more columns than a tree takes
        train[f"x{i}"], test[f"x{i}"] = (np.random.default_rng(i).normal(size=len(f)) for f in (train, test))
    detector = LOF(neighbours=10).fit(view(train, [0] * 300))
    x, new = (detector.encoder_.transform(frame).astype(np.float64) for frame in (train, test))
    theirs = LocalOutlierFactor(n_neighbors=10, novelty=True).fit(x)
    np.testing.assert_allclose(detector.score(batch(test)).sample, -theirs.score_samples(new), rtol=1e-5)


def test_more_equal_rows_than_neighbours_are_normal() -> None:
    frame = pd.DataFrame({"a": [1.0] * 30 + [2.0, 3.0]})
    scores = LOF(neighbours=5).fit(view(frame, [0] * 32)).score(batch(frame)).sample
    np.testing.assert_allclose(scores[:30], 1)
    assert np.isfinite(scores).all()
    assert scores[31] > 1e6


def test_needs_two_rows_and_takes_fewer_than_k() -> None:
    with pytest.raises(DataError, match="table/lof needs at least 2 normal rows, got 1"):
        LOF().fit(view(mixed(1), [0]))
    assert np.isfinite(LOF().fit(view(mixed(3), [0] * 3)).score(batch(mixed(2))).sample).all()


def test_explains_by_the_column_that_is_odd() -> None:
    frame = mixed(200)
    odd = frame.iloc[:1].assign(a=50.0)
    found = LOF().fit(view(frame, [0] * 200)).explain(batch(odd))
    assert found.iloc[0].idxmax() == "a"
