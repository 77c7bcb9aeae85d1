"""Every detector of the table keeps the Detector contract."""

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from pipeline import detectors, store
from pipeline.errors import DataError, NotFittedError
from pipeline.files import sha256
from pipeline.params import build
from pipeline.protocols import Batch, Detector, Scores
from pipeline.tables import find
from tests.contract.worlds import SPOILED, World

# What a detector needs to learn a tiny world in seconds; everything else stands at its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "image/draem": {
        "steps": 30,
        "batch": 4,
        "labelled": 2,
        "depth": 2,
        "width": 4,
        "compare": 8,
        "rate": 1e-2,
        "shrink": 4,
    },
    "image/fader": {"steps": 40, "attenuating": 10, "batch": 4, "width": 8, "depth": 1, "rate": 1e-2},
    "image/onenip": {"steps": 30, "batch": 4, "width": 32, "hidden": 16, "rate": 8e-3},
    "image/simplenet": {"steps": 300, "batch": 512, "backbone": {"name": "filterbank", "levels": [0]}},
    "image/efficientad": {"teacher_steps": 10, "steps": 40, "width": 8, "hidden": 8},
    "image/supersimplenet": {"steps": 60},
    "image/musc": {"references": 24, "degrees": [1, 3], "backbone": {"name": "filterbank", "levels": [0]}},
    "image/anomalyncd": {"steps": 40, "views": 2, "crop": 32, "thresholds": 16},
    "image/fastflow": {
        "steps": 30,
        "batch": 4,
        "couplings": 2,
        "rate": 5e-3,
        "backbone": {"name": "filterbank", "levels": [0, 1]},
    },
    "image/cflow": {
        "steps": 60,
        "batch": 256,
        "couplings": 4,
        "condition": 16,
        "rate": 5e-3,
        "backbone": {"name": "filterbank", "levels": [0, 1]},
    },
    "image/resad": {
        "steps": 40,
        "batch": 4,
        "couplings": 2,
        "codes": 16,
        "rate": 5e-3,
        "backbone": {"name": "filterbank", "levels": [0, 1]},
    },
    "image/dinomaly": {"steps": 40, "depth": 2, "width": 32, "backbone": {"name": "filterbank", "levels": [0]}},
    "image/inpformer": {"steps": 40, "depth": 2, "width": 32, "backbone": {"name": "filterbank", "levels": [0]}},
    "image/stfpm": {"steps": 60, "batch": 4, "backbone": {"name": "filterbank", "levels": [0, 1]}},
    "image/reverse_distillation": {"steps": 60, "batch": 4, "width": 8, "code": 32},
    "image/destseg": {"steps": 50, "batch": 4, "width": 4, "hidden": 16, "rate": 1e-2},
    "image/uniconha": {"steps": 30, "images": 6, "width": 8, "kept": 500, "patch": 0.25},
    "image/realnet_classifier": {"steps": 40, "batch": 10, "width": 8, "depth": 2},
    "table/semi_supervised": {"steps": 100, "rate": 0.01},
    "table/autoencoder": {"steps": 200},
}
# as little as shows that a fit is repeatable, forgets, and stands one sample
BRIEF: dict[str, dict[str, Any]] = {
    "image/draem": {"steps": 4},
    "image/fader": {"steps": 4, "attenuating": 2},
    "image/onenip": {"steps": 4},
    "image/simplenet": {"steps": 20},
    "image/efficientad": {"teacher_steps": 3, "steps": 6},
    "image/supersimplenet": {"steps": 6},
    "image/anomalyncd": {"steps": 3},
    "image/fastflow": {"steps": 4},
    "image/cflow": {"steps": 4},
    "image/resad": {"steps": 4},
    "image/dinomaly": {"steps": 4},
    "image/inpformer": {"steps": 4},
    "image/stfpm": {"steps": 4},
    "image/reverse_distillation": {"steps": 4},
    "image/destseg": {"steps": 4},
    "image/uniconha": {"steps": 2, "images": 4},
    "image/realnet_classifier": {"steps": 5},
    "table/semi_supervised": {"steps": 20},
    "table/autoencoder": {"steps": 20},
}
KEYS = list(detectors.TABLE)
Worlds = Callable[[str], World]


def make(key: str) -> Detector:
    return build(find(detectors, key, "detector"), SMALL.get(key, {}), "candidates.x")


def brief(key: str) -> Detector:
    return build(find(detectors, key, "detector"), SMALL.get(key, {}) | BRIEF.get(key, {}), "candidates.x")


@pytest.fixture(scope="session")
def fitted(worlds: Worlds) -> Callable[[str], Detector]:
    made: dict[str, Detector] = {}

    def get(key: str) -> Detector:
        if key not in made:
            made[key] = make(key).fit(worlds(key.split("/")[0]).train)
        return made[key]

    return get


def whole(world: World) -> Batch:
    (batch,) = world.test.batches(len(world.test))
    return batch


