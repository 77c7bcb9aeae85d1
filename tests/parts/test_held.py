import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import DataError
from pipeline.parts import features
from pipeline.parts.features import Backbone, Features
from pipeline.parts.held import hold
from pipeline.parts.regions import counted
from pipeline.protocols import Batch
from pipeline.samples import View
from tests.pictures import SIDE, stripes, view, whole

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bank() -> Features:
    return features.load(Backbone(levels=[0, 3]))


def test_maps_mean_and_spread_are_those_of_the_positions_that_count(bank: Features) -> None:
    x, region = stripes(20, 0), np.ones((20, SIDE, SIDE), bool)
    region[3, :, :30] = False
    x[3, :, :, :20] = 255  # far from what counts, so it must not be in the mean
    some = view(x, region=region, category=[f"kind-{i % 2}" for i in range(20)])
    held, maps = hold(bank, some, 100, 0), bank.maps(x)
    assert len(held) == 20
    assert held.at.tolist() == list(range(20))
    assert held.size == (SIDE, SIDE)
    assert held.category == ["kind-0", "kind-1"] * 10
    for level, inside, mean, spread, scale, own in zip(
        held.levels, held.inside, held.mean, held.spread, held.scale, maps, strict=True
    ):
        assert level.dtype == torch.float16
        torch.testing.assert_close(level, own.half(), atol=1e-3, rtol=1e-3)
        assert torch.equal(inside, counted(whole(some), own.shape[2:], CPU))
        assert not inside[3].all()
        rows = own.permute(0, 2, 3, 1)[inside].double()
        torch.testing.assert_close(mean.double(), rows.mean(dim=0), rtol=1e-4, atol=1e-6)
        deviation = rows.std(dim=0, correction=0)
        torch.testing.assert_close(spread.double(), deviation.clamp(min=1e-3 * deviation.max()), rtol=1e-3, atol=1e-6)
        square, seen = (rows**2).mean(dim=0).sqrt(), (rows != 0).any(dim=0)
        torch.testing.assert_close(scale.double()[seen], square[seen], rtol=1e-3, atol=1e-6)
        assert (scale > 0).all()


def test_the_cache_holds_what_it_may_drawn_evenly(bank: Features, caplog: pytest.LogCaptureFixture) -> None:
    bytes_ = 2 * 16 * (12 * 12 + 6 * 6)  # of an image: 16 channels of half precision at both levels
    count = 10**6 // bytes_ + 30
    some = view(np.concatenate([stripes(10, i) for i in range(-(-count // 10))])[:count])
    with caplog.at_level(logging.WARNING):
        held = hold(bank, some, 1, 5)
    assert len(held) == 10**6 // bytes_
    assert sum(level.numel() * 2 for level in held.levels) <= 10**6
    assert f"cache holds {len(held)} of {count} images" in caplog.text
    assert (np.diff(held.at) > 0).all()
    everything = hold(bank, some, 100, 5)
    for level, own in zip(held.levels, everything.levels, strict=True):
        assert torch.equal(level, own[torch.from_numpy(held.at)])
    for mean, own in zip(held.mean, everything.mean, strict=True):  # of all images, held or not
        assert torch.equal(mean, own)
    assert np.array_equal(hold(bank, some, 1, 5).at, held.at)
    assert not np.array_equal(hold(bank, some, 1, 6).at, held.at)


def test_what_is_held_is_what_prepare_makes(bank: Features) -> None:
    seen = []

    def prepare(maps: list[Tensor], batch: Batch) -> list[Tensor]:
        seen.extend(batch.ids)
        return [maps[1] * 0 + 1e6, torch.from_numpy(batch.x).float()]

    x = stripes(20, 1)
    held = hold(bank, view(x), 100, 0, prepare)
    assert seen == view(x).ids
    assert (held.levels[0] == 65504).all()  # the largest of half precision, not infinity
    assert np.array_equal(held.levels[1].numpy(), x)
    assert held.inside[1].shape == (20, SIDE, SIDE)


def test_draws_go_round_by_round_in_the_order_of_the_seed(bank: Features) -> None:
    held = hold(bank, view(stripes(5, 2)), 100, 0)

    def order(seed: int) -> list[int]:
        found = []
        for levels, inside in held.draws(4, 3, np.random.default_rng(seed), CPU):
            assert [level.dtype for level in levels] == [torch.float32] * 2
            assert [len(level) for level in (*levels, *inside)] == [3] * 4
            found += [
                next(i for i, own in enumerate(held.levels[0]) if torch.equal(own.float(), one)) for one in levels[0]
            ]
        return found

    first = order(0)
    assert len(first) == 12
    assert sorted(first[:5]) == sorted(first[5:10]) == list(range(5))
    assert first == order(0)
    assert first != order(1)


def test_refusals(bank: Features) -> None:
    x = np.zeros((1, 3, 800, 800), np.uint8)
    with pytest.raises(DataError, match=r"cache must hold the maps of one image, 1\.6 MB, got 1$"):
        hold(bank, view(x), 1, 0)
    small = view(stripes(17, 0))

    def shrunk(rows: object) -> Batch:
        batch = whole(small[np.arange(len(rows))])
        return Batch(batch.ids, batch.x[:, :, :40] if len(rows) == 1 else batch.x, batch.label)

    with pytest.raises(DataError, match="48 high and 48 wide, as the first in training, got 40 x 48"):
        hold(bank, View(small.rows, shrunk), 100, 0)
