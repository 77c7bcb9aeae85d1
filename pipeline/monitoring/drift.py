"""Tests of one batch, and of all batches of a version together, against what was promised and what was normal.

Alarms: exact binomial test and Clopper & Pearson's interval (Biometrika 1934). Together they are looked at after every
batch, so a test of that kind would reject in the end with nothing changed; in its stead stands an e-process, which is
valid whenever one looks (Ramdas, Grünwald, Vovk & Shafer, "Game-theoretic statistics and safe anytime-valid inference",
Statistical Science 2023). Inputs: Kolmogorov-Smirnov for numbers, chi-square for texts, Fisher's exact test for missing
values, corrected after Holm (Scandinavian Journal of Statistics 1979); embeddings: MMD (Gretton, Borgwardt, Rasch,
Schölkopf & Smola, "A kernel two-sample test", JMLR 2012).

p-values are None where there is nothing to test. Those of single batches all look at the same reference: one that is
unlucky warns again and again.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.stats import binomtest, chi2_contingency, fisher_exact, ks_2samp

from pipeline.monitoring.inputs import EMBEDDING
from pipeline.rules.conformal import carried, order
from pipeline.rules.false_alarm_rate import FalseAlarmRate
from pipeline.threshold import Calibration

CONFIDENCE = 0.95  # of a promise that holds on average only, when it is held against one calibration set
ODDS = np.array([1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50])  # of an alarm, as multiples of the allowed ones, that are bet on
PERMUTATIONS = 9999
RARE = 10  # values of a text column that come less often, in both samples together, count as one
COMPARED = 256  # embeddings of either sample at most


def promised(calibration: Calibration) -> float | None:
    """The rate of alarms that normals keep under this calibration: what is promised with a confidence, or, for a
    promise that only holds on average over calibration sets, what the set at hand keeps with CONFIDENCE; the highest
    of all groups with thresholds of their own. None where no false-alarm rate is promised."""
    rule = calibration.plan.rule
    if not isinstance(rule, FalseAlarmRate):
        return None
    groups = np.asarray(calibration.known.normals_of, object)
    sizes = [len(calibration.scores), *(int(np.sum(groups == value)) for value in calibration.own)]
    sure = rule.confidence or CONFIDENCE
    return max(carried(n, order(n, rule.alpha, rule.confidence), sure) for n in sizes)


def too_many(count: int, of: int, rate: float) -> float | None:
    """p-value of `count` among `of` when each comes with a probability of at most `rate`, one-sided."""
    return float(binomtest(count, of, min(rate, 1.0), alternative="greater").pvalue) if of else None


def interval(count: int, of: int) -> tuple[float | None, float | None]:
    """The exact 95 % interval of a rate."""
    if of == 0:
        return None, None
    found = binomtest(count, of).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def log_factors(count: int, of: int, rate: float) -> np.ndarray:
    """What betting on more alarms than `rate` wins with `count` alarms among `of` samples, one log likelihood ratio per
    entry of ODDS, `(K,)`, for a Mixture. Its mean is at most 1 for every true rate up to `rate`; an excess of less than
    a twentieth wins nothing in the long run either."""
    more = ODDS * rate / (1 + (ODDS - 1) * rate)
    return count * np.log(more / rate) + (of - count) * np.log((1 - more) / (1 - rate))


def more_often(count: int, of: int, before: int, among: int) -> float | None:
    """p-value of a share that was `before` / `among` in the reference and is `count` / `of` now, one-sided (Fisher)."""
    if of == 0 or among == 0:
        return None
    return float(fisher_exact([[count, of - count], [before, among - before]], alternative="greater").pvalue)


def numbers(reference: np.ndarray, batch: np.ndarray) -> float | None:
    """p-value of two samples of numbers (Kolmogorov-Smirnov); NaN does not count."""
    a, b = (x[~np.isnan(x)] for x in (np.asarray(reference, np.float64), np.asarray(batch, np.float64)))
    if min(len(a), len(b)) == 0:
        return None
    small = max(len(a), len(b)) <= 1000
    return float(ks_2samp(a, b, method="exact" if small else "asymp").pvalue)


def texts(reference: Iterable[str], batch: Iterable[str]) -> float | None:
    """p-value of two samples of texts (chi-square over values; rare ones count as one)."""
    a, b = pd.Series(list(reference), dtype="str"), pd.Series(list(batch), dtype="str")
    if min(len(a), len(b)) == 0:
        return None
    counts = pd.concat([a.value_counts(), b.value_counts()], axis=1).fillna(0).to_numpy()
    often = counts.sum(axis=1) >= RARE
    table = np.vstack([counts[often], counts[~often].sum(axis=0)])
    table = table[table.sum(axis=1) > 0]
    return float(chi2_contingency(table.T, correction=False).pvalue) if len(table) > 1 else 1.0


def mmd(reference: np.ndarray, batch: np.ndarray, seed: int) -> tuple[float, float | None]:
    """The unbiased estimate of the squared maximum mean discrepancy of two samples `(m, d)` and `(n, d)` (equation 3),
    with a Gaussian kernel as wide as the median distance of all points, and its p-value by random permutations."""
    m, n = len(reference), len(batch)
    if min(m, n) < 2:
        return 0.0, None
    points = np.vstack([reference, batch]).astype(np.float64)
    squares = (points**2).sum(axis=1)
    distance = np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0)
    middle = np.median(distance[np.triu_indices(m + n, 1)])
    kernel = np.exp(-distance / (2 * middle)) if middle > 0 else (distance <= 0).astype(np.float64)
    np.fill_diagonal(kernel, 0)
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(np.arange(m + n), (PERMUTATIONS, 1)), axis=1) < m
    members = np.vstack([np.arange(m + n) < m, shuffled]).astype(np.float64)  # (1 + permutations, m + n)
    towards = members @ kernel
    within, across = (towards * members).sum(axis=1), (towards * (1 - members)).sum(axis=1)
    others = kernel.sum() - within - 2 * across
    found = within / (m * (m - 1)) + others / (n * (n - 1)) - 2 * across / (m * n)
    return float(found[0]), float(np.mean(found >= found[0] - 1e-12))


def holm(p: dict[str, float | None]) -> dict[str, float]:
    """p-values corrected for their number, of those that are some; the lowest first."""
    given = sorted((value, name) for name, value in p.items() if value is not None)
    found, highest = {}, 0.0
    for i, (value, name) in enumerate(given):
        highest = max(highest, min(1.0, (len(given) - i) * value))
        found[name] = highest
    return found


def inputs(reference: pd.DataFrame, batch: pd.DataFrame, seed: int) -> dict[str, float]:
    """Corrected p-values of what differs between facts about two samples (see inputs.py), the lowest first: one per
    column, `NAME missing` for missing values of a column that has any, `embedding` for all embeddings."""
    if reference.empty or batch.empty:
        return {}
    p: dict[str, float | None] = {}
    for name in reference.columns[~reference.columns.str.startswith(EMBEDDING)]:
        before = reference[name]
        now = batch[name] if name in batch else pd.Series(None, batch.index, dtype=before.dtype)
        gone, missing = int(before.isna().sum()), int(now.isna().sum())
        if gone + missing:
            p[f"{name} missing"] = more_often(missing, len(now), gone, len(before))
        if pd.api.types.is_numeric_dtype(before):
            p[name] = numbers(_numbers(before), _numbers(now))
        else:
            p[name] = texts(before.dropna().astype(str), now.dropna().astype(str))
    known, seen = _embeddings(reference), _embeddings(batch)
    if known.shape[1] == seen.shape[1] > 0:
        p["embedding"] = mmd(known, seen, seed)[1]
    return holm(p)


def missing_share(facts: pd.DataFrame) -> float | None:
    """The share of missing values in all facts but embeddings."""
    known = facts.loc[:, ~facts.columns.str.startswith(EMBEDDING)] if len(facts.columns) else facts
    return float(known.isna().to_numpy().mean()) if known.size else None


def _numbers(column: pd.Series) -> np.ndarray:
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _embeddings(facts: pd.DataFrame) -> np.ndarray:
    """float64 `(n, d)` of the samples that have one."""
    return facts.filter(regex=f"^{EMBEDDING}").dropna().to_numpy(np.float64)[:COMPARED]