def same(one: Scores, other: Scores) -> bool:
    equal = np.array_equal(one.sample, other.sample)
    return (
        equal
        and (one.local is None) == (other.local is None)
        and (one.local is None or np.array_equal(one.local, other.local))
    )


@pytest.mark.parametrize("key", KEYS)
def test_ranks_a_planted_anomaly_first(key: str, worlds: Worlds, fitted: Callable[[str], Detector]) -> None:
    scores = fitted(key).score(whole(worlds(key.split("/")[0])))
    assert scores.sample.dtype == np.float32
    assert scores.sample.shape == (17,)
    assert scores.sample.argmax() == 16


@pytest.mark.parametrize("key", KEYS)
def test_a_local_map_peaks_on_the_defect(key: str, worlds: Worlds, fitted: Callable[[str], Detector]) -> None:
    batch = whole(worlds(key.split("/")[0]))
    local = fitted(key).score(batch).local
    if local is None:
        assert "local" not in key
        return
    assert local.dtype == np.float32
    assert batch.mask is not None
    assert local.shape == batch.mask.shape
    near = np.argwhere(batch.mask[-1]) - np.unravel_index(local[-1].argmax(), local[-1].shape)
    assert np.hypot(*near.T).min() <= 4


@pytest.mark.parametrize("key", KEYS)
def test_survives_save_and_load_bit_for_bit(
    key: str, worlds: Worlds, fitted: Callable[[str], Detector], tmp_path: Path
) -> None:
    world = worlds(key.split("/")[0])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        store.save(fitted(key), key, tmp_path / name, kind=key.split("/")[0], modality=world.modality, data="0" * 64)
    loaded = store.load(tmp_path / "one")
    assert asdict(loaded.detector) == asdict(make(key))
    assert same(loaded.detector.score(whole(world)), fitted(key).score(whole(world)))
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")


@pytest.mark.parametrize("key", KEYS)
def test_repeats_under_its_seed_and_forgets_an_earlier_fit(key: str, worlds: Worlds) -> None:
    world, detector = worlds(key.split("/")[0]), brief(key)
    with threadpool_limits(2):  # the order in which threads end must not matter, however few a worker of pytest has
        half = detector.fit(world.train[np.arange(len(world.train)) % 2 == 0])
        before = half.score(whole(world))
        again, first = half.fit(world.train).score(whole(world)), brief(key).fit(world.train).score(whole(world))
    assert same(again, first)
    assert not same(again, before)


@pytest.mark.parametrize("key", KEYS)
def test_does_not_care_about_batch_size(key: str, worlds: Worlds, fitted: Callable[[str], Detector]) -> None:
    world = worlds(key.split("/")[0])
    apart = np.concatenate([fitted(key).score(batch).sample for batch in world.test.batches(5)])
    together = fitted(key).score(whole(world)).sample
    np.testing.assert_allclose(apart, together, rtol=1e-4, atol=1e-5)  # float32 sums of other lengths


@pytest.mark.parametrize("key", KEYS)
def test_scoring_changes_nothing(key: str, worlds: Worlds, fitted: Callable[[str], Detector]) -> None:
    batch = whole(worlds(key.split("/")[0]))
    first = fitted(key).score(batch)
    assert same(fitted(key).score(batch), first)


@pytest.mark.parametrize("key", KEYS)
def test_refuses_to_score_before_fit(key: str, worlds: Worlds) -> None:
    with pytest.raises(NotFittedError, match="fit"):
        make(key).score(whole(worlds(key.split("/")[0])))
    with pytest.raises(NotFittedError, match="fit"):
        make(key).state()


@pytest.mark.parametrize(("key", "word"), [(key, word) for key in KEYS for word in SPOILED[key.split("/")[0]]])
def test_refuses_spoiled_input_by_name(key: str, word: str, worlds: Worlds, fitted: Callable[[str], Detector]) -> None:
    world = worlds(key.split("/")[0])
    with pytest.raises(DataError, match=word) as error:
        fitted(key).score(world.spoiled[word](whole(world)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", KEYS)
def test_fits_on_one_sample_or_says_why_not(key: str, worlds: Worlds) -> None:
    world = worlds(key.split("/")[0])
    try:
        detector = brief(key).fit(world.train[:1])
    except DataError as error:
        assert "1" in str(error) or "anomal" in str(error)  # noqa: PT017
        return
    assert np.isfinite(detector.score(whole(world)).sample).all()


@pytest.mark.parametrize("key", KEYS)
def test_says_what_it_learns_from_and_where_it_comes_from(key: str) -> None:
    cls: Any = find(detectors, key, "detector")
    assert cls.learns_from in ("normals", "labels", "samples")
    assert len(cls.paper) > 10
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}(")  # the docstring that dataclass makes up
    assert all(not field.name.endswith("_") for field in fields(cls) if field.init)


def test_fitted_detectors_keep_the_protocol(fitted: Callable[[str], Detector]) -> None:
    for key in KEYS:
        assert isinstance(fitted(key), Detector)
        assert all(isinstance(value, float | int) for row in fitted(key).history_ for value in row.values())
