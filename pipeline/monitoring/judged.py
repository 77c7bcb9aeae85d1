"""One batch as monitoring sees it: tests of its own, and what it adds to the evidence of all batches before it."""

import json
import math
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from pipeline.monitoring import drift, scores
from pipeline.monitoring.martingale import Martingale, Watched
from pipeline.monitoring.mixture import Mixture
from pipeline.monitoring.reference import Reference
from pipeline.operation import Monitor
from pipeline.rules.conformal import percent
from pipeline.threshold import Calibration

COUNTS = ("samples", "accepted", "review", "alarms", "quarantined")
FIGURES = (
    *("alarm_rate", "alarm_low", "alarm_high", "promise", "allowed", "alarm_p", "alarm_evidence", "alarm_highest"),
    *("scores_p", "inputs_p", "missing_share", "quarantined_share", "quarantined_p"),
    *("martingale", "martingale_highest", "threshold", "seconds", "per_second"),
)
NAMED = 5  # inputs that differ, in a sentence
State = tuple[bytes, str]  # the martingale, and the evidence against the promised alarm rate


@dataclass(frozen=True)
class Seen:
    """A batch with its own figures, to be judged by the state of all before it. `key` is the calibration's hash, `name`
    what the state is for, `above` the scores above the alarm threshold, `allowed` the rate of them that is."""

    key: str
    name: str
    path: Path
    by: str | None
    watched: Watched
    monitor: Monitor
    figures: dict[str, Any]
    inputs: dict[str, float]
    above: int | None
    allowed: float | None
    says: str
    warnings: list[str]

    @classmethod
    def of(
        cls,
        monitor: Monitor,
        report: dict[str, Any],
        folder: Path,
        calibration: Calibration,
        reference: Reference | None,
    ) -> Self:
        """Read the batch in `folder` and test it."""
        path, seed = folder / "scores.parquet", int(sha256(report["batch"].encode()).hexdigest()[:8], 16)
        by = calibration.plan.by if scores.grouped(path, calibration) else None
        watched = Watched.of(calibration, by is not None)
        some, above = scores.drawn(path, by, calibration, watched, seed)
        samples, decisions = report["samples"], report["decisions"]
        alarms = decisions["reject"]
        if report.get("false_discovery_rate") is None:
            above = alarms
        promise = drift.promised(calibration)
        allowed = None if promise is None else min(promise + monitor.anomalies, 0.999)
        low, high = drift.interval(alarms if above is None else above, samples)
        figures: dict[str, Any] = {
            "samples": samples,
            "accepted": decisions["accept"],
            "review": decisions["review"],
            "alarms": alarms,
            "quarantined": report["quarantined"],
            "alarm_rate": (alarms if above is None else above) / samples if samples else None,
            "alarm_low": low,
            "alarm_high": high,
            "promise": report["promised_rate"],
            "allowed": allowed,
            "alarm_p": None if above is None or allowed is None else drift.too_many(above, samples, allowed),
            "scores_p": drift.numbers(np.concatenate(list(watched.scores.values())), some),
            "threshold": monitor.threshold,
            **_speed(report),
        }
        found, more = _against(reference, report, folder, seed)
        figures |= more
        key = sha256(json.dumps([calibration.to_json(), by], sort_keys=True).encode()).hexdigest()
        name = f"{report['name']} {report['version']} {key}"
        warnings = _warnings(figures, found, reference, monitor.level)
        told = "inputs are not compared, the version has no reference" if reference is None else ""
        return cls(key, name, path, by, watched, monitor, figures, found, above, allowed, told, warnings)

    def judge(self, before: State | None) -> tuple[dict[str, Any], State]:
        """The batch's row, without its key, and the state that has seen it."""
        if before is None:
            martingale, alarms = Martingale.start(self.watched, self.name), Mixture.of(len(drift.ODDS))
        else:
            arrays = {key: np.array(values) for key, values in json.loads(before[1]).items()}
            martingale, alarms = Martingale.from_bytes(before[0]), Mixture.from_arrays(arrays)
        limit = math.log(self.monitor.threshold)
        drifted, broke = martingale.mixture.highest >= limit, alarms.highest >= limit
        for some, of in scores.parts(self.path, self.by):
            martingale.feed(self.watched, some, of)
        if self.above is not None and self.allowed is not None:
            alarms.feed(drift.log_factors(self.above, self.figures["samples"], self.allowed)[None])
        row = self.figures | {
            "alarm_evidence": _log10(alarms.value),
            "alarm_highest": _log10(alarms.highest),
            "martingale": _log10(martingale.mixture.value),
            "martingale_highest": _log10(martingale.mixture.highest),
            "inputs": json.dumps(self.inputs),
            "warnings": json.dumps(self.warnings),
        }
        row["drift"] = not drifted and martingale.mixture.highest >= limit
        row["broken"] = not broke and alarms.highest >= limit
        row["says"] = self._sentence(row, drifted, broke)
        kept = {key: values.tolist() for key, values in alarms.arrays().items()}
        return row, (martingale.to_bytes(), json.dumps(kept))

    def _sentence(self, row: dict[str, Any], drifted: bool, broke: bool) -> str:
        """The verdict in words."""
        now, most = shown(row["martingale"]), shown(row["martingale_highest"])
        limit = f"{self.monitor.threshold:g}"
        if row["drift"]:
            said = [f"scores drift: the martingale reached {most}, its threshold is {limit}"]
        elif drifted:
            said = [f"scores drift, found in an earlier batch: the martingale reached {most}, its threshold is {limit}"]
        else:
            said = [f"no drift of scores (martingale {now}, at most {most} so far, threshold {limit})"]
        evidence = shown(row["alarm_highest"])
        if self.allowed is None:
            said.append("no rate of false alarms is promised")
        elif row["broken"] or broke:
            when = "" if row["broken"] else ", found in an earlier batch"
            said.append(f"more alarms than the {percent(self.allowed)} allowed{when} (evidence {evidence})")
        else:
            said.append(f"alarms do not contradict the {percent(self.allowed)} allowed (evidence {evidence})")
        return "; ".join([*said, *self.warnings, *([self.says] if self.says else [])])


