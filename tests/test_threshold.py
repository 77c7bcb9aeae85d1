"""Thresholds keep their promises: closed forms, simulation, and what is refused."""

import json
from math import comb

import numpy as np
import pytest

from pipeline import threshold
from pipeline.errors import DataError, ModelError, PromiseError
from pipeline.plan import Plan
from pipeline.rules.conformal import needed, smallest_alpha
from pipeline.rules.false_alarm_rate import FalseAlarmRate
from pipeline.threshold import Calibration, Scored, decide, discoveries, p_values, read

MODEL = "ab" * 32


def calibrate(
    scores: np.ndarray, alpha: float, confidence: float | None, review: float | None, model: str
) -> Calibration:
    """By the rule false_alarm_rate, with one of the same kind for the band."""
    band = None if review is None else FalseAlarmRate(review, confidence)
    return threshold.calibrate(Plan(FalseAlarmRate(alpha, confidence), band), Scored(scores), model)


def ranks(n: int) -> np.ndarray:
    """Scores 1..n in disorder: the k-th order statistic is k."""
    return np.random.default_rng(0).permutation(np.arange(1, n + 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("n", "alpha", "k"),
    [
        (99, 0.01, 99),  # ceil(100 x 0.99)
        (100, 0.01, 100),  # ceil(101 x 0.99) = ceil(99.99)
        (198, 0.01, 198),  # ceil(199 x 0.99) = ceil(197.01)
        (199, 0.01, 198),  # ceil(200 x 0.99)
        (99, 0.29, 71),  # 100 x 0.71 exactly: 0.29 x 100 is 28.999999999999996 in floating point
        (9, 0.5, 5),
        (1, 0.5, 1),
    ],
)
def test_the_marginal_threshold_is_the_split_conformal_order_statistic(n: int, alpha: float, k: int) -> None:
    calibration = calibrate(ranks(n), alpha, None, None, MODEL)
    assert calibration.thresholds == {"alarm": float(k), "review": None}
    assert calibration.promise == (n + 1 - k) / (n + 1)


def tail(n: int, alpha: float, r: int) -> float:
    """P(Binomial(n, alpha) >= r), summed term by term."""
    return 1 - sum(comb(n, j) * alpha**j * (1 - alpha) ** (n - j) for j in range(r))


@pytest.mark.parametrize(
    ("n", "alpha", "confidence"),
    [(299, 0.01, 0.95), (300, 0.01, 0.95), (473, 0.01, 0.95), (100, 0.1, 0.9), (60, 0.3, 0.99), (20, 0.4, 0.2)],
)
def test_the_confident_threshold_is_the_lowest_that_the_binomial_tail_allows(
    n: int, alpha: float, confidence: float
) -> None:
    above = n + 1 - int(calibrate(ranks(n), alpha, confidence, None, MODEL).thresholds["alarm"])
    assert tail(n, alpha, above) >= confidence > tail(n, alpha, above + 1)


def test_the_confident_promise_is_the_rate_at_which_the_tail_meets_the_confidence() -> None:
    calibration = calibrate(ranks(372), 0.01, 0.95, None, MODEL)
    assert calibration.promise == pytest.approx(1 - 0.05 ** (1 / 372))  # r = 1
    calibration = calibrate(ranks(1000), 0.01, 0.95, None, MODEL)
    assert calibration.promise < 0.01
    above = 1001 - int(calibration.thresholds["alarm"])
    assert tail(1000, calibration.promise, above) == pytest.approx(0.95)


@pytest.mark.parametrize(("n", "alpha"), [(30, 0.2), (199, 0.05)])
def test_marginal_promise_by_simulation_tight_enough_to_see_an_order_statistic_too_many(n: int, alpha: float) -> None:
    """Uniform scores: the false-alarm rate of a threshold t is 1 - t. Its mean is r / (n + 1) exactly."""
    rng = np.random.default_rng(1)
    rates = [1 - calibrate(rng.random(n), alpha, None, None, MODEL).thresholds["alarm"] for _ in range(4000)]
    r = int(alpha * (n + 1) + 1e-9)
    deviation = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - r / (n + 1)) < 4 * deviation < 0.5 / (n + 1)  # one statistic further is 1 / (n + 1)


