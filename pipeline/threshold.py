"""Thresholds, what they promise, and decisions: pure calibration maths on scores of samples that nothing was trained or
tested on. The rules are in pipeline/rules/.

A calibration keeps its sorted scores, so that other thresholds can be set after deployment without retraining.
p-values: Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World" (2005); per group: Vovk, Lindsay,
Nouretdinov & Gammerman, "Mondrian confidence machine" (2003). Batches: Benjamini & Hochberg, JRSS B 1995, which holds
for conformal p-values, dependent as they are: Bates, Candès, Lei, Romano & Sesia, "Testing for outliers with conformal
p-values", Annals of Statistics 2023, theorem 2.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.errors import DataError, ModelError, ParamsError, PromiseError
from pipeline.plan import Plan
from pipeline.rules import cost, extreme, f1, gaussian  # noqa: F401  that DVC's deps name what a plan may
from pipeline.rules.conformal import Found, Known
from pipeline.rules.escape_rate import EscapeRate
from pipeline.rules.false_alarm_rate import FalseAlarmRate

Thresholds = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class Scored:
    """Calibration scores float32 `(n,)` of normals and of labelled anomalies, and the values of the column that tells
    them apart, where thresholds go by one; `degrees` as in `rules.conformal.Known`. `presumed`: the normals are samples
    of unknown label, none being labelled normal."""

    normals: np.ndarray
    anomalies: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    normals_of: Sequence[str] | None = None
    anomalies_of: Sequence[str] | None = None
    degrees: tuple[int, ...] = ()
    presumed: bool = False


@dataclass(frozen=True, eq=False)
class Calibration:
    """Thresholds, the promise they carry, and all that is needed to set others without retraining.

    `thresholds` has `alarm` and `review` (or None), `figures` what the alarm's rule found besides, `sentences` what the
    rules say; `own` has the thresholds of the groups that have some of their own, `fallen_back` the normals counted in
    the others; `promise` is the rate that the alarm's rule carries, or None; `model` the content hash of the
    model folder that gave the scores. `scores` are the sorted scores of normals."""

    plan: Plan
    known: Scored
    thresholds: Thresholds
    promise: float | None
    figures: dict[str, float]
    sentences: dict[str, str]
    own: dict[str, Thresholds]
    fallen_back: dict[str, int]
    model: str

    @property
    def scores(self) -> np.ndarray:
        return self.known.normals

    @property
    def promised_false_alarms(self) -> float | None:
        """The false-alarm rate that the alarm promises, if its rule promises one."""
        return self.promise if isinstance(self.plan.rule, FalseAlarmRate) else None

    @property
    def promised_escapes(self) -> float | None:
        """The same for the rate of escapes."""
        return self.promise if isinstance(self.plan.rule, EscapeRate) else None

    def decide(self, scores: np.ndarray, of: Sequence[str] | None = None) -> np.ndarray:
        """`accept`, `review` or `reject` for each score, by the thresholds of its group `of` where it has some."""
        decisions = decide(scores, self.thresholds)
        for value, at in self._places(of, len(decisions)).items():
            decisions[at] = decide(np.asarray(scores)[at], self.own[value])
        return decisions

    def p_values(self, scores: np.ndarray, of: Sequence[str] | None = None) -> np.ndarray:
        """Conformal p-values float64 `(n,)` against the normals of each score's group where it has its own thresholds,
        against all normals otherwise."""
        found = p_values(self.scores, scores)
        for value, at in self._places(of, len(found)).items():
            own = self.scores[np.asarray(self.known.normals_of, object) == value]
            found[at] = p_values(own, np.asarray(scores)[at])
        return found

    def alarms(self, of: Sequence[str] | None, count: int) -> np.ndarray:
        """The alarm threshold of each of `count` samples, float32."""
        found = np.full(count, self.thresholds["alarm"], np.float32)
        for value, at in self._places(of, count).items():
            found[at] = self.own[value]["alarm"]
        return found

    def _places(self, of: Sequence[str] | None, count: int) -> dict[str, np.ndarray]:
        if self.plan.by is None or not self.own:
            return {}
        if of is None or len(of) != count:
            raise DataError(f"thresholds go by {self.plan.by} here, so every sample needs its {self.plan.by}")
        values = np.asarray(of, object)
        return {value: np.flatnonzero(values == value) for value in self.own}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; float32 scores and thresholds survive the way there and back exactly."""
        known = vars(self.known) | {"degrees": list(self.known.degrees)}
        for name in ("normals", "anomalies"):
            known[name] = known[name].astype(np.float64).tolist()
            known[f"{name}_of"] = None if known[f"{name}_of"] is None else list(known[f"{name}_of"])
        if not self.known.presumed:  # as files had it before there was such a thing
            del known["presumed"]
        return {**vars(self), "plan": self.plan.section(), "known": known, "says": self.says()}

    @classmethod
    def from_json(cls, value: Any, where: str = "the calibration") -> Self:
        """The calibration that `to_json` gave. Raises ModelError when it is damaged or contradicts itself."""
        try:
            value = value if "plan" in value else _of_before(value)
            known = {**value["known"], "degrees": tuple(value["known"]["degrees"])}
            arrays = {name: np.asarray(known[name], np.float32) for name in ("normals", "anomalies")}
            again = calibrate(Plan.read(value["plan"], "plan", where), Scored(**{**known, **arrays}), value["model"])
        except (
            *(KeyError, TypeError, ValueError, AttributeError, OverflowError),
            *(DataError, ParamsError, PromiseError),
        ) as error:
            raise ModelError(f"{where} must be a calibration as assay writes it: {error!r}") from error
        found = json.loads(json.dumps(again.to_json()))
        if not _alike(found if "says" in value else {key: found[key] for key in value}, value):
            raise ModelError(f"{where} is damaged: its thresholds do not follow from its scores by its rule")
        return again

    def says(self) -> str:
        """The promise in one sentence for people."""
        band = self.thresholds["review"]
        said = f"alarm above {self.thresholds['alarm']:.6g}: {self.sentences['alarm']}"
        said += "" if band is None else f"; scores above {band:.6g} are for review: {self.sentences['review']}"
        if self.plan.by is not None:
            listed = ", ".join(f"{value} {own['alarm']:.6g}" for value, own in self.own.items())
            said += f"; by {self.plan.by}, alarm above {listed}" if listed else ""
            listed = ", ".join(f"{value} ({count} normals)" for value, count in self.fallen_back.items())
            said += f"; too few for their own, so judged by all together: {listed}" if listed else ""
        if self.known.presumed:
            said += "; unlabelled samples stand for the normals: anomalies among them raise the threshold"
        return said + (" (all calibration scores are equal)" if len(self.scores) and np.ptp(self.scores) == 0 else "")


