import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from pipeline.parts import neighbours
from pipeline.parts.neighbours import nearest


@pytest.mark.parametrize("count", [1, 4])
def test_agrees_with_brute_force(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CELLS", 1000)  # several blocks
    rng = np.random.default_rng(0)
    queries, bank = rng.normal(size=(50, 8)), rng.normal(size=(90, 8))
    distance, index = nearest(torch.from_numpy(queries).float(), torch.from_numpy(bank).float(), count)
    true = cdist(queries, bank)
    np.testing.assert_array_equal(index, np.argsort(true, axis=1)[:, :count])
    np.testing.assert_allclose(distance, np.sort(true, axis=1)[:, :count], rtol=1e-5)


def test_a_copy_is_at_distance_zero_even_far_from_the_origin() -> None:
    bank = torch.from_numpy(np.random.default_rng(1).normal(1e4, 1, (30, 16))).float()
    distance, index = nearest(bank, bank)
    assert torch.equal(index[:, 0], torch.arange(30))
    assert distance.abs().max() == 0
