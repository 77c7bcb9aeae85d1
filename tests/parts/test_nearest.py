import numpy as np
import pytest

from pipeline.parts import nearest
from pipeline.parts.nearest import NARROW, Nearest


@pytest.mark.parametrize("columns", [1, NARROW, NARROW + 1, 40])
def test_equals_every_distance_sorted_whatever_the_batch(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    bank, x = (rng.normal(100, 1, (n, columns)).astype(np.float32) for n in (300, 50))
    distance, place = Nearest(bank).of(x, 7)
    every = np.sqrt(((x[:, None].astype(np.float64) - bank[None]) ** 2).sum(axis=2))
    np.testing.assert_allclose(distance, np.sort(every, axis=1)[:, :7], rtol=1e-12)
    np.testing.assert_array_equal(place, np.argsort(every, axis=1)[:, :7])
    monkeypatch.setattr(nearest, "BLOCK", 1000)  # a few rows at a time
    apart = [Nearest(bank).of(x[i : i + 1], 7)[0] for i in range(50)]
    np.testing.assert_array_equal(np.concatenate(apart), distance)
    np.testing.assert_array_equal(Nearest(bank).of(x, 7)[0], distance)


@pytest.mark.parametrize("columns", [3, 20])
def test_as_many_neighbours_as_rows_equal_rows_and_no_rows(columns: int) -> None:
    bank = np.zeros((5, columns), np.float32)
    distance, place = Nearest(bank).of(bank[:2] + 1, 5)
    np.testing.assert_allclose(distance, np.full((2, 5), np.sqrt(columns)))
    assert sorted(place[0]) == [0, 1, 2, 3, 4]
    assert Nearest(bank).of(bank[:0], 2)[0].shape == (0, 2)
