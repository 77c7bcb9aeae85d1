"""Groups judged as a whole, and false alarms by a sensitive value: by hand, by simulation, against scipy."""

import numpy as np
import pytest
from scipy.stats import fisher_exact

from pipeline.group_metrics import by_group, by_sensitive


def test_groups_by_hand() -> None:
    """At a limit of 0.05. a, of one, alarms as its sample does. b is quiet: 4 x 0.03 > 0.05, though one of its samples
    alarms. c alarms: 4/3 x 0.03 <= 0.05. d holds one labelled anomaly and is missed. e has only unknown labels, and
    the last sample belongs to no group."""
    group = [*"a", *"bbbb", *"cccc", *"dd", *"ee", ""]
    p = np.array([0.01, 0.9, 0.03, 0.5, 0.6, 0.03, 0.02, 0.9, 0.02, 0.4, 0.06, 0.001, 0.001, 0.001])
    label = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1, -1, -1, 0])
    found = by_group(np.array(group, object), label, p, np.full(14, 0.05))
    assert (found["n_normal"], found["n_anomalous"]) == (2, 2)
    assert (found["specificity"], found["sensitivity"]) == (0.5, 0.5)
    assert (found["specificity_low"], found["specificity_high"]) == pytest.approx((1 - 0.975**0.5, 0.975**0.5))
    # the least p: a 0.01, b 0.12, c 0.04 and d 0.12: c above a in one pair of four, no; c > b, d = b, d < a, c < a
    assert found["auroc"] == (1 + 0.5 + 0 + 0) / 4


def test_samples_of_unknown_label_do_not_count_in_their_group() -> None:
    group, label = np.array([*"aaabb"], object), np.array([0, 0, -1, 1, 1])
    found = by_group(group, label, np.array([0.5, 0.5, 1e-9, 0.01, 0.01]), np.full(5, 0.05))
    assert (found["specificity"], found["sensitivity"], found["auroc"]) == (1, 1, 1)


def test_groups_of_one_kind_or_of_single_samples() -> None:
    p, limit = np.array([0.5, 0.5, 0.001]), np.full(3, 0.05)
    assert by_group(np.array(["a", "b", "c"], object), np.array([0, 0, 1]), p, limit) == {}
    assert by_group(np.array(["", "", ""], object), np.array([0, 0, 1]), p, limit) == {}
    assert by_group(np.array(["a", "a", "b"], object), np.full(3, -1), p, limit) == {}
    only = by_group(np.array(["a", "a", "b"], object), np.array([0, 0, 0]), p, limit)
    assert (only["n_anomalous"], only["specificity"], only["auroc"]) == (0, 0.5, None)
    assert "sensitivity" not in only


@pytest.mark.parametrize("size", [2, 10, 50])
@pytest.mark.parametrize("alike", [0.0, 0.9])
def test_false_alarms_of_groups_stay_below_the_limit_whatever_their_size(size: int, alike: float) -> None:
    """2,000 groups of normals, independent or alike; "any sample alarms" would reach 1 - 0.95^50 = 92 %."""
    rng = np.random.default_rng(0)
    scores = np.sqrt(alike) * rng.normal(size=(2000, 1)) + np.sqrt(1 - alike) * rng.normal(size=(2000, size))
    calibration = np.sort(rng.normal(size=100_000))
    p = (1 + len(calibration) - np.searchsorted(calibration, scores.ravel())) / (1 + len(calibration))
    group = np.repeat(np.arange(2000).astype(str), size).astype(object)
    found = by_group(group, np.zeros(len(p), int), p, np.full(len(p), 0.05))
    assert 1 - found["specificity"] <= 0.06
    assert alike or 1 - found["specificity"] >= 0.04


def test_false_alarms_by_value_by_hand() -> None:
    """3 of 4 normals of a, 0 of 5 of b; anomalies, unknown labels and unknown values do not count."""
    value = np.array(["a"] * 4 + ["b"] * 5 + ["a", "b", ""], object)
    label = np.array([0] * 9 + [1, -1, 0])
    alarm = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1], bool)
    found = by_sensitive(value, label, alarm)
    assert (found["a.n_normal"], found["b.n_normal"]) == (4, 5)
    assert (found["a.false_alarm_rate"], found["b.false_alarm_rate"]) == (0.75, 0.0)
    assert found["b.false_alarm_rate_high"] == pytest.approx(1 - 0.025 ** (1 / 5))
    assert found["a.false_alarm_rate_low"] == pytest.approx(0.1941, abs=5e-5)  # 3 of 4, as published
    assert found["largest_difference"] == 0.75
    # 3 alarms among 9 can lie in 84 ways, in 4 of them all in a and in 10 all in b: Fisher counts what is no likelier
    assert found["p_value"] == pytest.approx(4 / 84)


def test_three_values_use_chi_square_or_random_tables() -> None:
    def p_value(counts: list[tuple[int, int]]) -> float:
        value = np.concatenate([np.full(sum(pair), name, object) for name, pair in zip("abc", counts, strict=True)])
        alarm = np.concatenate([np.repeat([False, True], pair) for pair in counts])
        return by_sensitive(value, np.zeros(len(value), int), alarm)["p_value"]

    # all expected counts are 10: chi-square is 4 x 5^2 / 10 = 10, at 2 degrees of freedom
    assert p_value([(15, 5), (5, 15), (10, 10)]) == pytest.approx(np.exp(-5))
    small = [(6, 0), (5, 1), (1, 5)]
    exact = fisher_exact(np.array(small)).pvalue  # another exact test of the same table
    assert p_value(small) == pytest.approx(exact, abs=0.01)
    assert p_value(small) == p_value(small)
    assert p_value([(6, 0), (5, 0), (1, 0)]) == 1.0


def test_one_value_has_its_rate_and_nothing_to_compare_with() -> None:
    found = by_sensitive(np.array(["a", "a"], object), np.array([0, 0]), np.array([True, False]))
    assert sorted(found) == ["a.false_alarm_rate", "a.false_alarm_rate_high", "a.false_alarm_rate_low", "a.n_normal"]
    assert by_sensitive(np.array(["a", ""], object), np.array([1, 0]), np.array([True, True])) == {}
