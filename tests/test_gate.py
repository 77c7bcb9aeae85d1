"""The gate, case by case; every expectation is read off the figures given."""

import math

import pytest

from pipeline.gate import verdict
from pipeline.params import AgainstChampion, Limit

AUROC = AgainstChampion("auroc")


def test_first_champion_needs_only_the_limits() -> None:
    found = verdict({"auroc": 0.9}, {"auroc": Limit(min=0.7)}, None, AUROC, 0.0)
    assert found.passed
    assert found.reasons == [
        "loaded back from the registry it scores the golden batch exactly as it did",
        "auroc 0.9 is not below the least allowed 0.7",
        "auroc is 0.9 and there is no champion to beat",
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
    found = verdict({"auroc": 0.5}, {"auroc": limit}, None, AUROC, 0.0)
    assert found.passed is passed
    assert passed or found.reasons[0] == reason


@pytest.mark.parametrize("metrics", [{"auroc": 0.9}, {"auroc": 0.9, "aupro": math.nan}])
def test_a_limited_metric_that_was_not_measured_fails(metrics: dict[str, float]) -> None:
    found = verdict(metrics, {"aupro": Limit(max=1.0)}, None, AUROC, 0.0)
    assert found.reasons == ["aupro has a limit (promote.limits.aupro) but was not measured"]


@pytest.mark.parametrize(
    ("value", "champion", "tolerance", "passed"),
    [
        (0.75, 0.5, 0.0, True),
        (0.5, 0.5, 0.0, False),  # no better is not enough
        (0.5, 0.75, 0.0, False),
        (0.5, 0.75, 0.5, True),
        (0.25, 0.75, 0.5, False),  # exactly the tolerance worse
    ],
)
def test_against_the_champion(value: float, champion: float, tolerance: float, passed: bool) -> None:
    against = AgainstChampion("ap", tolerance)
    found = verdict({"ap": value}, {}, {"ap": champion}, against, 0.0)
    assert found.passed is passed
    assert any(f"{value:g}" in reason and f"{champion:g}" in reason for reason in found.reasons)


def test_a_champion_without_the_metric_is_not_beaten() -> None:
    found = verdict({"auroc": 0.9}, {}, {"ap": 0.1}, AUROC, 0.0)
    assert found.reasons == ["auroc of the champion is not known, so 0.9 cannot be compared with it"]


def test_a_candidate_without_the_deciding_metric_fails_even_without_a_champion() -> None:
    assert not verdict({}, {}, None, AUROC, 0.0).passed


@pytest.mark.parametrize("difference", [None, 1e-12, math.inf])
def test_a_model_that_changed_on_its_way_fails(difference: float | None) -> None:
    found = verdict({"auroc": 1.0}, {}, None, AUROC, difference)
    assert not found.passed
    assert "registry" in found.reasons[0]


def test_all_failures_are_told_and_nothing_else() -> None:
    found = verdict({"auroc": 0.5}, {"auroc": Limit(min=0.6), "ap": Limit(min=0.1)}, {"auroc": 0.7}, AUROC, 0.5)
    assert len(found.reasons) == 4
    assert not any("exactly" in reason for reason in found.reasons)