@pytest.mark.parametrize(("n", "alpha", "confidence"), [(59, 0.05, 0.95), (60, 0.1, 0.8), (110, 0.2, 0.9)])
def test_confident_promise_by_simulation_is_kept_and_the_next_lower_threshold_breaks_it(
    n: int, alpha: float, confidence: float
) -> None:
    """Of 20,000 calibration sets, at least a share `confidence` keep alpha; one order statistic lower they do not."""
    rng = np.random.default_rng(2)
    sets = np.sort(rng.random((20_000, n)).astype(np.float32), axis=1)
    k = int(calibrate(ranks(n), alpha, confidence, None, MODEL).thresholds["alarm"])
    assert calibrate(sets[0], alpha, confidence, None, MODEL).thresholds["alarm"] == sets[0, k - 1]
    kept, lower = (np.mean(1 - sets[:, i] <= alpha) for i in (k - 1, k - 2))
    four_sigma = 4 * np.sqrt(confidence * (1 - confidence) / len(sets))
    above = n + 1 - k
    assert kept == pytest.approx(tail(n, alpha, above), abs=four_sigma)
    assert kept >= confidence - four_sigma
    assert lower < confidence - four_sigma


def test_ties_keep_the_promise_because_an_alarm_needs_a_strictly_higher_score() -> None:
    rng = np.random.default_rng(3)
    rates = []
    for _ in range(2000):
        alarm = calibrate(rng.integers(0, 6, 49), 0.1, None, None, MODEL).thresholds["alarm"]
        rates.append((5 - alarm) / 6)  # normals are 0..5, equally likely
    assert 0 < np.mean(rates) <= 0.1


def test_equal_scores_throughout_are_allowed_and_said() -> None:
    calibration = calibrate(np.full(99, 2.5), 0.01, None, None, MODEL)
    assert calibration.thresholds["alarm"] == 2.5
    assert decide(np.float32([2.5, 2.6]), calibration.thresholds).tolist() == ["accept", "reject"]
    assert "all calibration scores are equal" in calibration.says()


def test_the_review_threshold_is_the_alarm_threshold_of_its_own_rate() -> None:
    both = calibrate(ranks(999), 0.01, 0.95, 0.05, MODEL)
    alone = calibrate(ranks(999), 0.05, 0.95, None, MODEL)
    assert both.thresholds["review"] == alone.thresholds["alarm"] < both.thresholds["alarm"]
    with pytest.raises(PromiseError, match="the review band is upside down: calibrate.review starts at 995, above the"):
        calibrate(ranks(999), 0.05, 0.95, 0.01, MODEL)


@pytest.mark.parametrize(
    ("alpha", "confidence", "n"),
    [
        (0.01, None, 99),
        (0.5, None, 1),
        (0.9, None, 1),
        (0.29, None, 3),
        (0.01, 0.95, 299),
        (0.05, 0.95, 59),
        (0.5, 0.5, 1),
    ],
)
def test_needed_normals(alpha: float, confidence: float | None, n: int) -> None:
    assert needed(alpha, confidence) == n
    calibrate(ranks(n), alpha, confidence, None, MODEL)
    if n > 1:
        with pytest.raises(PromiseError):
            calibrate(ranks(n - 1), alpha, confidence, None, MODEL)


