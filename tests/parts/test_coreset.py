import numpy as np
import pytest
import torch

from pipeline.parts import coreset
from pipeline.parts.coreset import Coreset, k_centre_greedy, project


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


def test_a_stream_that_fits_gives_the_greedy_over_all_of_it() -> None:
    points = torch.from_numpy(np.random.default_rng(1).normal(size=(400, 6))).float()
    stream = Coreset(0.1, 400, room=400, seed=5)
    for part in points.split(70):
        stream.add(part)
    start = int(np.random.default_rng(5).integers(400))
    assert stream.reduced == 0
    assert torch.equal(stream.centres(), points[k_centre_greedy(points, 40, start)])


def test_a_stream_that_does_not_fit_is_reduced_and_covers_nearly_as_well() -> None:
    points = np.random.default_rng(2).normal(size=(6000, 3)).astype(np.float32)
    stream = Coreset(0.01, 6000, room=600)
    for part in torch.from_numpy(points).split(250):
        stream.add(part)
        assert stream._pool.shape == (600, 3)  # what is held does not grow
    centres = stream.centres().numpy()
    assert len(centres) == 60
    assert stream.reduced > 5
    assert {tuple(row) for row in centres.tolist()} <= {tuple(row) for row in points.tolist()}
    greedy = radius(points, k_centre_greedy(torch.from_numpy(points), 60).numpy())
    streamed = np.linalg.norm(points[:, None] - centres[None], axis=2).min(axis=1).max()
    assert streamed < 1.5 * greedy


def test_a_share_beyond_the_budget_is_cut_and_said(caplog: pytest.LogCaptureFixture) -> None:
    stream = Coreset(0.5, 1000, room=90)
    assert "holds 90 points: the coreset keeps 30, not the 500" in caplog.text
    stream.add(torch.rand(1000, 2))
    assert stream.centres().shape == (30, 2)


def test_points_in_blocks_of_rows_lose_none(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.from_numpy(np.random.default_rng(3).normal(size=(100, 4)))
    whole = k_centre_greedy(points, 30)
    monkeypatch.setattr(coreset, "ROWS", 7)
    assert torch.equal(k_centre_greedy(points, 30), whole)
