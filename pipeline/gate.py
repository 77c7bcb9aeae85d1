"""The promotion gate: may this candidate become champion? Pure: figures in, a verdict with its checks out."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from pipeline import paired
from pipeline.operation import AgainstChampion, Limit

ALARM = "reject"  # the decision that `detection_rate` counts
SEED = 0  # of the bootstrap: the same tables get the same verdict


@dataclass(frozen=True)
class Measured:
    """What one version came to on the test part: its metrics, and a row per sample (id, label, score, decision)."""

    metrics: Mapping[str, float]
    table: pd.DataFrame | None = None


@dataclass(frozen=True)
class Check:
    """One demand: what was measured, what it was held against, and the sentence that says so.

    `interval` is that of `value`, where there is one; figures that are not known, or not finite, are None."""

    name: str
    value: float | None
    bound: float | None
    interval: tuple[float, float] | None
    passed: bool
    says: str


@dataclass(frozen=True)
class Verdict:
    """All checks of one candidate; it passes when each of them does."""

    checks: list[Check]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """What it failed, or, when it passes, what it reached."""
        return [check.says for check in self.checks if check.passed == self.passed]

    def figures(self, limit: int) -> str:
        """The checks as JSON of at most `limit` characters: without their sentences, then without the last ones, where
        they would not fit."""
        checks = [asdict(check) for check in self.checks]
        text = json.dumps(checks)
        if len(text) > limit:
            checks = [{key: value for key, value in check.items() if key != "says"} for check in checks]
        while len(text := json.dumps(checks)) > limit:
            checks.pop()
        return text


def refusal(name: str, says: str) -> Verdict:
    """The verdict on a candidate that is not even judged, for the one reason that it `says`."""
    return Verdict([Check(name, None, None, None, False, says)])


def verdict(
    candidate: Measured,
    limits: Mapping[str, Limit],
    champion: Measured | None,
    against: AgainstChampion,
    golden_difference: float | None,
) -> Verdict:
    """Judge a candidate by the `limits`, and against the `champion` on the same test samples.

    `champion` is None when there is no champion. `golden_difference` is the largest difference between the scores
    of the trained model and of the one loaded back from the registry; None when nobody compared them."""
    checks = [_golden(golden_difference)]
    for name, limit in sorted(limits.items()):
        checks += _within(candidate.metrics, name, limit)
    return Verdict([*checks, _better(candidate, champion, against)])


def _golden(difference: float | None) -> Check:
    if difference is None:
        says = "the model was never loaded back from the registry to compare its scores"
    elif difference == 0:
        says = "loaded back from the registry it scores the golden batch exactly as it did"
    else:
        says = f"loaded back from the registry it scores the golden batch differently, by up to {difference:g}"
    known = None if difference is None or not math.isfinite(difference) else difference
    return Check("golden batch", known, 0.0, None, difference == 0, says)


def _within(metrics: Mapping[str, float], name: str, limit: Limit) -> list[Check]:
    """One check per bound of `limit`."""
    value = _known(metrics, name)
    if value is None:
        says = f"{name} has a limit (promote.limits.{name}) but was not measured"
        return [Check(name, None, None, None, False, says)]
    checks = []
    if limit.min is not None:
        passed = value >= limit.min
        says = f"{name} {value:.4g} is {'not ' * passed}below the least allowed {limit.min:.4g}"
        checks.append(Check(f"{name} min", value, limit.min, None, passed, says))
    if limit.max == "promised":
        checks.append(_promise(metrics, name, value))
    elif limit.max is not None:
        passed = value <= limit.max
        says = f"{name} {value:.4g} is {'not ' * passed}above the most allowed {limit.max:.4g}"
        checks.append(Check(f"{name} max", value, limit.max, None, passed, says))
    return checks


def _promise(metrics: Mapping[str, float], name: str, value: float) -> Check:
    """The test contradicts the promise when the whole 95 % interval of the realised rate lies above it."""
    low, high, promised = (_known(metrics, key) for key in (f"{name}_low", f"{name}_high", f"promised_{name}"))
    if low is None or promised is None:
        missing = f"promised_{name}" if promised is None else f"{name}_low"
        says = f"{name} is limited by what was promised (promote.limits.{name}.max), but {missing} was not measured"
        return Check(f"{name} max", value, promised, None, False, says)
    passed = low <= promised
    says = (
        f"{name} {value:.4g} {'does not contradict' if passed else 'contradicts'} the promised {promised:.4g}: "
        f"its 95 % interval begins at {low:.4g}, {'not ' * passed}above it"
    )
    return Check(f"{name} max", value, promised, None if high is None else (low, high), passed, says)


def _better(candidate: Measured, champion: Measured | None, against: AgainstChampion) -> Check:
    name = against.metric
    title = f"{name} against the champion"
    value = _known(candidate.metrics, name)
    if value is None:
        says = f"{name} decides against the champion (promote.against_champion.metric) but was not measured"
        return Check(title, None, None, None, False, says)
    if champion is None:
        return Check(title, value, None, None, True, f"{name} is {value:.4g} and there is no champion to beat")
    other = _known(champion.metrics, name)
    if other is None:
        says = f"{name} of the champion is not known, so {value:.4g} cannot be compared with it"
        return Check(title, value, None, None, False, says)
    if against.rule == "interval":
        return _by_interval(title, candidate.table, champion.table, against)
    passed = value > other + against.margin
    margin = f" plus the margin {against.margin:g}" if against.margin else ""
    says = f"{name} {value:.6g} {'exceeds' if passed else 'does not exceed'} the champion's {other:.6g}{margin}"
    return Check(title, value, other + against.margin, None, passed, says)


def _by_interval(
    title: str, candidate: pd.DataFrame | None, champion: pd.DataFrame | None, against: AgainstChampion
) -> Check:
    """The candidate must be better than the champion in (nearly) every resample of the test samples, too."""
    name, bound = against.metric, -against.tolerance
    pairs = "the scores of the test samples are not known" if candidate is None or champion is None else None
    pairs = pairs or _pairs(candidate, champion, name)
    if isinstance(pairs, str):
        return Check(title, None, bound, None, False, f"{name} cannot be compared with the champion's: {pairs}")
    found = paired.interval(name, *pairs, against.confidence, against.resamples, SEED)
    if found is None:
        says = f"{name} cannot be compared with the champion's: the test needs both normals and anomalies"
        return Check(title, None, bound, None, False, says)
    here, there, low, high = found
    passed = low > bound
    exceeds = "exceeds" if here > there + bound else "does not exceed"
    tolerance = f" minus the tolerance {against.tolerance:g}" if against.tolerance else ""
    certain = "" if passed or exceeds != "exceeds" else ", but not for certain"
    says = (
        f"{name} {here:.6g} {exceeds} the champion's {there:.6g}{tolerance}{certain}: "
        f"the {100 * against.confidence:g} % interval of the difference, {low:.4g} to {high:.4g}, "
        f"{'lies' if passed else 'must lie'} above {bound or 0:g}"
    )
    return Check(title, here - there, bound or 0.0, (low, high), passed, says)


def _pairs(
    candidate: pd.DataFrame, champion: pd.DataFrame, metric: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | str:
    """Labels and the two models' figures per sample of known label, in one order; a reason when they do not pair up."""
    here, there = (table.set_index("id").sort_index() for table in (candidate, champion))
    if not here.index.equals(there.index):
        odd = len(here.index.symmetric_difference(there.index))
        return f"they were not scored on the same test samples ({odd} were scored by one of them only)"
    if not (here["label"] == there["label"]).all():
        return "the test samples had other labels when the champion was scored"
    known = here["label"].isin([0, 1])
    values = [
        (table["decision"] == ALARM if metric == "detection_rate" else table["score"])[known].to_numpy()
        for table in (here, there)
    ]
    return here["label"][known].to_numpy(), *values


def _known(metrics: Mapping[str, float], name: str) -> float | None:
    value = metrics.get(name)
    return None if value is None or not math.isfinite(value) else value