@pytest.mark.parametrize("confidence", [None, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("n", [1, 2, 3, 6, 49, 298, 5000])
def test_the_smallest_alpha_can_be_promised_and_nothing_lower(n: int, confidence: float | None) -> None:
    alpha = smallest_alpha(n, confidence)
    assert calibrate(ranks(n), alpha, confidence, None, MODEL).thresholds["alarm"] == n
    with pytest.raises(PromiseError):
        calibrate(ranks(n), alpha * (1 - 1e-9), confidence, None, MODEL)


def test_too_few_normals_end_in_one_sentence_with_a_promise_that_can_be_kept() -> None:
    with pytest.raises(PromiseError) as caught:
        calibrate(ranks(50), 0.01, 0.95, None, MODEL)
    assert str(caught.value) == (
        "calibrate.alpha 0.01 with confidence 0.95 needs at least 299 calibration normals, got 50, which can promise "
        "alpha 0.0582 at the lowest; give more normals, a larger split.calibrate or a larger calibrate.alpha "
        "(params.yaml)"
    )
    calibrate(ranks(50), 0.0582, 0.95, None, MODEL)
    with pytest.raises(PromiseError, match="without a confidence needs at least 99 .* got 0, which promise nothing"):
        calibrate(np.array([]), 0.01, None, None, MODEL)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_scores_that_are_not_finite_float32_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="calibration scores must be finite float32 numbers, got 1 of 300"):
        calibrate(np.append(np.ones(299), bad), 0.01, 0.95, None, MODEL)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite_get_neither_p_value_nor_decision(bad: float) -> None:
    with pytest.raises(DataError, match="got 1 of 2"):
        p_values(ranks(9), np.float32([1, bad]))
    with pytest.raises(DataError, match="got 1 of 2"):
        decide(np.float32([1, bad]), {"alarm": 1.0, "review": None})


def test_p_values_by_hand_with_ties() -> None:
    calibration = np.float32([3, 1, 2, 2])
    found = p_values(calibration, np.float32([0, 1, 1.5, 2, 3, 3.5]))
    assert found.dtype == np.float64
    assert found.tolist() == [5 / 5, 5 / 5, 4 / 5, 4 / 5, 2 / 5, 1 / 5]


def test_p_values_match_the_count_they_are_defined_by() -> None:
    rng = np.random.default_rng(4)
    calibration, scores = rng.integers(0, 50, 200).astype("f4"), rng.integers(-5, 55, 300).astype("f4")
    brute = [(1 + int(np.sum(calibration >= score))) / 201 for score in scores]
    assert p_values(calibration, scores).tolist() == brute


def test_an_alarm_is_a_p_value_within_the_marginal_promise() -> None:
    rng = np.random.default_rng(5)
    calibration = calibrate(rng.normal(size=250), 0.03, None, None, MODEL)
    scores = np.concatenate([rng.normal(1, 1, 500).astype("f4"), calibration.scores])
    alarm = decide(scores, calibration.thresholds) == "reject"
    assert np.array_equal(alarm, p_values(calibration.scores, scores) <= calibration.promise + 1e-12)
    assert 0 < alarm.sum() < len(scores)


def test_decisions_at_and_between_the_thresholds() -> None:
    scores = np.float32([0, 1, 1.5, 2, 2.5])
    assert decide(scores, {"alarm": 2.0, "review": 1.0}).tolist() == ["accept", "accept", "review", "review", "reject"]
    assert decide(scores, {"alarm": 2.0, "review": None}).tolist() == ["accept"] * 4 + ["reject"]


def test_json_keeps_every_float32_bit() -> None:
    rng = np.random.default_rng(6)
    scores = (rng.normal(size=400) * 10.0 ** rng.integers(-30, 30, 400)).astype(np.float32)
    made = calibrate(scores, 0.01, 0.95, 0.1, MODEL)
    back = Calibration.from_json(json.loads(json.dumps(made.to_json())))
    assert back.scores.dtype == np.float32
    assert back.scores.tobytes() == np.sort(scores).tobytes()
    assert back.to_json() == made.to_json()
    assert np.float32(back.thresholds["alarm"]) in scores


def test_the_sentence_for_people() -> None:
    assert calibrate(ranks(999), 0.01, 0.95, 0.05, MODEL).says() == (
        "alarm above 995: with 95 % confidence at most 1 % of normals raise one (999 calibration normals carry "
        "0.9139 %); scores above 961 are for review: with 95 % confidence at most 5 % of normals raise one (999 "
        "calibration normals carry 4.956 %)"
    )


def test_read_gives_what_was_written(tmp_path) -> None:
    made = calibrate(ranks(100), 0.01, None, None, MODEL)
    path = tmp_path / "model.calibration.json"
    path.write_text(json.dumps(made.to_json()))
    assert read(path).to_json() == made.to_json()
    path.write_text(whole())
    assert read(path).promised_false_alarms == 1 / 101


def whole(**changed: object) -> str:
    """A sound file with some of its keys changed; `normals` is one inside `known`, None takes a key away."""
    value = calibrate(ranks(100), 0.01, None, 0.1, MODEL).to_json()
    if "normals" in changed:
        value["known"]["normals"] = changed.pop("normals")
    value |= changed
    return json.dumps({key: one for key, one in value.items() if one is not None})


NORMALS = [float(i) for i in range(1, 101)]
PLAN = {"rule": "false_alarm_rate", "alpha": 0.01, "confidence": None, "review": 0.1, "by": None}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        "{}",
        whole(known="none"),
        whole(normals=NORMALS[:50]),
        whole(normals=NORMALS[::-1]),
        whole(normals=[*NORMALS[:-1], float("nan")]),
        whole(thresholds={"alarm": 50.0, "review": 40.0}),
        whole(thresholds=None),
        whole(promise=0.5),
        whole(plan={**PLAN, "rule": "other"}),
        whole(plan={**PLAN, "alpha": "low"}),
        whole(plan={**PLAN, "alpha": 0.02}),
        whole(plan={**PLAN, "extra": 1}),
        whole(extra=1),
        whole(plan=None),
        whole(model=None),
        whole(own={"a": {"alarm": 1.0, "review": None}}),
    ],
)
def test_a_damaged_file_ends_in_one_sentence_that_names_it(tmp_path, text: str) -> None:
    path = tmp_path / "model.calibration.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"model\.calibration\.json"):
        read(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"gone\.json must be a calibration file that can be read"):
        read(tmp_path / "gone.json")


