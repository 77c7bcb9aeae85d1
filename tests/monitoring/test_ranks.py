"""Online ranks against counting one by one; their uniformity; rounding."""

import numpy as np
import pytest
from scipy.stats import kstest

from pipeline.monitoring.ranks import BLOCK, Pool, earlier, rounded


def slowly(before: list[float], values: list[float], lots: list[float]) -> list[float]:
    """p-values by definition."""
    seen, found = list(before), []
    for value, lot in zip(values, lots, strict=True):
        seen.append(value)
        lower, equal = sum(v < value for v in seen), sum(v == value for v in seen)
        found.append((lower + lot * equal) / len(seen))
    return found


def test_p_values_by_hand() -> None:
    pool = Pool()
    pool.add(np.float32([3, 1, 3]))
    p = pool.p_values(np.float32([2, 3, 0]), np.array([1.0, 0.5, 0.25]))
    # 2 among 1 2 3 3; 3 among 1 2 3 3 3, with half of the three equal ones; 0 among six
    assert p.tolist() == [2 / 4, (2 + 0.5 * 3) / 5, 0.25 / 6]
    assert pool.values.tolist() == [0, 1, 2, 3]
    assert pool.counts.tolist() == [1, 1, 1, 3]


@pytest.mark.parametrize("levels", [5, 100_000])
def test_p_values_are_those_of_the_definition(levels: int) -> None:
    rng = np.random.default_rng(0)
    before, values = (rng.integers(0, levels, n).astype(np.float32) for n in (40, 2 * BLOCK + 60))
    lots = 1 - rng.random(len(values))
    pool = Pool()
    pool.add(before)
    expected = slowly(before.tolist(), values.tolist(), lots.tolist())
    np.testing.assert_allclose(pool.p_values(values, lots), expected, rtol=1e-14)
    assert pool.counts.sum() == len(before) + len(values)


def test_earlier_counts_within_and_before_blocks() -> None:
    rank = np.random.default_rng(1).integers(0, 7, 3 * BLOCK + 5)
    lower, equal = earlier(rank, 7)
    for i in (0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3, len(rank) - 1):
        assert (lower[i], equal[i]) == ((rank[:i] < rank[i]).sum(), (rank[:i] == rank[i]).sum())


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_of_exchangeable_scores_are_independent_and_uniform(ties: bool) -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(400):
        scores = rng.poisson(2, 30).astype(np.float32) if ties else rng.normal(size=30).astype(np.float32)
        pool = Pool()
        pool.add(scores[:10])
        found.append(pool.p_values(scores[10:], 1 - rng.random(20)))
    p = np.array(found)
    assert kstest(p.ravel(), "uniform").pvalue > 0.01
    means = p.mean(axis=1)  # against a fixed set of ten they would vary three times as much
    assert means.var() * 20 * 12 == pytest.approx(1, abs=0.25)


def test_rounding_is_monotone_and_keeps_three_digits() -> None:
    values = np.sort(np.random.default_rng(3).lognormal(0, 5, 10_000).astype(np.float32))
    found = rounded(np.concatenate([values, np.float32([0, np.inf])]))
    assert (np.diff(found[:-2]) >= 0).all()
    assert found[-2:].tolist() == [0, np.inf]
    assert np.abs(found[:-2] / values - 1).max() < 2**-10
    assert len(np.unique(rounded(np.linspace(1, 2, 100_000, dtype=np.float32)))) == 2**10 + 1
