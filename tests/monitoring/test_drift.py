"""Tests of single batches against closed forms and slow computations; the evidence that holds whenever one looks."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, binom, hypergeom

from pipeline.monitoring import drift
from pipeline.monitoring.mixture import Mixture
from pipeline.plan import Plan
from pipeline.threshold import Calibration, Scored, calibrate


def calibration(n: int, **plan: object) -> Calibration:
    scores = np.random.default_rng(0).normal(size=n)
    of = ["a"] * (n - 60) + ["b"] * 60 if "by" in plan else None
    return calibrate(Plan.read(plan), Scored(scores, scores[:30] + 3, normals_of=of, anomalies_of=of and of[:30]), "")


def test_what_is_promised() -> None:
    assert drift.promised(calibration(1000, alpha=0.01)) == calibration(1000, alpha=0.01).promise
    on_average = drift.promised(calibration(1000, alpha=0.01, confidence=None))
    assert on_average == pytest.approx(beta.ppf(0.95, 10, 991))  # the tenth score from the end, with confidence
    by = drift.promised(calibration(500, alpha=0.1, by="category"))
    assert by == calibration(440, alpha=0.1).promise  # the group whose normals happen to carry most
    assert drift.promised(calibration(500, rule="escape_rate", alpha=0.2)) is None


def test_alarms_of_one_batch() -> None:
    assert drift.too_many(3, 20, 0.1) == pytest.approx(binom.sf(2, 20, 0.1))
    assert drift.too_many(0, 20, 0.1) == 1
    assert drift.too_many(0, 0, 0.1) is None
    assert drift.interval(3, 20) == pytest.approx((beta.ppf(0.025, 3, 18), beta.ppf(0.975, 4, 17)))
    assert drift.interval(0, 0) == (None, None)


@pytest.mark.parametrize("true", [0.001, 0.02, 0.05])
def test_bets_on_more_alarms_win_nothing_on_average_while_the_promise_is_kept(true: float) -> None:
    counts = np.arange(31)
    factors = np.exp([drift.log_factors(int(k), 30, 0.05) for k in counts])
    mean = binom.pmf(counts, 30, true) @ factors
    assert (mean <= 1 + 1e-9).all()
    assert mean.max() == pytest.approx(1) or true < 0.05


def test_evidence_of_alarms_holds_whenever_one_looks() -> None:
    rng = np.random.default_rng(0)

    def reached(rate: float, streams: int) -> int:
        found = 0
        for _ in range(streams):
            batches = [drift.log_factors(int(k), 100, 0.05) for k in rng.binomial(100, rate, 300)]
            found += int(Mixture.of(len(drift.ODDS)).feed(np.array(batches)).max() >= np.log(20))
        return found

    assert reached(0.05, 100) <= 10  # at most 5 % are expected, 10 are less likely than 3 %
    assert reached(0.1, 20) == 20


def test_shares() -> None:
    # 4 of 10 now, 1 of 20 before: five in thirty, at least four of them among ten
    assert drift.more_often(4, 10, 1, 20) == pytest.approx(hypergeom.sf(3, 30, 5, 10))
    assert drift.more_often(0, 0, 1, 20) is None
    assert drift.more_often(1, 5, 0, 0) is None


def test_numbers_and_texts() -> None:
    # no overlap of two and three: 2 of the 10 ways to choose are as extreme
    assert drift.numbers(np.array([1, 2, np.nan]), np.array([3, 4, 5])) == pytest.approx(0.2)
    assert drift.numbers(np.array([np.nan]), np.array([1.0])) is None
    # 30 : 10 against 10 : 30 is a chi-square of 20 with one degree of freedom
    assert drift.texts(["a"] * 30 + ["b"] * 10, ["a"] * 10 + ["b"] * 30) == pytest.approx(7.744e-6, rel=1e-3)
    assert drift.texts(["a", "b"], ["c", "d"]) == 1  # all rare, so all one
    assert drift.texts([], ["a"]) is None


def test_holm_by_hand() -> None:
    assert drift.holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": None}) == pytest.approx({"b": 0.03, "c": 0.06, "a": 0.06})


def test_mmd_is_what_a_slow_computation_gives() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(6, 3)) + 0.5
    points = list(x) + list(y)
    middle = np.median([np.sum((a - b) ** 2) for a, b in itertools.combinations(points, 2)])

    def slow(first: list[np.ndarray], second: list[np.ndarray]) -> float:
        def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
            return float(np.mean([np.exp(-np.sum((a - b) ** 2) / (2 * middle)) for a, b in pairs]))

        pairs = [list(itertools.permutations(one, 2)) for one in (first, second)]
        return mean(pairs[0]) + mean(pairs[1]) - 2 * mean(list(itertools.product(first, second)))

    statistic, p = drift.mmd(x, y, 0)
    assert statistic == pytest.approx(slow(list(x), list(y)), rel=1e-9)
    ways = [set(chosen) for chosen in itertools.combinations(range(11), 5)]
    every = [slow([points[i] for i in w], [points[i] for i in range(11) if i not in w]) for w in ways]
    exact = np.mean(np.array(every) >= statistic - 1e-12)  # over all ways to choose five of eleven
    assert p == pytest.approx(exact, abs=5 * (exact / drift.PERMUTATIONS) ** 0.5)
    assert drift.mmd(x, y, 0) == (statistic, p)


def test_mmd_finds_what_no_single_column_shows() -> None:
    rng = np.random.default_rng(1)
    known = rng.normal(size=(64, 8))
    assert drift.mmd(known, rng.normal(size=(64, 8)), 0)[1] > 0.01
    one = rng.normal(size=(64, 1))
    assert drift.mmd(known, np.hstack([one] * 8), 0)[1] < 0.001
    assert drift.mmd(known[:1], known, 0)[1] is None
    assert drift.mmd(np.ones((5, 2)), np.ones((5, 2)), 0) == (0, 1)


def facts(n: int, seed: int, **other: object) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {"brightness": rng.normal(100, 9, n), "kind": rng.choice(["a", "b"], n), "same": 1.0}
    return pd.DataFrame({**columns, **{f"embedding:{i}": rng.normal(size=n) for i in range(4)}, **other})


def test_inputs_alike_and_known_drifts() -> None:
    before = facts(500, 0)
    alike = drift.inputs(before, facts(300, 1), 0)
    assert set(alike) == {"brightness", "kind", "same", "embedding"}
    assert min(alike.values()) > 0.05
    darker = drift.inputs(before, facts(300, 2, brightness=np.random.default_rng(2).normal(90, 9, 300)), 0)
    assert next(iter(darker)) == "brightness"
    assert [name for name, p in darker.items() if p < 0.001] == ["brightness"]
    kinds = drift.inputs(before, facts(300, 3, kind="a"), 0)
    assert [name for name, p in kinds.items() if p < 0.001] == ["kind"]
    gaps = drift.inputs(before, facts(300, 4, same=np.where(np.arange(300) < 40, np.nan, 1.0)), 0)
    assert [name for name, p in gaps.items() if p < 0.001] == ["same missing"]
    gone = drift.inputs(before, facts(300, 5).drop(columns="kind"), 0)
    assert [name for name, p in gone.items() if p < 0.001] == ["kind missing"]
    odd = drift.inputs(before, facts(300, 6, **{"embedding:2": 3.0}), 0)
    assert [name for name, p in odd.items() if p < 0.001] == ["embedding"]


def test_nothing_to_compare() -> None:
    assert drift.inputs(pd.DataFrame(), facts(10, 0), 0) == {}
    assert drift.inputs(facts(10, 0), pd.DataFrame(), 0) == {}
    assert drift.missing_share(pd.DataFrame()) is None
    some = pd.DataFrame({"a": [1, np.nan], "b": ["x", None], "embedding:0": [np.nan, np.nan]})
    assert drift.missing_share(some) == 0.5


def test_clean_inputs_rarely_warn() -> None:
    before = facts(500, 0)
    low = [min(drift.inputs(before.iloc[:, :3], facts(200, seed).iloc[:, :3], 0).values()) for seed in range(1, 81)]
    assert np.mean(np.array(low) < 0.05) < 0.15
