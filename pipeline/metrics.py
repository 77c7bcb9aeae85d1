"""Metrics on raw scores: AUROC, AP, F1-max, pixel AUROC, AUPRO, and what a threshold does on test samples.

numpy and scipy only (importing scikit-learn costs over a second); tests hold every metric against scikit-learn or
brute force. Higher scores are more anomalous, ties count half, and a metric that is not defined for what came
(one class only, no mask) is None. `label` is 0 or 1 throughout: leave unknown samples out.
"""

from math import ceil
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.special import betaincinv


class Curve(NamedTuple):
    """Points of a curve by falling threshold: a sample counts as positive when its score >= `threshold`."""

    x: np.ndarray
    y: np.ndarray
    threshold: np.ndarray


def auroc(label: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve: the chance that an anomaly (label 1) scores above a normal (0), ties half."""
    positive = np.asarray(label) == 1
    return _area(scores[~positive], scores[positive], None, limit=1.0)


def average_precision(label: np.ndarray, scores: np.ndarray) -> float | None:
    """Sum of precision times rise in recall over the distinct thresholds, without interpolation."""
    caught, false, _ = _counts(label, scores)
    if not len(caught) or caught[-1] == 0:
        return None
    rise = np.diff(caught, prepend=0) / caught[-1]
    return float(np.sum(rise * caught / (caught + false)))


def f1_max(label: np.ndarray, scores: np.ndarray) -> float | None:
    """The highest F1 (harmonic mean of precision and recall) that any threshold reaches."""
    caught, false, _ = _counts(label, scores)
    if not len(caught) or caught[-1] == 0:
        return None
    return float(np.max(2 * caught / (caught[-1] + caught + false)))


def roc_curve(label: np.ndarray, scores: np.ndarray) -> Curve | None:
    """False-alarm rate (x) and detection rate (y) at every distinct threshold, from (0, 0) to (1, 1)."""
    caught, false, threshold = _counts(label, scores)
    if not len(caught) or caught[-1] == 0 or false[-1] == 0:
        return None
    start = np.float32([np.inf])
    return Curve(np.append(0, false) / false[-1], np.append(0, caught) / caught[-1], np.concatenate([start, threshold]))


def pr_curve(label: np.ndarray, scores: np.ndarray) -> Curve | None:
    """Recall (x) and precision (y) at every distinct threshold."""
    caught, false, threshold = _counts(label, scores)
    if not len(caught) or caught[-1] == 0:
        return None
    return Curve(caught / caught[-1], caught / (caught + false), threshold)


def pixel_auroc(truth: np.ndarray, local: np.ndarray) -> float | None:
    """AUROC over all pixels (or time steps): `truth` labels and `local` float32, both `(n, h, w)` or `(n, t)`.

    Exact; sorts one copy of the normal pixels, so memory is about one more set of maps. Labels of -1 do not count."""
    return _area(local[truth == 0], local[truth == 1], None, limit=1.0)


def aupro(truth: np.ndarray, local: np.ndarray, limit: float = 0.3) -> float | None:
    """Area under the per-region-overlap curve up to the false-alarm rate `limit`, divided by `limit`.

    `truth` labels (-1 does not count) and `local` float32, both `(n, h, w)` or `(n, t)`. Bergmann et al., "The MVTec
    Anomaly Detection Dataset" (IJCV 2021), section 5.2: at each threshold the share of every true region that is
    found, averaged over all regions, against the share of all normal pixels that are above it. Regions are connected
    with diagonals. The overlap is a detection rate in which a pixel weighs 1 / (its region's size x regions), so the
    area is exact over all thresholds, with ties and the point at `limit` interpolated linearly. Regions are
    labelled map by map and the normal pixels sorted in one copy: memory is about one more set of maps.
    """
    weights = _region_weights(truth)
    return None if weights is None else _area(local[truth == 0], local[truth == 1], weights, limit)


def pro_curve(truth: np.ndarray, local: np.ndarray, limit: float = 0.3, points: int = 300) -> Curve | None:
    """The curve whose area `aupro` is: share of normal pixels at or above a threshold (x, up to `limit`) and the mean
    share of the true regions that is (y). From (0, 0) on, at most `points` thresholds besides, evenly spaced in x; a
    tie that reaches beyond `limit` is cut there. None without normal or marked pixels."""
    weights, normal, marked = _region_weights(truth), local[truth == 0], local[truth == 1]
    if weights is None or not len(normal):
        return None
    reached = ceil(limit * len(normal))
    ranks = len(normal) - np.unique(np.linspace(1, reached, min(points, reached)).round().astype(int))
    normal = np.partition(normal, ranks)
    threshold = np.unique(normal[ranks])[::-1]
    threshold = np.append(np.nextafter(threshold[0], np.float32(np.inf)), threshold)  # before the first false alarm
    highest = np.sort(normal[-reached:])
    false = len(highest) - np.searchsorted(highest, threshold, side="left")
    false[-1] = np.count_nonzero(normal >= threshold[-1])
    order = np.argsort(marked)
    found = np.append(np.cumsum(weights[order][::-1])[::-1], 0)[np.searchsorted(marked[order], threshold, side="left")]
    x, y = np.append(0, false / len(normal)), np.append(0, found)
    x, y = np.minimum(x, limit), np.append(y[:-1], np.interp(limit, x[-2:], y[-2:]) if x[-1] > limit else y[-1])
    return Curve(x, y, np.concatenate([np.float32([np.inf]), threshold]))


def _region_weights(truth: np.ndarray) -> np.ndarray | None:
    """A weight per anomalous pixel, in the order of `truth == 1`: 1 / (its region's size x regions); None without any.

    Regions are connected with diagonals and labelled map by map."""
    weights, regions = [], 0
    neighbours = np.ones((3,) * (truth.ndim - 1), bool)
    for one in truth == 1:
        if one.any():
            numbered, count = ndimage.label(one, neighbours)
            inside = numbered[one]
            weights.append(1 / np.bincount(inside)[inside])
            regions += count
    return np.concatenate(weights) / regions if regions else None


def decision_metrics(label: np.ndarray, scores: np.ndarray, threshold: float | np.ndarray) -> dict[str, float | int]:
    """What `score > threshold` (one, or one per sample) does on labelled samples: counts, rates where they are defined,
    and the 95 % `interval` of the false-alarm rate."""
    alarm = np.asarray(scores, np.float32) > np.float32(threshold)
    normal, anomalous = np.asarray(label) == 0, np.asarray(label) == 1
    n, false = int(normal.sum()), int((alarm & normal).sum())
    found: dict[str, float | int] = {"n_normal": n, "n_anomalous": int(anomalous.sum())}
    found |= {"false_alarms": false, "escapes": int((~alarm & anomalous).sum())}
    if n:
        found["false_alarm_rate"] = false / n
        found["false_alarm_rate_low"], found["false_alarm_rate_high"] = interval(false, n)
    if anomalous.any():
        found["detection_rate"] = float(alarm[anomalous].mean())
    return found


def interval(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a rate seen as `hits` of `n` > 0 (Clopper & Pearson, Biometrika 1934); it holds whatever the
    true rate."""
    low = float(betaincinv(hits, n - hits + 1, 0.025)) if hits else 0.0
    return low, float(betaincinv(hits + 1, n - hits, 0.975)) if hits < n else 1.0


def per_defect(
    defect: np.ndarray, label: np.ndarray, scores: np.ndarray, threshold: float | np.ndarray
) -> dict[str, dict[str, float]]:
    """AUROC against all normals and detection rate for each named class of anomalies, sorted by name."""
    defect, label = np.asarray(defect, object), np.asarray(label)
    named = (label == 1) & np.array([isinstance(name, str) and name != "" for name in defect], bool)
    found, alarm = {}, np.asarray(scores) > np.float32(threshold)
    for name in sorted(set(defect[named])):
        chosen = named & (defect == name)
        rates = {"detection_rate": float(np.mean(alarm[chosen]))}
        area = _area(scores[label == 0], scores[chosen], None, limit=1.0)
        found[name] = rates if area is None else {"auroc": area, **rates}
    return found


def by_severity(label: np.ndarray, severity: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """How well scores order severities, float `(n,)`, NaN where unknown: normals are level 0 whatever stands there.

    The measures of Cao et al., "Are Anomaly Scores Telling the Whole Story? A Benchmark for Multilevel Anomaly
    Detection" (2024): `LEVEL.auroc` against normals and `LEVEL.mean` for each level of the anomalies, `concordance`
    (the chance that the more severe of two samples of different severity scores higher, ties half) and `kendall`
    (tau-b). Empty when no anomaly has a severity."""
    label, scores = np.asarray(label), np.asarray(scores, np.float32)
    level = np.where(label == 0, 0.0, severity)
    level = np.where((label == -1) | ((label == 1) & ~(level > 0)), np.nan, level)
    values = np.unique(level[~np.isnan(level)])
    if not (values > 0).any():
        return {}
    found: dict[str, float | None] = {}
    for value in values[values > 0]:
        found[f"{value:g}.auroc"] = _area(scores[level == 0], scores[level == value], None, limit=1.0)
    for value in values:
        found[f"{value:g}.mean"] = float(scores[level == value].mean(dtype=np.float64))
    pairs = [(scores[level == low], scores[level == high]) for low in values for high in values if low < high]
    differ = float(sum(len(low) * len(high) for low, high in pairs))
    if differ:
        above = sum(len(low) * len(high) * (_area(low, high, None, limit=1.0) or 0.0) for low, high in pairs)
        found["concordance"] = above / differ
        n, ties = np.sum(~np.isnan(level)), np.unique(scores[~np.isnan(level)], return_counts=True)[1]
        apart = n * (n - 1) / 2 - np.sum(ties * (ties - 1) / 2)
        found["kendall"] = float((2 * above - differ) / np.sqrt(differ * apart)) if apart else None
    return found


def _counts(label: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Anomalies and normals at or above each distinct score, int64, and these scores, from the highest down."""
    order = np.argsort(scores, kind="stable")[::-1]
    falling, positive = scores[order], np.asarray(label)[order] == 1
    ends = np.flatnonzero(np.append(np.diff(falling) != 0, True)) if len(falling) else np.array([], int)
    caught = np.cumsum(positive)[ends]
    return caught, ends + 1 - caught, falling[ends]


def _area(negatives: np.ndarray, positives: np.ndarray, weights: np.ndarray | None, limit: float) -> float | None:
    """Area under the (weighted) detection rate against the false-alarm rate from 0 to `limit`, over `limit`.

    As the false alarms x go from 0 to m = `limit` x negatives, a positive with `a` negatives above it and `b`
    at or above it counts 0 up to a, rises linearly to 1 at b (the tie's diagonal), and counts 1 from there on.
    `weights` sum to 1; None weighs all positives alike. Both arrays are the caller's to lose: they are sorted."""
    if not len(negatives) or not len(positives):
        return None
    end = limit * len(negatives)
    if limit < 1:  # only the highest negatives, with all ties of the lowest of them, are ever reached
        first = len(negatives) - ceil(end)
        negatives.partition(first)
        negatives = negatives[negatives >= negatives[first]]
    negatives.sort()
    if weights is not None:
        order = np.argsort(positives)
        positives, weights = positives[order], weights[order]
    else:
        positives.sort()  # searching for sorted values is ten times as fast
    above = len(negatives) - np.searchsorted(negatives, positives, side="right")
    tied = len(negatives) - np.searchsorted(negatives, positives, side="left") - above
    ramp = np.clip(end - above, 0, tied)
    share = np.clip(end - above - tied, 0, None) + ramp * ramp / np.maximum(2 * tied, 1)
    return float((share.mean() if weights is None else share @ weights) / end)
