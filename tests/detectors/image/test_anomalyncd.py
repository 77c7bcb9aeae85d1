import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.detectors.image.anomalyncd import AnomalyNCD
from pipeline.errors import DataError, NotFittedError
from pipeline.parts import discovery
from pipeline.protocols import Samples
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {
    "classes": 2,
    "steps": 30,
    "hidden": 32,
    "batch": 24,
    "views": 2,
    "crop": 32,
    "thresholds": 16,
    "coreset": 0.05,
    "correction": 0.0,
}


def kinds(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stripes of which half carry a bright disc and half a dark bar; the kinds, and masks."""
    rng, x = np.random.default_rng(seed), stripes(n, seed)
    row, column = np.mgrid[:SIDE, :SIDE]
    kind, mask = np.arange(n) % 2, np.zeros((n, SIDE, SIDE), bool)
    for i in range(n):
        a, b = rng.integers(14, 34, 2)
        disc, bar = (row - a) ** 2 + (column - b) ** 2 < 36, (abs(row - a) < 2) & (abs(column - b) < 12)
        mask[i] = bar if kind[i] else disc
        x[i][:, mask[i]] = 0 if kind[i] else 250
    return x, kind, mask


def line(n: int, seed: int) -> tuple[Samples, np.ndarray]:
    """Ten normals, then n anomalies of two kinds; these kinds."""
    x, kind, mask = kinds(n, seed)
    train = np.concatenate([stripes(10, seed + 1), x])
    masks = np.concatenate([np.zeros((10, SIDE, SIDE)), mask])
    return view(train, np.r_[np.zeros(10), np.ones(n)], masks), kind


def told_apart(found: np.ndarray, kind: np.ndarray) -> float:
    """Share of images in the right class, by the better of both matches."""
    return max((found == kind).mean(), (found == 1 - kind).mean())


@pytest.fixture(scope="module")
def fitted() -> AnomalyNCD:
    return AnomalyNCD(**TINY | {"steps": 60}).fit(line(16, 0)[0])


def test_two_kinds_are_told_apart_and_the_loss_falls(fitted: AnomalyNCD) -> None:
    x, kind, _ = kinds(10, 5)
    assert told_apart(fitted.classify(whole(view(x))), kind) == 1.0
    assert [row["step"] for row in fitted.history_] == list(range(1, 61))
    total = [row["contrast"] + row["guess"] + row["even"] for row in fitted.history_]
    assert np.mean(total[-10:]) < 0.95 * np.mean(total[:10])


def test_training_begins_at_the_centres_of_regions() -> None:
    train, kind = line(16, 0)
    start = AnomalyNCD(**TINY | {"steps": 0}).fit(train)
    assert start.history_ == []
    batch = whole(view(kinds(16, 0)[0]))
    found = start.classify(batch)
    assert told_apart(found, kind) == 1.0
    seen, whose, _ = start.regions(batch)
    placed = torch.nn.functional.normalize(start.space_.placed(torch.from_numpy(seen)).mean(dim=1), dim=1)
    for one in (0, 1):  # as many looks of the same, save for how they are shifted
        mean = torch.nn.functional.normalize(placed[found[whose] == one].mean(dim=0), dim=0)
        assert mean @ start.net_.prototypes[0, one] > 0.95


def test_a_region_is_seen_under_its_mask(fitted: AnomalyNCD, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = whole(view(kinds(2, 5)[0]))
    seen, whose, areas = fitted.regions(batch)
    assert set(whose) == {0, 1}
    assert ((areas > 0) & (areas < 1)).all()
    monkeypatch.setattr(fitted, "guided", False)
    free, same, _ = fitted.regions(batch)
    np.testing.assert_array_equal(same, whose)
    assert np.abs(free - seen).max() > 0.01


def test_an_area_weighted_vote_decides(fitted: AnomalyNCD, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = (np.zeros((3, 2, 64), np.float32), np.array([0, 0, 1]), np.array([0.5, 0.1, 0.1], np.float32))
    monkeypatch.setattr(fitted, "regions", lambda batch: seen)
    monkeypatch.setattr(fitted, "_shares", lambda seen: torch.tensor([[0.9, 0.1], [0.05, 0.95], [0.3, 0.7]]))
    batch = whole(view(stripes(3, 0)))
    assert fitted.classify(batch).tolist() == [0, 1, -1]  # the large region; the only one; none
    monkeypatch.setattr(fitted, "merge", 100.0)
    assert fitted.classify(batch).tolist() == [1, 1, -1]  # one region, one vote


def test_low_regions_are_normal() -> None:
    x, _, mask = kinds(12, 0)
    faint = stripes(6, 3)
    faint[:, :, 20:24, 20:24] += 25  # labelled anomalous, hardly seen
    train = view(np.concatenate([stripes(10, 1), x, faint]), np.r_[np.zeros(10), np.ones(18)])
    settings = TINY | {"steps": 80, "even": 1.0}
    without = AnomalyNCD(**settings).fit(train)
    detector = AnomalyNCD(**settings | {"correction": 0.5}).fit(train)
    assert detector._outputs() == without._outputs() + 1
    test = whole(view(x, mask=mask))
    assert (detector.classify(test) == -1).sum() <= 4
    assert (without.classify(test) == -1).sum() == 0
    assert (detector.classify(whole(view(faint))) == -1).sum() >= 4


def test_maps_are_not_held_at_the_size_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, enlarged = AnomalyNCD(**TINY), AnomalyNCD._enlarged
    # numpy's memory is traced, torch's is not
    monkeypatch.setattr(
        detector, "_enlarged", lambda *given: torch.from_numpy(enlarged(detector, *given).numpy().copy()), raising=True
    )
    monkeypatch.setattr(detector, "_learn", lambda *given: None)
    most = []
    for n in (32, 96):
        train = line(n, 0)[0]
        detector.fit(train)  # what is loaded and cached once
        gc.collect()
        tracemalloc.start()
        detector.fit(train)
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    maps = 64 * SIDE * SIDE * np.dtype(np.float32).itemsize
    assert most[1] - most[0] < maps / 2


def test_of_a_cold_merge_only_the_largest_region_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others weigh 0 and are of anomalies all the same."""
    mask, given, starts = np.zeros((SIDE, SIDE), bool), [], discovery.starts
    mask[4:20, 4:20] = mask[40:44, 40:44] = True
    monkeypatch.setattr("pipeline.detectors.image.anomalyncd.standing_out", lambda *_: mask)
    monkeypatch.setattr(discovery, "starts", lambda *some: given.append(some) or starts(*some))
    AnomalyNCD(**TINY | {"merge": 2e-4, "correction": 0.5}).fit(line(16, 0)[0])
    _, _, odd, weight, *_ = given[0]
    assert odd.tolist() == [True] * 32 + [False] * 20
    assert weight.tolist() == [1.0, 0.0] * 26


def test_base_categories_teach_and_are_not_found() -> None:
    x, kind, mask = kinds(16, 0)
    train = view(
        np.concatenate([stripes(10, 1), x]),
        np.r_[np.zeros(10), np.ones(16)],
        np.concatenate([np.zeros((10, SIDE, SIDE)), mask]),
        category=["new"] * 18 + ["old"] * 8,
    )
    train.rows["defect"] = [""] * 10 + [("disc", "bar")[k] for k in kind]
    detector = AnomalyNCD(**TINY, base=["old"]).fit(train)
    assert detector.known_ == 2
    assert "known_contrast" in detector.history_[0]
    again = AnomalyNCD(**TINY, base=["old"]).from_state(detector.state())
    test = whole(view(kinds(6, 5)[0]))
    np.testing.assert_array_equal(again.classify(test), detector.classify(test))
    assert set(detector.classify(test)) <= {0, 1}
    with pytest.raises(DataError, match=r"base must name categories .* got \['other'\]"):
        AnomalyNCD(**TINY, base=["other"]).fit(train)


def test_repeats_survives_its_state_and_batches_do_not_matter() -> None:
    train, _ = line(12, 0)
    first = AnomalyNCD(**TINY).fit(train)
    x, _ = planted(3, 1)
    test = whole(view(np.concatenate([x, kinds(5, 9)[0]])))
    second = AnomalyNCD(**TINY).fit(line(4, 3)[0]).fit(train)
    for other in (second, AnomalyNCD(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
        np.testing.assert_array_equal(first.classify(test), other.classify(test))
    assert first.score(test).sample[:3].argmax() == 2
    samples = view(test.x)
    np.testing.assert_array_equal(
        np.concatenate([first.classify(batch) for batch in samples.batches(3)]), first.classify(test)
    )


def test_what_does_not_count_has_no_regions(fitted: AnomalyNCD) -> None:
    region = np.ones((4, SIDE, SIDE), bool)
    region[:, :, :24] = False
    batch = whole(view(stripes(4, 2), region=region))
    spoiled = batch.x.copy()
    spoiled[:, :, 10:20, 2:12] = 255
    assert (fitted.classify(replace(batch, x=spoiled, region=None)) >= 0).all()
    assert (fitted.score(replace(batch, x=spoiled)).local[:, :, :24] == 0).all()
    assert (fitted.classify(replace(batch, x=spoiled)) == fitted.classify(batch)).all()


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    for call in (AnomalyNCD().score, AnomalyNCD().classify):
        with pytest.raises(NotFittedError):
            call(batch)
    with pytest.raises(NotFittedError):
        AnomalyNCD().state()
    alone = AnomalyNCD(**TINY).fit(view(stripes(3, 0)))
    assert np.isfinite(alone.score(batch).sample).all()
    assert alone.history_ == []
    for one in (alone, AnomalyNCD(**TINY).from_state(alone.state())):
        with pytest.raises(DataError, match="classify needs anomalous images in training"):
            one.classify(batch)
    with pytest.raises(DataError, match="at least one anomaly for each of 3 classes, got 2"):
        AnomalyNCD().fit(line(2, 0)[0])
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        alone.score(replace(batch, x=batch.x[:, :, 1:]))
