from typing import Any

import numpy as np
import pytest

from pipeline import scoring
from pipeline.protocols import Batch, Scores
from tests.pictures import stripes, view


class Noting:
    """Scores 0, 1, 2, ... in the order of what it is given, and the sizes of the batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def score(self, batch: Batch) -> Scores:
        first = sum(self.sizes)
        self.sizes.append(len(batch))
        return Scores(np.arange(first, first + len(batch), dtype=np.float32))


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, [1]), (31, [31]), (32, [32]), (33, [22, 11]), (48, [32, 16]), (64, [32, 32]), (65, [26, 26, 13])],
)
def test_batches_are_of_one_size_and_the_last_is_half_full(n: int, expected: list[int]) -> None:
    detector: Any = Noting()
    found = scoring.score(detector, view(stripes(n, 0)), keep_local=False).scores.sample
    assert detector.sizes == expected
    assert found.tolist() == list(range(n))


def test_a_batch_of_one_is_kept() -> None:
    detector: Any = Noting()
    scoring.score(detector, view(stripes(3, 0)), 1, keep_local=False)
    assert detector.sizes == [1, 1, 1]
