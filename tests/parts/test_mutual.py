import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from pipeline.errors import DataError
from pipeline.parts import mutual
from pipeline.parts.mutual import aggregated, distances, interval_mean, levelled, rescored, room, scored


def pictures(n: int, seed: int, width: int = 3) -> Tensor:
    return torch.randn(n, width, 4, 5, generator=torch.Generator().manual_seed(seed))


def everywhere(maps: Tensor) -> Tensor:
    return torch.ones(len(maps), *maps.shape[2:], dtype=torch.bool)


def nobody(n: int, m: int) -> Tensor:
    return torch.zeros(n, m, dtype=torch.bool)


def test_degree_one_is_the_token_and_three_the_mean_around_it() -> None:
    maps = pictures(2, 0)
    tokens = maps.flatten(2).mT
    np.testing.assert_allclose(aggregated(maps, 1), tokens / tokens.norm(dim=2, keepdim=True), rtol=1e-6)
    around = maps[1, :, 0:3, 1:4].mean(dim=(1, 2))  # of row 1, column 2
    np.testing.assert_allclose(aggregated(maps, 3)[1, 1 * 5 + 2], around / around.norm(), rtol=1e-5)


def test_levelling_sees_what_counts_alone() -> None:
    maps, inside = pictures(2, 0), everywhere(pictures(2, 0))
    inside[:, :2] = False
    other = maps.clone()
    other[:, :, :2] = 100
    found = levelled(maps, inside)
    assert torch.equal(found, levelled(other, inside))
    assert (found[:, :, :2] == 0).all()
    kept = maps[0, :, 2:].numpy()
    np.testing.assert_allclose(found[0, :, 2:], (kept - kept.mean()) / kept.std(), rtol=1e-4, atol=1e-6)


def test_distances_are_those_of_brute_force_and_zero_for_a_copy() -> None:
    others, one = aggregated(pictures(6, 0), 1), aggregated(pictures(1, 1), 1)[0]
    others[3] = one
    inside = torch.ones(6, 20, dtype=torch.bool)
    inside[0, :15] = False
    expected = [cdist(one, other[counts]).min(axis=1) for other, counts in zip(others, inside, strict=True)]
    found = distances(one, others, inside)
    np.testing.assert_allclose(found, np.transpose(expected), atol=1e-6)
    assert (found[:, 3] == 0).all()


def test_the_lowest_share_is_averaged() -> None:
    found = torch.tensor([[5.0, 1.0, 4.0, 2.0, 9.0, 3.0, 8.0]])
    assert interval_mean(found, 0.3).tolist() == [1.5]  # int(2.1) of them
    assert interval_mean(found, 0.01).tolist() == [1.0]
    assert interval_mean(found, 1.0).item() == pytest.approx(32 / 7)


def test_a_copy_in_the_batch_is_least_odd() -> None:
    maps = pictures(8, 0)
    maps[5] = maps[2]
    inside, itself = everywhere(maps), torch.eye(8, dtype=torch.bool)
    (found,) = scored([maps], [inside], [maps], [inside], itself, [1, 3], 0.2, 10)  # int(0.2 * 7): the nearest alone
    assert (found[[2, 5]] == 0).all()
    assert (found[[0, 1, 3, 4, 6, 7]] > 0).all()


def test_blocks_give_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    maps, others = (torch.randn(n, 40, 10, 15, generator=generator) for n in (20, 9))
    arguments = ([maps], [everywhere(maps)], [others], [everywhere(others)], nobody(20, 9), [1, 3], 0.3)
    assert room(100, 100, 50) == 100 * 10**6 // 80_000
    assert room(1, 100, 200) == 10**6 // 240_000  # aggregation holds more than the products do
    met: list[int] = []
    groups: list[int] = []

    def meeting(tokens: Tensor, some: Tensor, inside: Tensor) -> Tensor:
        met.append(len(some))
        return distances(tokens, some, inside)

    def grouping(some: Tensor, degree: int) -> Tensor:
        groups.append(len(some))
        return aggregated(some, degree)

    monkeypatch.setattr(mutual, "distances", meeting)
    monkeypatch.setattr(mutual, "aggregated", grouping)
    (whole,) = scored(*arguments, 100)
    assert met == [9] * 20 * 2  # 20 images at 2 degrees
    assert groups == [20, 9] * 2
    met.clear()
    groups.clear()
    (blocks,) = scored(*arguments, 1)
    assert torch.equal(whole, blocks)
    assert groups == [18, 7, 2, 2, 7, 2] * 2  # 18 images, then 2, each meet 7 others, then 2
    assert met == ([7] * 18 + [2] * 18 + [7] * 2 + [2] * 2) * 2
    with pytest.raises(
        DataError, match="memory must hold the distances between two images of 1000 tokens, 5 MB, got 4"
    ):
        room(4, 1000, 10)


def test_rescoring_by_hand() -> None:
    feature = torch.tensor([[1.0, 0.0]])
    of = torch.tensor([[0.6, 0.8], [0.8, 0.6], [-1.0, 0.0], [1.0, 0.0]])
    left_out = torch.tensor([[False, False, False, True]])
    found = rescored(torch.tensor([1.0]), feature, torch.tensor([2.0, 5.0, 9.0, 100.0]), of, left_out, [1, 2, 3])
    two, three = (1 + 0.8 * 5) / 1.8, (1 + 0.8 * 5 + 0.6 * 2) / 2.4
    assert found.item() == pytest.approx((1 + two + three) / 3, rel=1e-6)


def test_who_leaves_out_many_takes_no_neighbours_from_the_others() -> None:
    feature = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    of = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    left_out = torch.tensor([[False, False, False], [True, False, True]])
    others = torch.tensor([2.0, 5.0, 9.0])
    both = rescored(torch.tensor([1.0, 1.0]), feature, others, of, left_out, [1, 3])
    for i in range(2):
        alone = rescored(torch.ones(1), feature[i : i + 1], others, of, left_out[i : i + 1], [1, 3])
        assert both[i] == alone[0]
    assert both[0].item() == pytest.approx((1 + (1 + 0.8 * 5 + 0.6 * 2) / 2.4) / 2, rel=1e-6)
    assert both[1].item() == pytest.approx((1 + (1 + 0.8 * 5) / 1.8) / 2, rel=1e-6)
