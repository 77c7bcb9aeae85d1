"""The promotion gate: may this candidate become champion? Pure: figures in, a verdict with its reasons out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.params import AgainstChampion, Limit


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate passes, and why: what it failed, or, when it passes, what it reached."""

    passed: bool
    reasons: list[str]


def verdict(
    metrics: Mapping[str, float],
    limits: Mapping[str, Limit],
    champion: Mapping[str, float] | None,
    against: AgainstChampion,
    golden_difference: float | None,
) -> Verdict:
    """Judge a candidate by its `metrics`, the `limits`, and the `champion`'s metrics on the same test data.

    `champion` is None when there is no champion. `golden_difference` is the largest difference between the scores
    of the trained model and of the one loaded back from the registry; None when nobody compared them."""
    checks = [_golden(golden_difference)]
    checks += [check for name, limit in sorted(limits.items()) for check in _within(metrics, name, limit)]
    checks.append(_better(metrics, champion, against))
    failed = [reason for passed, reason in checks if not passed]
    return Verdict(not failed, failed or [reason for _, reason in checks])


def _golden(difference: float | None) -> tuple[bool, str]:
    if difference is None:
        return False, "the model was never loaded back from the registry to compare its scores"
    if difference == 0:
        return True, "loaded back from the registry it scores the golden batch exactly as it did"
    return False, f"loaded back from the registry it scores the golden batch differently, by up to {difference:g}"


def _within(metrics: Mapping[str, float], name: str, limit: Limit) -> list[tuple[bool, str]]:
    """One check per bound of `limit`."""
    value = metrics.get(name)
    if value is None or math.isnan(value):
        return [(False, f"{name} has a limit (promote.limits.{name}) but was not measured")]
    checks = []
    if limit.min is not None:
        passed = value >= limit.min
        checks.append((passed, f"{name} {value:.4g} is {'not ' * passed}below the least allowed {limit.min:.4g}"))
    if limit.max is not None:
        passed = value <= limit.max
        checks.append((passed, f"{name} {value:.4g} is {'not ' * passed}above the most allowed {limit.max:.4g}"))
    return checks


def _better(
    metrics: Mapping[str, float], champion: Mapping[str, float] | None, against: AgainstChampion
) -> tuple[bool, str]:
    name = against.metric
    value = metrics.get(name)
    if value is None or math.isnan(value):
        return False, f"{name} decides against the champion (promote.against_champion.metric) but was not measured"
    if champion is None:
        return True, f"{name} is {value:.4g} and there is no champion to beat"
    other = champion.get(name)
    if other is None or math.isnan(other):
        return False, f"{name} of the champion is not known, so {value:.4g} cannot be compared with it"
    passed = value > other - against.tolerance
    tolerance = f" minus the tolerance {against.tolerance:g}" if against.tolerance else ""
    return (
        passed,
        f"{name} {value:.6g} {'exceeds' if passed else 'does not exceed'} the champion's {other:.6g}{tolerance}",
    )
