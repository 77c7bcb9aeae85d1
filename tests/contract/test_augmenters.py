"""Every augmenter keeps the Augmenter contract on the kinds of data that it can work on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline import augmenters
from pipeline.params import build
from pipeline.protocols import Batch
from pipeline.tables import find
from tests.contract.worlds import World

KIND = {"none": "table", "perlin": "image", "cutpaste": "image", "smote": "table"}  # a world that it can work on
Worlds = Callable[[str], World]


def run(key: str, world: World, seed: int) -> list[Batch]:
    cls = find(augmenters, key, "augment.kind")
    options: dict[str, Any] = {} if key == "none" else {"seed": seed, "share": 0.5}
    return list(build(cls, options, "augment").augment(world.train))


@pytest.mark.parametrize("key", augmenters.TABLE)
def test_adds_only_new_anomalies_with_unique_ids(key: str, worlds: Worlds) -> None:
    world = worlds(KIND[key])
    batches = run(key, world, seed=0)
    ids = [i for batch in batches for i in batch.ids]
    assert len(ids) == len(set(ids))
    assert not set(ids) & set(world.train.ids)
    for batch in batches:
        assert len(batch) == len(batch.x) == len(batch.label)
        assert (batch.label == 1).all()
        if batch.mask is not None:
            assert batch.mask.any(axis=tuple(range(1, batch.mask.ndim))).all()
            assert not batch.mask.all(axis=tuple(range(1, batch.mask.ndim))).any()


@pytest.mark.parametrize("key", augmenters.TABLE)
def test_equal_seeds_give_equal_bytes_and_other_seeds_others(key: str, worlds: Worlds) -> None:
    world = worlds(KIND[key])
    one, two, other = (run(key, world, seed) for seed in (3, 3, 4))
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.ids == b.ids
        np.testing.assert_array_equal(np.asarray(a.x), np.asarray(b.x))
    if one:
        assert not np.array_equal(np.asarray(one[0].x), np.asarray(other[0].x))