def before(**changed: object) -> dict[str, object]:
    """A file as it was when there was one rule: 99 normals, alarm at 1 %, review at 10 %."""
    value = {"rule": "false_alarm_rate", "alpha": 0.01, "confidence": None, "review": 0.1, "promise": 0.01}
    value |= {"normals": 99, "thresholds": {"alarm": 99.0, "review": 90.0}, "scores": [float(i) for i in range(1, 100)]}
    return value | {"model": MODEL} | changed


def test_a_file_of_before_is_read_still() -> None:
    found = Calibration.from_json(before())
    assert found.to_json() == calibrate(ranks(99), 0.01, None, 0.1, MODEL).to_json()
    for broken in (before(promise=0.5), before(thresholds={"alarm": 98.0, "review": 90.0}), before(scores=[3.0, 1.0])):
        with pytest.raises(ModelError):
            Calibration.from_json(broken)


def test_discoveries_by_hand_and_by_their_definition() -> None:
    p = np.array([0.04, 0.001, 0.2, 0.012, 0.03])  # against 0.02, 0.04, 0.06, 0.08, 0.1 at rate 0.1
    assert discoveries(p, 0.1).tolist() == [True, True, False, True, True]
    assert discoveries(p, 0.01).tolist() == [False, True, False, False, False]
    assert discoveries(np.array([0.5, 0.9]), 0.1).tolist() == [False, False]
    assert discoveries(np.zeros(0), 0.1).tolist() == []
    rng = np.random.default_rng(8)
    for _ in range(50):
        p = rng.integers(1, 60, 40) / 60  # with ties
        k = max((i for i in range(41) if i == 0 or np.sort(p)[i - 1] <= 0.3 * i / 40), default=0)
        assert discoveries(p, 0.3).sum() == (p <= np.sort(p)[k - 1]).sum() if k else not discoveries(p, 0.3).any()