def calibrate(plan: Plan, known: Scored, model: str, where: str = "calibrate") -> Calibration:
    """Thresholds by `plan` from calibration scores; with `plan.by` also for each group that has enough of them.

    Raises PromiseError when they do not carry what the rule needs, or when the review band is upside down, DataError
    for NaN or infinity."""
    known = _sorted(known, plan.by)
    thresholds, alarm, sentences = _thresholds(plan, _part(known, None), where)
    own: dict[str, Thresholds] = {}
    fallen_back: dict[str, int] = {}
    for value in sorted(set(known.normals_of or ())):
        part = _part(known, value)
        try:
            own[value] = _thresholds(plan, part, where)[0]
        except PromiseError:
            fallen_back[value] = len(part.normals)
    return Calibration(plan, known, thresholds, alarm.rate, alarm.figures, sentences, own, fallen_back, model)


def read(path: Path) -> Calibration:
    """The calibration file at `path`. Raises ModelError when it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} must be a calibration file that can be read: {error}") from error
    return Calibration.from_json(value, str(path))


def p_values(calibration_scores: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Conformal p-values float64 `(n,)`: (1 + calibration scores at least as high) / (1 + calibration scores).

    A normal's p-value is at most t with a probability of at most t. Raises DataError for NaN or infinity."""
    ordered = np.sort(np.asarray(calibration_scores, np.float32))
    scores = np.asarray(scores, np.float32)
    _finite(scores, "sample")
    rising = np.argsort(scores, kind="stable")  # sorted values are found ten times as fast
    below = np.empty(len(scores), np.int64)
    below[rising] = np.searchsorted(ordered, scores[rising], side="left")
    return (1 + len(ordered) - below) / (1 + len(ordered))


