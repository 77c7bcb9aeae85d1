"""Metrics of what samples belong to: whole groups (patients, charges), and false alarms by a sensitive value.

A group is anomalous when any labelled sample of it is, and normal otherwise: the patient-to-patient view of Hashemi et
al., "Realism in Action: Anomaly-Aware Diagnosis of Brain Tumors from Medical Images Using YOLOv8 and DeiT" (2024).
"""

import numpy as np
import pandas as pd

from pipeline import metrics

RESAMPLES = 9999  # random tables behind a p-value where counts are too small for the chi-square distribution
COCHRAN = 5  # expected count below which they are (Cochran, Biometrics 1954)


def by_group(group: np.ndarray, label: np.ndarray, p: np.ndarray, limit: np.ndarray) -> dict[str, float | int | None]:
    """Sensitivity, specificity (with 95 % bounds) and AUROC of whole groups.

    `group` are texts `(n,)`, "" for a sample of none; `label` 0, 1 or -1 (such samples do not count); `p` the samples'
    p-values and `limit` the largest p-value that is an alarm, float64 `(n,)`, > 0. Empty when no group has two samples.

    A group of n raises an alarm when min over k of (n / k) p_(k) / limit <= 1: the test of Simes (Biometrika 1986), so
    when Benjamini and Hochberg leave at least one of its own samples an alarm. "Any sample" would raise false alarms
    with the size of a group; this holds their rate at `limit` whatever the size, also for samples that resemble each
    other (positive dependence: Benjamini & Yekutieli, Annals of Statistics 2001), and a group of one is judged as its
    sample is. A large group with a single anomalous sample needs many calibration normals: p must reach `limit` / n.
    The AUROC ranks groups by that minimum."""
    codes, names = pd.factorize(np.asarray(group, object))
    counts = (np.asarray(label) != -1) & (np.asarray(group, object) != "")
    codes, label, ratio = codes[counts], np.asarray(label)[counts], (np.asarray(p) / limit)[counts]
    size = np.bincount(codes, minlength=len(names))
    if not (size > 1).any():
        return {}
    order = np.lexsort((ratio, codes))
    starts = (np.cumsum(size) - size)[size > 0]
    rank = np.arange(len(order)) - np.repeat(starts, size[size > 0]) + 1
    least = np.minimum.reduceat(size[codes[order]] / rank * ratio[order], starts)
    anomalous = np.maximum.reduceat(label[order], starts) == 1
    alarm = least <= 1
    good, bad = int((~anomalous).sum()), int(anomalous.sum())
    quiet, caught = int((~alarm & ~anomalous).sum()), int((alarm & anomalous).sum())
    found: dict[str, float | int | None] = {"n_normal": good, "n_anomalous": bad}
    found |= _rate("specificity", quiet, good) | _rate("sensitivity", caught, bad)
    return found | {"auroc": metrics.auroc(anomalous, -least)}


def by_sensitive(value: np.ndarray, label: np.ndarray, alarm: np.ndarray) -> dict[str, float | int]:
    """False alarms among normals by `value`, texts `(n,)`, "" where unknown (such samples do not count).

    For each value `VALUE.n_normal` and `VALUE.false_alarm_rate` with its 95 % bounds; with two values or more
    `largest_difference` of the rates and the `p_value` of their independence of the value: Fisher's exact test for two
    values, chi-square for more, by random tables with the same margins where a count below 5 is expected. It takes
    samples for independent: where groups repeat, it is too small."""
    counts = (np.asarray(label) == 0) & (np.asarray(value, object) != "")
    table = pd.crosstab(np.asarray(value, object)[counts], np.asarray(alarm, bool)[counts])
    table = table.reindex(columns=[False, True], fill_value=0)
    found: dict[str, float | int] = {}
    for name, (quiet, false) in zip(table.index, table.to_numpy().tolist(), strict=True):
        found[f"{name}.n_normal"] = quiet + false
        found |= _rate(f"{name}.false_alarm_rate", false, quiet + false)
    if len(table) > 1:
        rates = (table[True] / table.sum(axis=1)).to_numpy()
        found["largest_difference"] = float(rates.max() - rates.min())
        found["p_value"] = _independence(table.to_numpy())
    return found


def _rate(name: str, hits: int, n: int) -> dict[str, float]:
    if not n:
        return {}
    low, high = metrics.interval(hits, n)
    return {name: hits / n, f"{name}_low": low, f"{name}_high": high}


def _independence(table: np.ndarray) -> float:
    """The p-value of independence of a table of counts, int `(values, 2)`."""
    from scipy import stats

    if (table.sum(axis=0) == 0).any():
        return 1.0
    if len(table) == 2:
        return float(stats.fisher_exact(table).pvalue)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    drawn = None
    if expected.min() < COCHRAN:
        drawn = stats.MonteCarloMethod(n_resamples=RESAMPLES, rng=np.random.default_rng(0))
    return float(stats.chi2_contingency(table, correction=False, method=drawn).pvalue)