def test_the_false_discovery_rate_holds_on_contaminated_batches() -> None:
    rng = np.random.default_rng(9)
    false = []
    for _ in range(400):
        scores = np.concatenate([rng.normal(size=180), rng.normal(4, 1, 20)])
        found = discoveries(p_values(rng.normal(size=500), scores), 0.2)
        false.append(found[:180].sum() / max(found.sum(), 1))
    assert 0.12 < np.mean(false) <= 0.2 * 180 / 200 + 3 * np.std(false) / 20  # the rate times the share of normals


def grouped(a: int = 400, b: int = 300, c: int = 20) -> Scored:
    """Group b scores a hundred higher than a; c is small."""
    rng = np.random.default_rng(10)
    scores = np.concatenate([rng.normal(size=a), rng.normal(100, 1, b), rng.normal(50, 1, c)])
    return Scored(scores, normals_of=["a"] * a + ["b"] * b + ["c"] * c)


def test_groups_with_enough_normals_get_thresholds_of_their_own_and_the_others_are_named() -> None:
    plan, known = Plan(FalseAlarmRate(0.05, None), by="group"), grouped()
    found = threshold.calibrate(plan, known, MODEL)
    of = np.asarray(known.normals_of)
    for group in "ab":
        alone = calibrate(known.normals[of == group], 0.05, None, None, MODEL)
        assert found.own[group] == alone.thresholds
        mixed = ["c", group, "new", ""]
        scores = np.float32([0, alone.thresholds["alarm"] + 0.01, 0, 0])
        assert found.decide(scores, mixed)[1] == "reject"
        assert found.p_values(scores, mixed)[1] == p_values(alone.scores, scores[1:2])[0]
    assert set(found.own) == {"a", "b", "c"}  # 19 are enough for 5 % on average
    fewer = threshold.calibrate(plan, grouped(c=18), MODEL)
    assert fewer.fallen_back == {"c": 18}
    assert "too few for their own, so judged by all together: c (18 normals)" in fewer.says()
    high = fewer.thresholds["alarm"] - 1
    assert fewer.decide(np.float32([high, high]), ["c", "a"]).tolist() == ["accept", "reject"]
    assert fewer.alarms(["c", "a"], 2).tolist() == np.float32([high + 1, fewer.own["a"]["alarm"]]).tolist()
    assert Calibration.from_json(json.loads(json.dumps(fewer.to_json()))).to_json() == fewer.to_json()
    with pytest.raises(DataError, match="every sample needs its group"):
        found.decide(np.float32([1]))
    with pytest.raises(DataError, match="needs the category of every calibration sample"):
        threshold.calibrate(Plan(FalseAlarmRate(), by="category"), Scored(ranks(400)), MODEL)


def test_a_group_keeps_its_promise_that_thresholds_of_all_together_break() -> None:
    """Group b is a tenth of the normals and scores higher: together, half of b raises an alarm."""
    rng = np.random.default_rng(11)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        of = np.where(rng.random(n) < 0.1, "b", "a")
        return rng.normal(np.where(of == "b", 2.0, 0.0)), of

    rates = {"own": [], "together": []}
    for _ in range(200):
        scores, of = draw(1000)
        found = threshold.calibrate(Plan(FalseAlarmRate(0.1, None), by="group"), Scored(scores, normals_of=of), MODEL)
        fresh, of = draw(2000)
        rates["own"].append((found.decide(fresh, of) == "reject")[of == "b"].mean())
        rates["together"].append((decide(fresh, found.thresholds) == "reject")[of == "b"].mean())
    assert np.mean(rates["own"]) <= 0.1 + 3 * np.std(rates["own"]) / 200**0.5
    assert np.mean(rates["together"]) > 0.4


def test_unlabelled_normals_are_told_and_kept() -> None:
    known = Scored(np.arange(100, dtype=np.float32), presumed=True)
    found = threshold.calibrate(Plan(FalseAlarmRate(0.1)), known, MODEL)
    assert "unlabelled samples stand for the normals" in found.says()
    again = Calibration.from_json(json.loads(json.dumps(found.to_json())))
    assert again.known.presumed
    assert "presumed" not in threshold.calibrate(found.plan, Scored(known.normals), MODEL).to_json()["known"]
