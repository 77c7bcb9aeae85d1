"""The martingale against direct sums; its bounds on clean streams and on streams that drift; its state."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from pipeline.errors import DataError
from pipeline.monitoring.martingale import BETS, LIMIT, REST, SHIFTS, Martingale, Watched, log_bets
from pipeline.monitoring.mixture import Mixture, log_prior
from pipeline.monitoring.simulation import delays, false_alarms
from pipeline.plan import Plan
from pipeline.threshold import Calibration, Scored, calibrate

AVERAGE = {"alpha": 0.05, "confidence": None}


def calibration(scores: np.ndarray, of: list[str] | None = None, **plan: object) -> Calibration:
    by = {} if of is None else {"by": "category"}
    return calibrate(Plan.read({**AVERAGE, **by, **plan}), Scored(np.float32(scores), normals_of=of), "hash")


def normal(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (shift + np.random.default_rng(seed).normal(size=n)).astype(np.float32)


def test_a_mixture_is_the_sum_over_all_starts() -> None:
    factors = np.random.default_rng(0).normal(0, 0.5, (30, 3))
    found = np.exp(Mixture.of(3).feed(factors))
    prior = [1 / np.log2(s + 1) - 1 / np.log2(s + 2) for s in range(1, 31)]
    for t in (1, 2, 17, 30):
        bets = [prior[s] * np.exp(factors[s:t].sum(axis=0)).mean() for s in range(t)]
        assert found[t - 1] == pytest.approx(1 / np.log2(t + 2) + sum(bets), rel=1e-12)


def test_the_prior_is_whole() -> None:
    steps = np.arange(1, 100_001)
    assert np.exp(log_prior(steps)).sum() + 1 / np.log2(100_002) == pytest.approx(1, abs=1e-12)
    assert log_prior(np.array([10**9]))[0] == pytest.approx(-np.log(1e9 * np.log(1e9) ** 2 / np.log(2)), abs=0.01)


def test_a_mixture_sinks_no_lower_than_what_it_has_not_bet() -> None:
    mixture = Mixture.of(2)
    values = mixture.feed(np.full((50_000, 2), -1.0))
    assert np.exp(values[-1]) == pytest.approx(1 / np.log2(50_002), rel=1e-4)
    assert mixture.highest < 1e-12
    assert mixture.feed(np.full((2000, 2), 2000.0))[-1] > 3e6  # far beyond what a float64 can hold
    assert np.isfinite(mixture.value)


def test_bets_have_a_mean_of_one_and_favour_low_p_values_when_scores_rise() -> None:
    for k in range(len(BETS)):
        inside = quad(lambda p, k=k: np.exp(log_bets([p])[0, k]), norm.sf(LIMIT), norm.cdf(LIMIT), epsabs=1e-11)[0]
        ends = [np.exp(log_bets([p])[0, k]) * norm.sf(LIMIT) for p in (1e-9, 1 - 1e-9)]
        assert inside + sum(ends) == pytest.approx(1, abs=1e-8)
    assert log_bets([1e-300]).tolist() == log_bets([norm.sf(LIMIT)]).tolist()
    up, down = log_bets([0.01, 0.99])[:, :2]
    assert up[0] > 0 > up[1]
    assert down[1] > 0 > down[0]
    assert BETS[0, 0] == SHIFTS[0]


def below(score: np.float32, cut: np.float32) -> float:
    """The distance below the cut, to eleven significant bits."""
    fraction, exponent = math.frexp(float(np.float32(float(cut) - float(score))))
    return math.floor(fraction * 2**11) * 2.0 ** (exponent - 11)


def test_it_is_what_a_slow_computation_gives() -> None:
    known, stream = normal(50, 0), normal(80, 1, shift=0.5)
    watched = Watched.of(calibration(known), False)
    martingale = Martingale.start(watched, "key")
    found = martingale.feed(watched, stream)
    cut = watched.cuts[REST]
    assert cut == np.sort(known)[-2]  # the order statistic of rank floor(0.05 x 51) from the end
    lots = 1 - np.random.Generator(np.random.Philox(key=martingale.seed)).random(80)
    seen, total, products = [below(v, cut) for v in known if v < cut], [], []
    for lot, score in zip(lots, [below(s, cut) for s in stream if s < cut], strict=False):
        seen.append(score)
        p = (sum(v < score for v in seen) + lot * sum(v == score for v in seen)) / len(seen)
        z = np.clip(norm.isf(p), -3, 3)
        bets = np.array([np.exp(a * z + b * z * z - mean) for a, b, mean in BETS])
        t = len(total) + 1
        products = [product * bets for product in products] + [bets * np.exp(log_prior(np.array([t]))[0])]
        total.append(1 / np.log2(t + 2) + sum(product.mean() for product in products))
    np.testing.assert_allclose(np.exp(found), total, rtol=1e-9)
    assert martingale.mixture.highest == pytest.approx(max(0, np.log(max(total))))


def test_in_one_go_or_in_forty_pieces_from_stored_states() -> None:
    known, stream = normal(300, 0), np.round(normal(1000, 1), 2)
    watched = Watched.of(calibration(known), False)
    whole = Martingale.start(watched, "key")
    whole.feed(watched, stream)
    pieces = Martingale.start(watched, "key")
    for part in np.array_split(stream, 40):
        pieces = Martingale.from_bytes(pieces.to_bytes())
        pieces.feed(watched, part)
    assert pieces.to_bytes() == whole.to_bytes()
    assert Martingale.start(watched, "other").seed != whole.seed


def test_the_state_does_not_grow_with_the_stream() -> None:
    watched = Watched.of(calibration(normal(200, 0)), False)
    martingale = Martingale.start(watched, "key")
    sizes = []
    for seed in range(4):
        martingale.feed(watched, normal(100_000, seed))
        sizes.append(len(martingale.to_bytes()))
    assert sizes[3] < 1.5 * sizes[0]
    assert sizes[3] < 40_000


def test_scores_at_and_above_the_threshold_are_not_its_business() -> None:
    watched = Watched.of(calibration(np.arange(100)), False)
    martingale = Martingale.start(watched, "key")
    assert watched.cuts == {REST: 95}
    assert martingale.pools[REST].counts.sum() == 95
    assert len(martingale.feed(watched, np.float32([95, 96, 1000, np.inf]))) == 0
    assert len(martingale.feed(watched, np.float32([94.9, -np.inf]))) == 2
    with pytest.raises(DataError, match="scores to watch must be numbers, got NaN for 1 of 2"):
        martingale.feed(watched, np.float32([1, np.nan]))


def test_equal_scores_say_nothing() -> None:
    watched = Watched.of(calibration(np.zeros(100)), False)
    martingale = Martingale.start(watched, "key")
    assert martingale.feed(watched, np.zeros(1000, np.float32)).tolist() == []
    assert np.exp(martingale.feed(watched, np.full(2000, -1.0, np.float32)).max()) < 100


def test_groups_are_ranked_within_themselves() -> None:
    of = ["a"] * 200 + ["b"] * 200 + ["c"] * 5
    known = np.concatenate([normal(200, 0), normal(200, 1, shift=10), normal(5, 2)])
    found = calibration(known, of)
    assert set(found.own) == {"a", "b"}
    watched = Watched.of(found, True)
    assert set(watched.cuts) == {"a", "b", REST}
    assert {name: len(scores) for name, scores in watched.scores.items()} == {"a": 190, "b": 190, REST: 5}
    only_b = (normal(400, 3, shift=10), ["b"] * 400)  # another mix, no other scores
    martingale = Martingale.start(watched, "key")
    martingale.feed(watched, *only_b)
    assert np.exp(martingale.mixture.highest) < 100
    martingale.feed(watched, normal(400, 4, shift=9), ["b"] * 400)
    assert np.exp(martingale.mixture.highest) > 100
    unknown = Watched.of(found, False)
    assert unknown.cuts == {REST: min(watched.cuts.values())}
    with pytest.raises(DataError, match="scores to watch need their groups"):
        martingale.feed(watched, only_b[0])


def test_pieces_of_groups_give_the_same() -> None:
    rng = np.random.default_rng(0)
    watched = Watched.of(calibration(normal(400, 0), ["a", "b"] * 200), True)
    stream, of = normal(500, 1), rng.choice(["a", "b", "never seen"], 500).tolist()
    whole, pieces = Martingale.start(watched, "key"), Martingale.start(watched, "key")
    whole.feed(watched, stream, of)
    for start in range(0, 500, 37):
        pieces.feed(watched, stream[start : start + 37], of[start : start + 37])
    assert pieces.to_bytes() == whole.to_bytes()


@pytest.mark.parametrize("normals", [100, 1000])
def test_clean_streams_rarely_reach_the_threshold(normals: int) -> None:
    assert false_alarms(60, 1000, normals, threshold=20)["low"] < 0.05
    assert false_alarms(60, 1000, normals, threshold=20)["crossed"] <= 0.12


def test_p_values_of_a_fixed_calibration_set_would_not_do() -> None:
    rng, crossed = np.random.default_rng(0), 0
    for _ in range(20):
        known, stream = np.sort(rng.normal(size=100)), rng.normal(size=10_000)
        p = (100 - np.searchsorted(known, stream) + 1 - rng.random(len(stream))) / 101
        crossed += Mixture.of(len(BETS)).feed(log_bets(p)).max() > np.log(100)
    assert crossed >= 5


def test_a_shift_of_one_standard_deviation_is_found() -> None:
    at_once, late = delays(20, 0, 1000), delays(20, 1000, 1000)
    assert at_once["found"] == late["found"] == 1
    assert at_once["median"] < 35
    assert late["median"] < 70


@pytest.mark.parametrize(("shift", "spread"), [(-1, 1), (0, 2), (0, 0.4)])
def test_other_changes_are_found_too(shift: float, spread: float) -> None:
    watched = Watched.of(calibration(normal(1000, 0)), False)
    martingale = Martingale.start(watched, "key")
    martingale.feed(watched, normal(500, 1))
    assert np.exp(martingale.mixture.highest) < 100
    martingale.feed(watched, shift + spread * normal(500, 2))
    assert np.exp(martingale.mixture.highest) > 100
