"""Is the candidate better than the champion on the same test samples, or was it luck? A paired bootstrap.

Efron & Tibshirani, "An Introduction to the Bootstrap" (1993): normals and anomalies are drawn anew separately (8.3,
the two-sample problem), both models are measured on the same draw, and the interval of the difference of their
figures is that of its percentiles (13.3). A draw is a weight per sample, the number of times it was drawn: scores
are sorted once, and every figure is a sum over cumulated weights. Equal input and seed, equal bits.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

CELLS = 2**20  # weights that are held at a time: some tens of MB, however many samples and resamples


class Interval(NamedTuple):
    """The figures of both models on the samples themselves, and the interval of candidate - champion."""

    candidate: float
    champion: float
    low: float
    high: float


class _Ranked(NamedTuple):
    """One model's scores, sorted once. A level is a distinct score that an anomaly has, from the highest down."""

    normal: np.ndarray  # positions among the normals, scores falling
    anomalous: np.ndarray  # positions among the anomalies, scores falling
    alarms: int  # anomalies with a score above 0, for flags that are 0 or 1
    last: np.ndarray  # per level, the anomalies at or above it
    above: np.ndarray  # per level, the normals above it
    upto: np.ndarray  # per level, the normals at or above it


class _Drawn(NamedTuple):
    """Weights that `resamples` draws give to what a model's levels hold, int64 `(resamples, levels)`."""

    caught: np.ndarray
    false_above: np.ndarray
    false: np.ndarray
    normals: int
    anomalies: int
    alarms: np.ndarray  # (resamples,)


def _auroc(drawn: _Drawn) -> np.ndarray:
    rise = np.diff(drawn.caught, axis=1, prepend=0)
    below = 2 * drawn.normals - drawn.false_above - drawn.false  # twice, since ties count half
    return np.einsum("rl,rl->r", rise, below) / (2 * drawn.normals * drawn.anomalies)


def _average_precision(drawn: _Drawn) -> np.ndarray:
    rise = np.diff(drawn.caught, axis=1, prepend=0)
    precision = drawn.caught / np.maximum(drawn.caught + drawn.false, 1)
    return np.einsum("rl,rl->r", rise, precision) / drawn.anomalies


def _f1_max(drawn: _Drawn) -> np.ndarray:
    return np.max(2 * drawn.caught / (drawn.anomalies + drawn.caught + drawn.false), axis=1)


def _detection_rate(drawn: _Drawn) -> np.ndarray:
    return drawn.alarms / drawn.anomalies


FIGURES: dict[str, Callable[[_Drawn], np.ndarray]] = {
    "auroc": _auroc,
    "ap": _average_precision,
    "f1_max": _f1_max,
    "detection_rate": _detection_rate,
}


def interval(
    metric: str,
    label: np.ndarray,
    candidate: np.ndarray,
    champion: np.ndarray,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """The two-sided `confidence` interval of the difference of `metric`, one of `FIGURES`.

    `label` (0 or 1), `candidate` and `champion` are `(n,)`, in the same order of samples; the latter hold scores, or,
    for `detection_rate`, 1 where the model raised an alarm and 0 elsewhere. None without both normals and anomalies."""
    label = np.asarray(label)
    normals, anomalies = int((label == 0).sum()), int((label == 1).sum())
    if not normals or not anomalies:
        return None
    both = (np.asarray(scores, np.float64) for scores in (candidate, champion))
    models = [_ranked(scores[label == 0], scores[label == 1]) for scores in both]
    figure = FIGURES[metric]
    once = np.ones((1, normals), np.int64), np.ones((1, anomalies), np.int64)
    here, there = (float(figure(_drawn(model, *once))[0]) for model in models)
    differences = np.concatenate(
        [
            figure(_drawn(models[0], *weights)) - figure(_drawn(models[1], *weights))
            for weights in _draws(normals, anomalies, resamples, seed)
        ]
    )
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(here, there, float(low), float(high))


def _ranked(normal: np.ndarray, anomalous: np.ndarray) -> _Ranked:
    first, second = np.argsort(-normal, kind="stable"), np.argsort(-anomalous, kind="stable")
    rising, falling = np.sort(normal), anomalous[second]
    last = np.flatnonzero(np.append(np.diff(falling) != 0, True))
    above = len(rising) - np.searchsorted(rising, falling[last], side="right")
    upto = len(rising) - np.searchsorted(rising, falling[last], side="left")
    return _Ranked(first, second, int((anomalous > 0).sum()), last + 1, above, upto)


def _drawn(model: _Ranked, normal: np.ndarray, anomalous: np.ndarray) -> _Drawn:
    """What the levels of `model` hold under the weights `(resamples, normals)` and `(resamples, anomalies)`."""
    false, caught = _cumulated(normal[:, model.normal]), _cumulated(anomalous[:, model.anomalous])
    return _Drawn(
        caught[:, model.last],
        false[:, model.above],
        false[:, model.upto],
        normal.shape[1],
        anomalous.shape[1],
        caught[:, model.alarms],
    )


def _cumulated(weights: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, ... columns."""
    sums = np.zeros((len(weights), weights.shape[1] + 1), np.int64)
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _draws(normals: int, anomalies: int, resamples: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Multinomial weights of the normals and of the anomalies, some resamples at a time."""
    streams = np.random.default_rng(seed).spawn(2)
    at_once = max(1, CELLS // (normals + anomalies))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        normal, anomalous = (_weights(stream, rows, n) for stream, n in zip(streams, (normals, anomalies), strict=True))
        yield normal, anomalous


def _weights(stream: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """How often each of `n` samples is drawn in `n` draws with equal chances, int64 `(rows, n)`."""
    places = stream.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
    return np.bincount(places.ravel(), minlength=rows * n).reshape(rows, n)
