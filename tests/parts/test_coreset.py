import numpy as np
import pytest
import torch

from pipeline.parts.coreset import k_centre_greedy, project


def exact(points: np.ndarray, count: int, start: int) -> list[int]:
    """The greedy as it is written, one centre at a time, in double precision."""
    nearest, chosen = np.full(len(points), np.inf), [start]
    while True:
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
        if len(chosen) == count:
            return chosen
        chosen.append(int(nearest.argmax()))


def radius(points: np.ndarray, chosen: np.ndarray) -> float:
    return np.linalg.norm(points[:, None] - points[chosen][None], axis=2).min(axis=1).max()


@pytest.mark.parametrize("block", [1, 3, 16, 64])
@pytest.mark.parametrize(("n", "d", "count"), [(700, 5, 90), (300, 40, 300), (50, 2, 20)])
def test_blocks_pick_what_the_plain_greedy_picks(n: int, d: int, count: int, block: int) -> None:
    points = np.random.default_rng(n).normal(3, 1, (n, d))
    picked = k_centre_greedy(torch.from_numpy(points), count, start=7, block=block).tolist()
    assert picked == exact(points.astype(np.float32).astype(float), count, 7)


def test_ties_leave_the_same_covering_radius() -> None:
    points = np.stack(np.meshgrid(np.arange(12), np.arange(12)), axis=-1).reshape(-1, 2).astype(float)
    for count in (4, 9, 30):
        picked = k_centre_greedy(torch.from_numpy(points), count, block=8).numpy()
        assert len(set(picked.tolist())) == count
        # on a grid the greedy has many equal choices; whichever it takes, each centre was the farthest point
        gaps = [radius(points, picked[:k]) for k in range(1, count)]
        new = [np.linalg.norm(points[picked[k]] - points[picked[:k]], axis=1).min() for k in range(1, count)]
        np.testing.assert_allclose(new, gaps)


def test_copies_are_chosen_only_after_everything_else() -> None:
    points = torch.tensor([[0.0], [0.0], [5.0], [5.0], [9.0]])
    picked = k_centre_greedy(points, 5).tolist()
    assert sorted(picked) == [0, 1, 2, 3, 4]
    assert set(points[picked[:3], 0].tolist()) == {0.0, 5.0, 9.0}


def test_a_projection_keeps_distances_and_repeats() -> None:
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 500))).float()
    low = project(points, 200, seed=3)
    assert low.shape == (40, 200)
    assert torch.equal(low, project(points, 200, seed=3))
    assert not torch.equal(low, project(points, 200, seed=4))
    ratio = torch.pdist(low) / torch.pdist(points)
    assert ratio.min() > 0.7
    assert ratio.max() < 1.3
    assert abs(ratio.mean() - 1) < 0.02
