import numpy as np
import pandas as pd
import pytest

from pipeline.detectors.table.knn import KNN
from pipeline.errors import DataError, NotFittedError
from tests.detectors.table.rows import batch, mixed, view

# The normals 0, 2, 4, 6 have mean 3 and deviation sqrt(5).
LINE = pd.DataFrame({"a": [0.0, 2.0, 4.0, 6.0]})


@pytest.mark.parametrize(
    ("neighbours", "distance", "expected"),
    [
        (1, "mean", [0, 1, 4]),  # distances of 2 are 2 0 2 4, of 5 they are 5 3 1 1, of 10 they are 10 8 6 4
        (2, "mean", [1, 1, 5]),
        (2, "largest", [2, 1, 6]),
        (3, "mean", [4 / 3, 5 / 3, 6]),
        (3, "largest", [2, 3, 8]),
    ],
)
def test_by_hand(neighbours: int, distance: str, expected: list[float]) -> None:
    detector = KNN(neighbours=neighbours, distance=distance).fit(view(LINE, [0] * 4))
    scores = detector.score(batch(pd.DataFrame({"a": [2.0, 5.0, 10.0]}))).sample
    np.testing.assert_allclose(scores, np.array(expected) / np.sqrt(5), rtol=1e-6, atol=1e-9)


def test_equals_brute_force_and_explains_it() -> None:
    train, test = mixed(300), mixed(40, seed=1)
    detector = KNN(neighbours=7).fit(view(train, [0] * 300))
    whole = detector.score(batch(test)).sample
    bank, x = (detector.encoder_.transform(f).astype(np.float64) for f in (train, test))
    every = np.sqrt(((x[:, None, :] - bank[None, :, :]) ** 2).sum(axis=2))
    np.testing.assert_allclose(whole, np.sort(every, axis=1)[:, :7].mean(axis=1), rtol=1e-6)
    parts = detector.explain(batch(test))  # of the scores, by column
    assert list(parts.columns) == list(train.columns)
    np.testing.assert_allclose(parts.sum(axis=1), whole, rtol=1e-5)


def test_a_trained_row_has_no_distance_to_itself() -> None:
    frame = mixed(100)
    scores = KNN(neighbours=1).fit(view(frame, [0] * 100)).score(batch(frame)).sample
    np.testing.assert_array_equal(scores, np.zeros(100, np.float32))


def test_keeps_at_most_rows_drawn_by_seed() -> None:
    frame = mixed(100)
    first, again, other = (KNN(rows=20, seed=s).fit(view(frame, [0] * 100)).bank_ for s in (0, 0, 1))
    assert first.shape == (20, 7)  # a, b, count, on, text=x, text=y, text=z
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_learns_from_normals_only() -> None:
    marked = pd.concat([LINE, pd.DataFrame({"a": [10.0, 12.0]})], ignore_index=True)
    detector = KNN(neighbours=1).fit(view(marked, [0, 0, 0, 0, 1, -1]))
    np.testing.assert_allclose(detector.score(batch(pd.DataFrame({"a": [10.0]}))).sample, 4 / np.sqrt(5), rtol=1e-6)


def test_says_why_it_cannot_learn_or_score() -> None:
    with pytest.raises(DataError, match=r"neighbours must be at most the number of normals it keeps, 4, got 5$"):
        KNN(neighbours=5).fit(view(LINE, [0] * 4))
    with pytest.raises(NotFittedError, match="table/knn must be fitted"):
        KNN().score(batch(LINE))
    with pytest.raises(DataError, match="column 'a' must hold finite numbers, got inf in row 2"):
        KNN(neighbours=1).fit(view(LINE, [0] * 4)).score(batch(pd.DataFrame({"a": [1.0, np.inf]})))