def discoveries(p: np.ndarray, rate: float) -> np.ndarray:
    """Which of a batch's p-values `(n,)` are alarms so that on average at most a share `rate` of all alarms is false
    (Benjamini & Hochberg): bool `(n,)`, the k lowest, k the largest with p_(k) <= rate k / n."""
    rising = np.sort(np.asarray(p, np.float64))
    kept = np.flatnonzero(rising <= rate * np.arange(1, len(rising) + 1) / max(len(rising), 1))
    return np.asarray(p) <= (rising[kept[-1]] if len(kept) else -1.0)


def decide(scores: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """`accept`, `review` or `reject` for each score: `reject` strictly above the alarm threshold, `review` strictly
    above the review threshold, if there is one. Raises DataError for NaN or infinity."""
    scores = np.asarray(scores, np.float32)
    _finite(scores, "sample")
    low = thresholds["alarm"] if thresholds["review"] is None else thresholds["review"]
    band = np.where(scores > np.float32(low), "review", "accept")
    return np.where(scores > np.float32(thresholds["alarm"]), "reject", band)


def _thresholds(plan: Plan, known: Known, where: str) -> tuple[Thresholds, Found, dict[str, str]]:
    alarm = plan.rule.find(known, where)
    if plan.review is None:
        return {"alarm": alarm.threshold, "review": None}, alarm, {"alarm": alarm.says}
    band = plan.review.find(known, f"{where}.review")
    low, says = band.threshold, band.says
    if low > alarm.threshold:
        if not isinstance(plan.review, EscapeRate):
            raise PromiseError(
                f"the review band is upside down: {where}.review starts at {low:.6g}, above the alarm at"
                f" {alarm.threshold:.6g}; change one of the two rules or leave {where}.review out (params.yaml)"
            )
        low, says = alarm.threshold, f"{says}, which the alarm keeps already: the band is empty"
    return {"alarm": alarm.threshold, "review": low}, alarm, {"alarm": alarm.says, "review": says}


def _sorted(known: Scored, by: str | None) -> Scored:
    """Finite float32 scores in rising order, with their groups where `by` asks for them."""
    found: dict[str, Any] = {"degrees": tuple(known.degrees), "presumed": known.presumed}
    for name in ("normals", "anomalies"):
        with np.errstate(over="ignore"):
            scores = np.asarray(getattr(known, name), np.float32).ravel()
        _finite(scores, "calibration")
        of = getattr(known, f"{name}_of")
        if by is not None and (of is None or len(of) != len(scores)) and len(scores):
            raise DataError(f"calibrate.by {by} needs the {by} of every calibration sample (params.yaml)")
        rising = np.argsort(scores, kind="stable") if by is not None else slice(None)
        found[name] = scores[rising] if by is not None else np.sort(scores)
        found[f"{name}_of"] = None if by is None else [str(of[i]) for i in rising]
    return Scored(**found)


def _part(known: Scored, value: str | None) -> Known:
    """The scores of one group, or all."""
    if value is None:
        return Known(known.normals, known.anomalies, known.degrees)
    chosen = [
        scores[np.asarray(of, object) == value]
        for scores, of in ((known.normals, known.normals_of), (known.anomalies, known.anomalies_of))
    ]
    return Known(chosen[0], chosen[1], known.degrees)


def _of_before(value: Any) -> dict[str, Any]:
    """A calibration as versions of assay wrote it that knew one rule only: registered models keep theirs."""
    plan = {"rule": value["rule"], "alpha": value["alpha"], "confidence": value["confidence"], "by": None}
    review = value["review"] and {"rule": value["rule"], "alpha": value["review"], "confidence": value["confidence"]}
    known = {"normals": value["scores"], "anomalies": [], "normals_of": None, "anomalies_of": None, "degrees": []}
    kept = {key: value[key] for key in ("thresholds", "promise", "model")}
    return {"plan": {**plan, "review": review}, "known": known, **kept}


def _alike(one: Any, other: Any) -> bool:
    """Equal JSON values, numbers to nine digits: another processor may round a bootstrap's last bits differently."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and (one == other or all(map(_alike, one, other)))
    if isinstance(one, float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-9 * abs(one)
    return one == other


def _finite(scores: np.ndarray, which: str) -> None:
    broken = np.count_nonzero(~np.isfinite(scores))
    if broken:
        raise DataError(f"{which} scores must be finite float32 numbers, got {broken} of {len(scores)} that are not")
