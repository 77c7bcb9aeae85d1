"""The paired bootstrap against pipeline.metrics on sets resampled sample by sample, and against closed forms."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from pipeline import metrics, paired
from pipeline.operation import PAIRED


def detection_rate(label: np.ndarray, alarm: np.ndarray) -> float:
    return metrics.decision_metrics(label, alarm, 0.5)["detection_rate"]


SLOW: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "auroc": metrics.auroc,
    "ap": metrics.average_precision,
    "f1_max": metrics.f1_max,
    "detection_rate": detection_rate,
}


def samples(normals: int, anomalies: int, seed: int, steps: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, shuffled, and scores of two models that agree somewhat and tie a lot."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.repeat([0, 1], [normals, anomalies]))
    common = rng.normal(label, 1)
    scores = [np.round(steps * (common + rng.normal(0, 1, len(label)))).astype(np.float32) / steps for _ in range(2)]
    return label, *scores


def resampled(label: np.ndarray, resamples: int, seed: int) -> list[np.ndarray]:
    """The positions that each draw holds, repeated as often as it holds them."""
    normals, anomalies = np.flatnonzero(label == 0), np.flatnonzero(label == 1)
    return [
        np.concatenate([np.repeat(normals, normal), np.repeat(anomalies, anomalous)])
        for some in paired._draws(len(normals), len(anomalies), resamples, seed)
        for normal, anomalous in zip(*some, strict=True)
    ]


def test_every_metric_that_params_allow_is_there() -> None:
    assert set(paired.FIGURES) == set(PAIRED) == set(SLOW)


@pytest.mark.parametrize("metric", PAIRED)
@pytest.mark.parametrize(("normals", "anomalies"), [(40, 15), (7, 30), (1, 1), (1, 9), (9, 1)])
def test_it_is_the_metric_on_every_resampled_set(metric: str, normals: int, anomalies: int) -> None:
    label, candidate, champion = samples(normals, anomalies, seed=normals)
    if metric == "detection_rate":
        candidate, champion = (candidate > 1).astype(int), (champion > 1).astype(int)
    found = paired.interval(metric, label, candidate, champion, 0.9, 200, seed=3)
    slow = SLOW[metric]
    differences = [
        slow(label[drawn], candidate[drawn]) - slow(label[drawn], champion[drawn])
        for drawn in resampled(label, 200, seed=3)
    ]
    assert len(differences) == 200
    assert found.candidate == pytest.approx(slow(label, candidate), abs=1e-12)
    assert found.champion == pytest.approx(slow(label, champion), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(differences, [0.05, 0.95])), abs=1e-12)


def test_each_class_is_drawn_by_itself_and_alike_often() -> None:
    normal, anomalous = (np.concatenate(w) for w in zip(*paired._draws(30, 10, 4000, seed=0), strict=True))
    assert (normal.shape, anomalous.shape) == ((4000, 30), (4000, 10))
    assert set(normal.sum(1)) == {30}
    assert set(anomalous.sum(1)) == {10}
    # a multinomial weight has mean 1 and variance 1 - 1/n
    np.testing.assert_allclose(normal.mean(0), 1, atol=5 / 4000**0.5)
    np.testing.assert_allclose(anomalous.var(0), 0.9, atol=0.15)


def test_equal_models_differ_by_nothing_in_every_resample() -> None:
    label, candidate, _ = samples(50, 20, seed=0)
    for metric in ("auroc", "ap", "f1_max"):
        found = paired.interval(metric, label, candidate, 3 * candidate)  # ranks count
        assert (found.low, found.high) == (0.0, 0.0)


def test_the_interval_is_as_wide_as_theory_says() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], [10, 900])
    champion = rng.random(910) < 0.6
    candidate = np.where(rng.random(910) < 0.2, rng.random(910) < 0.9, champion)
    found = paired.interval("detection_rate", label, candidate.astype(int), champion.astype(int), 0.95, 20_000)
    apart = candidate[label == 1].astype(float) - champion[label == 1]
    error = apart.std() / 900**0.5  # of a mean of pairs; as independent samples it would be three times that
    assert found.low == pytest.approx(apart.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(apart.mean() + 1.96 * error, abs=0.1 * error)


def test_seed_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    label, candidate, champion = samples(33, 12, seed=5)
    first = paired.interval("ap", label, candidate, champion, seed=1)
    assert paired.interval("ap", label, candidate, champion, seed=1) == first
    assert paired.interval("ap", label, candidate, champion, seed=2) != first
    for cells in (1, 45 * 7):  # one resample at a time, seven
        monkeypatch.setattr(paired, "CELLS", cells)
        assert paired.interval("ap", label, candidate, champion, seed=1) == first


@pytest.mark.parametrize("label", [[0, 0, 0], [1, 1, 1]])
def test_one_class_alone_says_nothing(label: list[int]) -> None:
    assert paired.interval("auroc", np.array(label), np.arange(3.0), np.arange(3.0)) is None


def test_memory_does_not_grow_with_the_resamples() -> None:
    label, candidate, champion = samples(9000, 1000, seed=0, steps=10_000)
    tracemalloc.start()
    try:
        found = paired.interval("auroc", label, candidate, champion, resamples=2000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.low < found.candidate - found.champion < found.high
    assert peak < 128 * 2**20  # all weights at once would be 160 MB, thrice over
