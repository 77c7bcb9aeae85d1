"""The section `calibrate` of params.yaml: which rules set the thresholds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, Self, get_args

from pipeline import rules
from pipeline.errors import ParamsError
from pipeline.sections import build
from pipeline.tables import find

By = Literal["group", "category", "sensitive"]  # columns of the manifest


class Rule(Protocol):
    """A dataclass whose fields are its options; see pipeline/rules/conformal.py."""

    def find(self, known: Any, where: str) -> Any:
        """The threshold that `known` scores give; raises PromiseError when they do not carry it."""


@dataclass(frozen=True)
class Plan:
    """The section `calibrate`: the rule of the alarm, that of the review band below it, and the column, if any, whose
    values get thresholds of their own (Mondrian)."""

    rule: Rule
    review: Rule | None = None
    by: By | None = None

    @classmethod
    def read(cls, section: Any, where: str = "calibrate", source: str = "params.yaml") -> Self:
        """The plan that a section says: `rule` and its options, `review` (a larger rate, or a rule with its options),
        `by`. Raises ParamsError for what is not allowed."""
        if not isinstance(section, Mapping):
            raise ParamsError(f"{where} must hold keys and values, got {section!r} ({source})")
        by = section.get("by")
        if by not in (None, *get_args(By)):
            raise ParamsError(f"{where}.by must be {', '.join(get_args(By))} or null, got {by!r} ({source})")
        rule = _rule({key: value for key, value in section.items() if key not in ("review", "by")}, where, source)
        band = section.get("review")
        if isinstance(band, int | float) and not isinstance(band, bool):
            band = {"alpha": band, "confidence": getattr(rule, "confidence", 0.95)}
        review = None if band is None else _rule(band, f"{where}.review", source)
        if review is not None and type(review) is type(rule) and name(rule) in ("false_alarm_rate", "escape_rate"):
            larger = name(rule) == "false_alarm_rate"
            if not (review.alpha > rule.alpha if larger else review.alpha < rule.alpha):
                raise ParamsError(
                    f"{where}.review must be {'above' if larger else 'below'} {where}.alpha ({rule.alpha}), or the"
                    f" review band is upside down, got {review.alpha} ({source})"
                )
        return cls(rule, review, by)

    def section(self) -> dict[str, Any]:
        """The section that `read` takes."""
        review = None if self.review is None else {"rule": name(self.review), **asdict(self.review)}
        return {"rule": name(self.rule), **asdict(self.rule), "review": review, "by": self.by}


def name(rule: Rule) -> str:
    """The key of a rule in the table."""
    return next(key for key, cls in rules.TABLE.items() if cls == type(rule).__name__)


def _rule(section: Any, where: str, source: str) -> Rule:
    if not isinstance(section, Mapping):
        raise ParamsError(f"{where} must be a rate, or a rule and its options, got {section!r} ({source})")
    key = section.get("rule", "false_alarm_rate")
    cls = find(rules, key, f"{where}.rule")
    return build(cls, {k: v for k, v in section.items() if k != "rule"}, where, source)