def shown(log10: float) -> str:
    """A number from its logarithm, for people."""
    return f"{10**log10:.3g}" if abs(log10) < 300 else f"1e{log10:.0f}"


def _log10(log: float) -> float:
    return log / math.log(10)


def _speed(report: dict[str, Any]) -> dict[str, float | None]:
    """Seconds that scoring took and samples a second; clocks that run backwards tell nothing."""
    seconds = report.get("seconds")
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return {"seconds": None, "per_second": None}
    return {"seconds": seconds, "per_second": report["samples"] / seconds if seconds > 0 else None}


def _against(
    reference: Reference | None, report: dict[str, Any], folder: Path, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Corrected p-values of the inputs, and the figures about inputs and what could not be read."""
    path = folder / "inputs.parquet"
    facts = pd.read_parquet(path) if path.exists() else pd.DataFrame()
    bad, came = report["quarantined"], report["samples"] + report["quarantined"]
    found = {} if reference is None else drift.inputs(reference.inputs, facts, seed)
    more = None if reference is None else drift.more_often(bad, came, reference.quarantined, reference.samples)
    return found, {
        "inputs_p": min(found.values(), default=None),
        "missing_share": drift.missing_share(facts),
        "quarantined_share": bad / came if came else None,
        "quarantined_p": more,
    }


def _warnings(
    figures: dict[str, Any], inputs: dict[str, float], reference: Reference | None, level: float
) -> list[str]:
    """What of the batch alone is odd, in sentences without a full stop."""

    def odd(name: str) -> bool:
        return figures[name] is not None and figures[name] < level

    said = [] if figures["samples"] else ["the batch holds no sample that can be scored"]
    if odd("alarm_p"):
        rate, allowed = percent(figures["alarm_rate"]), percent(figures["allowed"])
        said.append(f"{rate} of the batch are alarms, {allowed} are allowed (p {figures['alarm_p']:.2g})")
    if odd("scores_p"):
        said.append(f"its scores below the threshold differ from the calibration's (p {figures['scores_p']:.2g})")
    differ = [f"{name} (p {p:.2g})" for name, p in inputs.items() if p < level]
    if differ:
        more = f" and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
        said.append(f"inputs differ: {', '.join(differ[:NAMED])}{more}")
    if odd("quarantined_p") and reference is not None:
        share, before = percent(figures["quarantined_share"]), percent(reference.quarantined / reference.samples)
        said.append(f"{share} could not be read, {before} of the version's data (p {figures['quarantined_p']:.2g})")
    return said
