import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from pipeline.parts import neighbours
from pipeline.parts.neighbours import Bank, nearest


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("count", [1, 4])
def test_agrees_with_brute_force(count: int, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "ROWS", 20)  # several blocks both ways, the last ones smaller
    monkeypatch.setattr(neighbours, "COLUMNS", 40)
    rng = np.random.default_rng(0)
    queries, bank = rng.normal(size=(50, 8)), 1000 * rng.normal(size=(90, 8))  # beyond the range of float16 squared
    queries[:25] *= 1000
    distance, index = Bank(torch.from_numpy(bank).float(), half).nearest(torch.from_numpy(queries).float(), count)
    true = cdist(queries, bank)
    np.testing.assert_array_equal(index, np.argsort(true, axis=1)[:, :count])
    np.testing.assert_allclose(distance, np.sort(true, axis=1)[:, :count], rtol=1e-5)


def test_more_neighbours_than_points_are_all_points() -> None:
    points = torch.eye(3)
    distance, index = nearest(points, points, 5)
    assert index[:, 0].tolist() == [0, 1, 2]
    assert distance.shape == (3, 3)


def test_a_copy_is_at_distance_zero_even_far_from_the_origin() -> None:
    bank = torch.from_numpy(np.random.default_rng(1).normal(1e4, 1, (30, 16))).float()
    distance, index = nearest(bank, bank)
    assert torch.equal(index[:, 0], torch.arange(30))
    assert distance.abs().max() == 0
