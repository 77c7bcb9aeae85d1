"""The gate, case by case; every expectation is read off the figures given."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import ParamsError
from pipeline.gate import Check, Measured, Verdict, refusal, verdict
from pipeline.operation import AgainstChampion, Limit, Promote
from pipeline.params import Params

MARGIN = AgainstChampion("auroc", rule="margin")
INTERVAL = AgainstChampion("auroc", resamples=500)


def judged(
    metrics: dict[str, float],
    limits: dict[str, Limit] | None = None,
    champion: dict[str, float] | None = None,
    against: AgainstChampion = MARGIN,
    golden: float | None = 0.0,
) -> Verdict:
    """The verdict on figures alone."""
    other = None if champion is None else Measured(champion)
    return verdict(Measured(metrics), limits or {}, other, against, golden)


def test_first_champion_needs_only_the_limits() -> None:
    found = judged({"auroc": 0.9}, {"auroc": Limit(min=0.7)}, against=INTERVAL)
    assert found.passed
    assert found.reasons == [
        "loaded back from the registry it scores the golden batch exactly as it did",
        "auroc 0.9 is not below the least allowed 0.7",
        "auroc is 0.9 and there is no champion to beat",
    ]
    assert [(c.name, c.value, c.bound, c.interval, c.passed) for c in found.checks] == [
        ("golden batch", 0.0, 0.0, None, True),
        ("auroc min", 0.9, 0.7, None, True),
        ("auroc against the champion", 0.9, None, None, True),
    ]


@pytest.mark.parametrize(
    ("limit", "passed", "reason"),
    [
        (Limit(min=0.5), True, ""),
        (Limit(max=0.5), True, ""),
        (Limit(min=0.51), False, "auroc 0.5 is below the least allowed 0.51"),
        (Limit(max=0.49), False, "auroc 0.5 is above the most allowed 0.49"),
        (Limit(min=0.6, max=0.4), False, "auroc 0.5 is below the least allowed 0.6"),
    ],
)
def test_limits_include_their_bounds(limit: Limit, passed: bool, reason: str) -> None:
    found = judged({"auroc": 0.5}, {"auroc": limit})
    assert found.passed is passed
    assert passed or found.reasons[0] == reason


@pytest.mark.parametrize("metrics", [{"auroc": 0.9}, {"auroc": 0.9, "aupro": math.nan}])
def test_a_limited_metric_that_was_not_measured_fails(metrics: dict[str, float]) -> None:
    found = judged(metrics, {"aupro": Limit(max=1.0)})
    assert found.reasons == ["aupro has a limit (promote.limits.aupro) but was not measured"]


@pytest.mark.parametrize(
    ("low", "passed", "reason"),
    [
        (0.0, True, "false_alarm_rate 0.12 does not contradict the promised 0.1: its 95 % interval begins at 0, not"),
        (0.1, True, "false_alarm_rate 0.12 does not contradict the promised 0.1: its 95 % interval begins at 0.1, not"),
        (
            0.1001,
            False,
            "false_alarm_rate 0.12 contradicts the promised 0.1: its 95 % interval begins at 0.1001, above",
        ),
    ],
)
def test_a_promise_holds_unless_the_test_contradicts_it(low: float, passed: bool, reason: str) -> None:
    rates = {"false_alarm_rate": 0.12, "false_alarm_rate_low": low, "false_alarm_rate_high": 0.2}
    metrics = {"auroc": 0.9, "promised_false_alarm_rate": 0.1} | rates
    found = judged(metrics, {"false_alarm_rate": Limit(max="promised")})
    assert found.passed is passed
    (check,) = [check for check in found.checks if check.name == "false_alarm_rate max"]
    assert (check.value, check.bound, check.interval, check.passed) == (0.12, 0.1, (low, 0.2), passed)
    assert check.says.startswith(reason)


@pytest.mark.parametrize("missing", ["false_alarm_rate", "false_alarm_rate_low", "promised_false_alarm_rate"])
def test_a_promise_that_cannot_be_checked_fails(missing: str) -> None:
    metrics = {"auroc": 0.9, "false_alarm_rate": 0.1, "false_alarm_rate_low": 0.0, "promised_false_alarm_rate": 0.1}
    del metrics[missing]
    found = judged(metrics, {"false_alarm_rate": Limit(max="promised")})
    (reason,) = found.reasons
    assert missing in reason
    assert "was not measured" in reason


@pytest.mark.parametrize(
    ("value", "champion", "margin", "passed"),
    [
        (0.75, 0.5, 0.0, True),
        (0.5, 0.5, 0.0, False),  # no better is not enough
        (0.5, 0.75, 0.0, False),
        (0.75, 0.5, 0.25, False),  # exactly the margin better
        (0.75, 0.5, 0.125, True),
        (0.5, 0.75, -0.5, True),
        (0.25, 0.75, -0.5, False),  # exactly as much worse as is not allowed any more
    ],
)
def test_by_margin(value: float, champion: float, margin: float, passed: bool) -> None:
    against = AgainstChampion("aupro", rule="margin", margin=margin)
    found = judged({"aupro": value}, {}, {"aupro": champion}, against)
    assert found.passed is passed
    check = found.checks[-1]
    assert (check.value, check.bound, check.interval) == (value, champion + margin, None)
    assert f"{value:g}" in check.says
    assert f"{champion:g}" in check.says


def tables(normals: int, anomalies: int, noise: float, seed: int = 0) -> tuple[Measured, Measured]:
    """A candidate, and a champion that sees the same through more noise; the rows are in another order."""
    rng = np.random.default_rng(seed)
    label = np.repeat([0, 1, -1], [normals, anomalies, 5])
    score = rng.normal(2 * label, 1)
    candidate = pd.DataFrame({"id": [f"s{i}" for i in range(len(label))], "label": label, "score": score})
    champion = candidate.assign(score=score + rng.normal(0, noise, len(label)))
    made = []
    for table in (candidate, champion):
        table["decision"] = np.where(table["score"] > 1.5, "reject", "accept")
        made.append(table.astype({"score": np.float32}))
    figures = [{"auroc": _auroc(table), "detection_rate": _caught(table)} for table in made]
    return Measured(figures[0], made[0]), Measured(figures[1], made[1].sample(frac=1, random_state=seed))


def _auroc(table: pd.DataFrame) -> float:
    normal, anomalous = (table["score"][table["label"] == label].to_numpy() for label in (0, 1))
    return float((anomalous[:, None] > normal).mean())


def _caught(table: pd.DataFrame) -> float:
    return float((table["decision"][table["label"] == 1] == "reject").mean())


def test_by_interval_the_better_one_passes() -> None:
    candidate, champion = tables(300, 100, noise=3.0)
    check = verdict(candidate, {}, champion, INTERVAL, 0.0).checks[-1]
    low, high = check.interval
    assert check.passed
    assert 0 < low < check.value < high
    assert check.value == pytest.approx(candidate.metrics["auroc"] - champion.metrics["auroc"])
    assert check.bound == 0.0
    assert check.says == (
        f"auroc {candidate.metrics['auroc']:.6g} exceeds the champion's {champion.metrics['auroc']:.6g}: "
        f"the 95 % interval of the difference, {low:.4g} to {high:.4g}, lies above 0"
    )


def test_by_interval_better_by_luck_is_not_enough() -> None:
    candidate, champion = tables(20, 8, noise=0.5, seed=1)
    assert candidate.metrics["auroc"] > champion.metrics["auroc"]
    check = verdict(candidate, {}, champion, INTERVAL, 0.0).checks[-1]
    assert not check.passed
    assert "exceeds the champion's" in check.says
    assert ", but not for certain: " in check.says
    assert check.says.endswith(", must lie above 0")


def test_by_interval_a_tolerance_lets_an_equal_one_pass_and_equality_does_not() -> None:
    candidate, _ = tables(50, 20, noise=1.0)
    equal = verdict(candidate, {}, candidate, INTERVAL, 0.0)
    assert equal.reasons == [
        f"auroc {candidate.metrics['auroc']:.6g} does not exceed the champion's {candidate.metrics['auroc']:.6g}: "
        "the 95 % interval of the difference, 0 to 0, must lie above 0"
    ]
    tolerant = AgainstChampion("auroc", tolerance=0.01, resamples=500)
    check = verdict(candidate, {}, candidate, tolerant, 0.0).checks[-1]
    assert check.passed
    assert check.bound == -0.01
    assert "minus the tolerance 0.01: " in check.says


def test_by_interval_a_worse_one_fails_and_confidence_counts() -> None:
    candidate, champion = tables(60, 30, noise=1.0, seed=1)
    assert not verdict(champion, {}, candidate, INTERVAL, 0.0).passed
    widths = []
    for confidence in (0.5, 0.99):
        against = AgainstChampion("auroc", confidence=confidence, resamples=500)
        low, high = verdict(candidate, {}, champion, against, 0.0).checks[-1].interval
        widths.append(high - low)
    assert widths[0] < widths[1]


def test_the_detection_rate_is_that_of_decisions() -> None:
    candidate, champion = tables(50, 200, noise=3.0)
    check = verdict(candidate, {}, champion, AgainstChampion("detection_rate", resamples=500), 0.0).checks[-1]
    assert check.value == pytest.approx(candidate.metrics["detection_rate"] - champion.metrics["detection_rate"])
    assert check.interval[0] <= check.value <= check.interval[1]


def test_the_same_tables_get_the_same_verdict() -> None:
    candidate, champion = tables(40, 15, noise=1.0)
    first, second = (verdict(candidate, {}, champion, INTERVAL, 0.0) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: t.iloc[1:], "they were not scored on the same test samples (1 were scored by one of them only)"),
        (lambda t: t.assign(label=1 - t["label"]), "the test samples had other labels when the champion was scored"),
        (lambda t: None, "the scores of the test samples are not known"),
    ],
)
def test_scores_that_do_not_pair_up_are_not_compared(spoil: object, reason: str) -> None:
    candidate, champion = tables(10, 5, noise=1.0)
    found = verdict(candidate, {}, Measured(champion.metrics, spoil(champion.table)), INTERVAL, 0.0)
    assert found.reasons == [f"auroc cannot be compared with the champion's: {reason}"]


def test_one_class_alone_cannot_be_resampled() -> None:
    normals = [m.table[m.table["label"] == 0] for m in tables(10, 5, noise=1.0)]
    candidate, champion = (Measured({"auroc": 0.5}, table) for table in normals)
    found = verdict(candidate, {}, champion, INTERVAL, 0.0)
    assert found.reasons[0].endswith("the test needs both normals and anomalies")


@pytest.mark.parametrize("against", [MARGIN, INTERVAL])
def test_a_champion_without_the_metric_is_not_beaten(against: AgainstChampion) -> None:
    found = judged({"auroc": 0.9}, {}, {"ap": 0.1}, against)
    assert found.reasons == ["auroc of the champion is not known, so 0.9 cannot be compared with it"]


def test_a_candidate_without_the_deciding_metric_fails_even_without_a_champion() -> None:
    assert not judged({}).passed


@pytest.mark.parametrize("difference", [None, 1e-12, math.inf])
def test_a_model_that_changed_on_its_way_fails(difference: float | None) -> None:
    found = judged({"auroc": 1.0}, golden=difference)
    assert not found.passed
    assert "registry" in found.reasons[0]


def test_all_failures_are_told_and_nothing_else() -> None:
    limits = {"auroc": Limit(min=0.6), "ap": Limit(min=0.1)}
    found = judged({"auroc": 0.5}, limits, {"auroc": 0.7}, golden=0.5)
    assert len(found.reasons) == 4
    assert not any("exactly" in reason for reason in found.reasons)


def test_figures_fit_their_tag() -> None:
    few = judged({"auroc": 0.9}, golden=math.inf)
    assert json.loads(few.figures(5000))[0] == {
        "name": "golden batch",
        "value": None,
        "bound": 0.0,
        "interval": None,
        "passed": False,
        "says": "loaded back from the registry it scores the golden batch differently, by up to inf",
    }
    many = Verdict([Check(f"metric {i}", 0.1, 0.2, (0.1, 0.3), True, "x" * 300) for i in range(100)])
    shown = json.loads(many.figures(5000))
    assert len(many.figures(5000)) <= 5000
    assert len(shown) > 30
    assert "says" not in shown[0]
    assert json.loads(refusal("usable", "it is not").figures(5000))[0]["says"] == "it is not"


def promote(**section: object) -> Promote:
    return Params({"promote": {"name": "x", **section}}, Path("params.yaml")).promote


def test_params_that_were_written_before_there_were_intervals() -> None:
    assert promote(against_champion={"metric": "auroc", "tolerance": 0.0}) == Promote("x")
    assert (Promote("x").against_champion.rule, Promote("x").approve) == ("interval", "auto")


def test_the_whole_section() -> None:
    found = promote(
        limits={"aupro": {"min": 0.8}, "false_alarm_rate": {"max": "promised"}},
        against_champion={"metric": "ap", "rule": "interval", "confidence": 0.9, "resamples": 500},
        approve="manual",
        approve_within=60,
    )
    assert found.limits == {"aupro": Limit(min=0.8), "false_alarm_rate": Limit(max="promised")}
    assert found.against_champion == AgainstChampion("ap", "interval", 0.0, 0.0, 0.9, 500)
    assert (found.approve, found.approve_within) == ("manual", 60)
    assert promote(against_champion={"metric": "aupro", "rule": "margin", "margin": -0.01}).against_champion.margin < 0


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (
            {"limits": {"auroc": {"max": "promised"}}},
            "promote.limits.auroc.max must be a number, only false_alarm_rate is promised (params.yaml)",
        ),
        (
            {"limits": {"false_alarm_rate": {"max": "promise"}}},
            "promote.limits.false_alarm_rate.max must be a number or the word promised, got 'promise' (params.yaml)",
        ),
        (
            {"limits": {"false_alarm_rate": {"min": "promised"}}},
            "promote.limits.false_alarm_rate.min must be a valid number, got 'promised' (params.yaml)",
        ),
        (
            {"against_champion": {"metric": "aupro"}},
            "promote.against_champion.metric must be one of auroc, ap, f1_max, detection_rate with rule: interval, "
            "got 'aupro'; rule: margin takes any metric (params.yaml)",
        ),
        (
            {"against_champion": {"rule": "margin", "tolerance": 0.1}},
            "promote.against_champion.tolerance has no meaning with rule: margin, got 0.1 (params.yaml)",
        ),
        (
            {"against_champion": {"margin": 0.1}},
            "promote.against_champion.margin has no meaning with rule: interval, got 0.1 (params.yaml)",
        ),
        (
            {"against_champion": {"rule": "luck"}},
            "promote.against_champion.rule must be 'interval' or 'margin', got 'luck' (params.yaml)",
        ),
        ({"approve": "me"}, "promote.approve must be 'auto' or 'manual', got 'me' (params.yaml)"),
        (
            {"approve_within": 0},
            "promote.approve_within must be greater than or equal to 1, got 0 (params.yaml)",
        ),
    ],
)
def test_what_params_do_not_allow(section: dict[str, object], sentence: str) -> None:
    with pytest.raises(ParamsError) as raised:
        promote(**section)
    assert str(raised.value) == sentence
