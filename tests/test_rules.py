"""The rules of the alarm: closed forms, brute force, simulation, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2, genpareto

from pipeline import rules, threshold
from pipeline.errors import ParamsError, PromiseError
from pipeline.plan import Plan, name
from pipeline.rules.conformal import Known
from pipeline.rules.cost import Cost
from pipeline.rules.escape_rate import EscapeRate
from pipeline.rules.extreme import Extreme
from pipeline.rules.f1 import F1
from pipeline.rules.false_alarm_rate import FalseAlarmRate
from pipeline.rules.gaussian import Gaussian
from pipeline.threshold import Scored


def known(normals: np.ndarray, anomalies: np.ndarray = np.zeros(0), degrees: tuple[int, ...] = ()) -> Known:  # noqa: B008
    return Known(np.sort(normals).astype(np.float32), np.sort(anomalies).astype(np.float32), degrees)


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_the_escape_rate_mirrors_the_false_alarm_rate(confidence: float | None) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 200.0))
    found = EscapeRate(0.1, confidence).find(known(np.ones(3), scores), "calibrate")
    mirrored = FalseAlarmRate(0.1, confidence).find(known(-scores), "calibrate")
    assert found.rate == mirrored.rate
    k = -mirrored.threshold
    assert np.float32(found.threshold) == np.nextafter(np.float32(k), np.float32(0))
    escapes = threshold.decide(np.float32([k - 1, k]), {"alarm": found.threshold, "review": None})
    assert escapes.tolist() == ["accept", "reject"]


def test_the_escape_rate_is_kept_on_average() -> None:
    rng = np.random.default_rng(1)
    rates = [EscapeRate(0.1, None).find(known(np.ones(1), rng.random(59)), "calibrate").threshold for _ in range(3000)]
    assert np.mean(rates) == pytest.approx(6 / 60, abs=4 * np.std(rates) / 3000**0.5)


def test_too_few_anomalies_end_in_one_sentence() -> None:
    with pytest.raises(PromiseError) as caught:
        EscapeRate(0.05, 0.95).find(known(np.ones(9), np.ones(10)), "calibrate")
    assert str(caught.value) == (
        "calibrate.alpha 0.05 with confidence 0.95 needs at least 59 calibration anomalies, got 10, which can promise "
        "alpha 0.259 at the lowest; give more labelled anomalies, a larger split.anomalies.calibrate or a larger "
        "calibrate.alpha (params.yaml)"
    )


def brute(normals: np.ndarray, anomalies: np.ndarray, value) -> tuple[float, float]:
    """The best `value(false alarms, escapes)`, least, over every threshold, and the highest threshold that has it."""
    levels = np.unique(np.r_[normals, anomalies]).astype(np.float32)
    levels = np.r_[np.nextafter(levels[0], np.float32(-np.inf)), levels]
    found = [(value((normals > t).sum(), (anomalies <= t).sum()), t) for t in levels]
    least = min(one for one, _ in found)
    return least, float(max(t for one, t in found if one <= least + 1e-12))


@pytest.mark.parametrize("seed", range(5))
def test_cost_and_f1_match_brute_force_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    normals, anomalies = rng.integers(0, 30, 80).astype("f4"), rng.integers(15, 45, 20).astype("f4")
    cost = Cost(prevalence=0.05, false_alarm=2.0, escape=30.0)
    found = cost.find(known(normals, anomalies), "calibrate")
    least, at = brute(normals, anomalies, lambda f, e: 0.95 * 2 * f / 80 + 0.05 * 30 * e / 20)
    assert (found.figures["cost"], found.threshold) == (pytest.approx(least), at)
    assert found.figures["cost_low"] <= least <= found.figures["cost_high"]
    assert found.figures["threshold_low"] <= at <= found.figures["threshold_high"]
    assert found.rate is None
    assert "no rate is promised" in found.says
    found = F1().find(known(normals, anomalies), "calibrate")
    least, at = brute(normals, anomalies, lambda f, e: -2 * (20 - e) / ((20 - e) + f + 20))
    assert (found.figures["f1"], found.threshold) == (pytest.approx(-least), at)


def test_the_interval_of_the_cost_is_that_of_resampled_samples() -> None:
    """Against resampling the scores themselves, the plain way."""
    rng = np.random.default_rng(6)
    normals, anomalies = rng.normal(size=300).astype("f4"), rng.normal(2, 1, 60).astype("f4")
    rule = Cost(prevalence=0.1, false_alarm=1.0, escape=5.0)
    found = rule.find(known(normals, anomalies), "calibrate")
    costs = [
        brute(rng.choice(normals, 300), rng.choice(anomalies, 60), lambda f, e: 0.9 * f / 300 + 0.5 * e / 60)[0]
        for _ in range(400)
    ]
    low, high = np.quantile(costs, [0.025, 0.975])
    assert (found.figures["cost_low"], found.figures["cost_high"]) == (
        pytest.approx(low, abs=0.02),
        pytest.approx(high, abs=0.02),
    )


def test_costs_move_the_threshold_the_way_they_should_and_scale_freely() -> None:
    rng = np.random.default_rng(7)
    both = known(rng.normal(size=2000), rng.normal(2, 1, 500))
    dear = [Cost(0.1, 1.0, escape).find(both, "calibrate").threshold for escape in (1, 10, 100)]
    assert all(low > high for low, high in pairwise(dear))
    scaled = Cost(0.1, 10.0, 100.0).find(both, "calibrate").threshold
    assert scaled == dear[1]
    assert Cost(0.1, 0.0, 1.0).find(both, "calibrate").threshold < both.anomalies[0]  # false alarms cost nothing
    with pytest.raises(PromiseError, match="must not both be 0"):
        Cost(0.1, 0.0, 0.0).find(both, "calibrate")


@pytest.mark.parametrize("rule", [Cost(prevalence=0.1), F1()])
def test_labelled_rules_say_whom_they_miss(rule) -> None:
    with pytest.raises(PromiseError, match="needs calibration labelled anomalies, got none; give it a share"):
        rule.find(known(np.ones(5)), "calibrate")
    with pytest.raises(PromiseError, match="needs calibration normals, got none"):
        rule.find(known(np.zeros(0), np.ones(5)), "calibrate")


def test_the_gaussian_working_point_is_the_chi_quantile_and_its_test_sees_a_wrong_assumption() -> None:
    rng = np.random.default_rng(8)
    scores = np.sqrt(chi2.rvs(7, size=500, random_state=rng))
    found = Gaussian(0.01).find(known(scores, degrees=(7,)), "calibrate")
    assert found.threshold == pytest.approx(np.sqrt(chi2.isf(0.01, 7)))
    assert "does not contradict it" in found.says
    wrong = Gaussian(0.01).find(known(scores * 1.3, degrees=(7,)), "calibrate")
    assert wrong.figures["fit_p_value"] < 1e-6
    assert "contradicts it: do not trust this threshold" in wrong.says
    with pytest.raises(PromiseError, match="for a detector that assumes Gaussian features"):
        Gaussian(0.01).find(known(scores), "calibrate")


def test_the_gaussian_test_is_as_often_wrong_as_it_says_with_several_levels() -> None:
    """Fully dependent levels, which is what the sum of quantiles assumes: p-values are uniform."""
    rng = np.random.default_rng(9)
    p = []
    for _ in range(100):
        tail = rng.random(200)
        scores = np.sqrt(chi2.isf(tail, 3)) + np.sqrt(chi2.isf(tail, 12))
        p.append(Gaussian().find(known(scores, degrees=(3, 12)), "calibrate").figures["fit_p_value"])
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 100) ** 0.5)
    assert np.mean(p) == pytest.approx(0.5, abs=4 / (12 * 100) ** 0.5)


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.2])
def test_the_extreme_rule_finds_quantiles_beyond_the_sample_of_known_tails(shape: float) -> None:
    rng = np.random.default_rng(10)
    truth = genpareto.isf(1e-4, shape)
    found = [
        Extreme(1e-4).find(known(genpareto.rvs(shape, size=2000, random_state=rng)), "calibrate") for _ in range(40)
    ]
    assert np.median([one.threshold for one in found]) == pytest.approx(truth, rel=0.15)
    assert np.mean([one.figures["shape"] for one in found]) == pytest.approx(shape, abs=0.08)
    inside = [one.figures["threshold_low"] <= truth <= one.figures["threshold_high"] for one in found]
    assert np.mean(inside) > 0.75
    assert "an extrapolation, no rate is promised" in found[0].says


def test_the_extreme_rule_refuses_what_has_no_tail() -> None:
    with pytest.raises(PromiseError, match="at least 30 scores in its tail, 300 calibration normals"):
        Extreme(1e-4).find(known(np.arange(299.0)), "calibrate")
    with pytest.raises(PromiseError, match="a tail of differing scores, got 30 equal ones"):
        Extreme(1e-4).find(known(np.ones(300)), "calibrate")
    with pytest.raises(PromiseError, match=r"calibrate.alpha must lie in the tail, below 0.1"):
        Extreme(0.2).find(known(np.arange(300.0)), "calibrate")


def test_a_plan_is_read_from_a_section_and_gives_it_back() -> None:
    plan = Plan.read(
        {"rule": "cost", "prevalence": 0.1, "escape": 20, "review": {"rule": "escape_rate"}, "by": "group"}
    )
    assert plan == Plan(Cost(0.1, 1.0, 20), EscapeRate(), "group")
    assert Plan.read(plan.section()) == plan
    assert Plan.read({}) == Plan(FalseAlarmRate())
    assert Plan.read({"alpha": 0.01, "confidence": None, "review": 0.05}).review == FalseAlarmRate(0.05, None)
    assert [name(rule) for rule in (FalseAlarmRate(), EscapeRate(), Cost(0.1), F1(), Gaussian(), Extreme())] == list(
        rules.TABLE
    )


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ([], r"calibrate must hold keys and values"),
        ({"rule": "guess"}, r"calibrate\.rule must be one of false_alarm_rate, escape_rate, .* got 'guess'"),
        ({"alpha": 0}, r"calibrate\.alpha must be greater than 0, got 0"),
        ({"alpha": 1}, r"calibrate\.alpha must be less than 1, got 1"),
        ({"confidence": 1}, r"calibrate\.confidence must be less than 1, got 1"),
        ({"rule": "cost"}, r"calibrate\.prevalence is required and missing"),
        ({"rule": "cost", "prevalence": 0.1, "escape": -1}, r"calibrate\.escape must be greater than or equal to 0"),
        ({"rule": "f1", "alpha": 0.1}, r"calibrate\.alpha is not a known key"),
        ({"by": "colour"}, r"calibrate\.by must be group, category, sensitive or null, got 'colour'"),
        ({"alpha": 0.1, "review": 0.05}, r"calibrate\.review must be above calibrate\.alpha \(0\.1\), .* got 0\.05"),
        ({"alpha": 0.1, "review": 2}, r"calibrate\.review\.alpha must be less than 1, got 2"),
        ({"review": "wide"}, r"calibrate\.review must be a rate, or a rule and its options, got 'wide'"),
        (
            {"rule": "escape_rate", "alpha": 0.1, "review": {"rule": "escape_rate", "alpha": 0.2}},
            r"calibrate\.review must be below calibrate\.alpha \(0\.1\), .* got 0\.2",
        ),
    ],
)
def test_sections_that_are_not_allowed(section, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        Plan.read(section)


def test_a_band_between_two_kinds_of_rules() -> None:
    rng = np.random.default_rng(11)
    both = Scored(rng.normal(size=500), rng.normal(2, 1, 200))
    plan = Plan(FalseAlarmRate(0.01, 0.95), EscapeRate(0.05, 0.95))
    found = threshold.calibrate(plan, both, "model")
    assert found.thresholds["review"] < found.thresholds["alarm"]
    assert (found.decide(both.anomalies) == "accept").mean() < 0.05
    assert found.promised_false_alarms < 0.01
    assert found.promised_escapes is None
    easy = threshold.calibrate(plan, Scored(both.normals, both.anomalies + 50), "model")
    assert easy.thresholds["review"] == easy.thresholds["alarm"]
    assert "which the alarm keeps already: the band is empty" in easy.says()
    with pytest.raises(PromiseError, match="the review band is upside down"):
        threshold.calibrate(Plan(EscapeRate(0.05), FalseAlarmRate(0.01)), both, "model")
