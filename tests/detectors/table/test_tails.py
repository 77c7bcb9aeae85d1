"""ECOD and COPOD: the tails of columns."""

import numpy as np
import pandas as pd
import pytest

from pipeline.detectors.table.copod import COPOD
from pipeline.detectors.table.ecod import ECOD
from pipeline.errors import DataError
from pipeline.parts.tails import Tails
from tests.detectors.table.rows import batch, mixed, view

FOUR = pd.DataFrame({"a": [1.0, 2.0, 3.0, 10.0], "b": [-10.0, -3.0, -2.0, -1.0]})  # skewed to the right, to the left
NEW = pd.DataFrame({"a": [2.0, 99.0, 0.0], "b": [-2.0, -99.0, -2.5]})
# Of 4 rows and the new one: at or below, at or above, in fifths. 2 has 3 and 4, 99 has 5 and 1, 0 has 1 and 5.
LEFT = -np.log(np.array([[3, 4], [5, 1], [1, 3]]) / 5)  # -2 has 4 and 3, -99 has 1 and 5, -2.5 has 3 and 3
RIGHT = -np.log(np.array([[4, 3], [1, 5], [5, 3]]) / 5)
SKEWED = np.column_stack([RIGHT[:, 0], LEFT[:, 1]])


def test_tails_by_hand() -> None:
    left, right, skewed = Tails().fit(FOUR.to_numpy(np.float32)).of(NEW.to_numpy(np.float32))
    np.testing.assert_allclose(left, LEFT, atol=1e-12)
    np.testing.assert_allclose(right, RIGHT, atol=1e-12)
    np.testing.assert_allclose(skewed, SKEWED, atol=1e-12)


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        (ECOD(), np.maximum(LEFT, RIGHT).sum(axis=1)),
        (ECOD(largest="row"), np.maximum(np.maximum(LEFT.sum(axis=1), RIGHT.sum(axis=1)), SKEWED.sum(axis=1))),
        (COPOD(), np.maximum(SKEWED, (LEFT + RIGHT) / 2).sum(axis=1)),
        (COPOD(largest="row"), np.maximum(np.maximum(LEFT.sum(axis=1), RIGHT.sum(axis=1)), SKEWED.sum(axis=1))),
    ],
)
def test_scores_by_hand_and_their_parts(detector: ECOD | COPOD, expected: np.ndarray) -> None:
    fitted = detector.fit(view(FOUR, [0] * 4))
    np.testing.assert_allclose(fitted.score(batch(NEW)).sample, expected, rtol=1e-6)
    parts = fitted.explain(batch(NEW))
    assert list(parts.columns) == ["a", "b"]
    np.testing.assert_allclose(parts.sum(axis=1), expected, rtol=1e-5)


@pytest.mark.parametrize("cls", [ECOD, COPOD])
def test_refuses_a_state_of_other_columns(cls: type[ECOD] | type[COPOD]) -> None:
    state = cls(rows=20).fit(view(mixed(50), [0] * 50)).state()
    assert state.arrays["sorted"].shape == (7, 20)
    state.arrays["sorted"] = state.arrays["sorted"][:3]
    with pytest.raises(DataError, match=r"sorted columns must be \(7, m\), got \(3, 20\)"):
        cls().from_state(state)
