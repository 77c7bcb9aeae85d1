"""The sections of params.yaml about a model in operation: promotion, scoring, monitoring, when runs start."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BeforeValidator

from pipeline.errors import ParamsError

Rate = Annotated[float, Gt(0), Lt(1)]
PAIRED = ("auroc", "ap", "f1_max", "detection_rate")  # metrics of single samples, which can be resampled in pairs
PROMISED = "false_alarm_rate"


def _bound(value: Any) -> Any:
    if value is None or value == "promised" or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise ValueError("should be a number or the word promised")


@dataclass(frozen=True)
class Limit:
    """The range that a metric must lie in."""

    min: float | None = None
    """Least value allowed."""
    max: Annotated[float | Literal["promised"] | None, BeforeValidator(_bound)] = None
    """Largest value allowed; `promised`, for false_alarm_rate only: the test must not contradict what the calibration
    promised."""


@dataclass(frozen=True)
class AgainstChampion:
    """When a candidate replaces the champion."""

    metric: str = "auroc"
    """What is compared, of both on the same test samples: auroc, ap, f1_max or detection_rate; with `rule: margin` any
    metric."""
    rule: Literal["interval", "margin"] = "interval"
    """`interval`: the lower end of the interval of the difference must exceed -`tolerance`; `margin`: the candidate's
    metric must exceed the champion's plus `margin`."""
    tolerance: Annotated[float, Ge(0)] = 0.0
    """How much worse `rule: interval` lets a candidate be."""
    margin: float = 0.0
    """How much better `rule: margin` wants a candidate to be; may be negative."""
    confidence: Rate = 0.95
    """Of the two-sided interval."""
    resamples: Annotated[int, Ge(100), Le(100_000)] = 2000
    """Paired resamples of the test behind the interval."""


@dataclass(frozen=True)
class Promote:
    """Under which name candidates are registered, and what one must reach to become champion."""

    name: Annotated[str, MinLen(1)]
    """The registered model of the line in MLflow."""
    limits: dict[str, Limit] = field(default_factory=dict)
    """Ranges of metrics, by the metric's name; a candidate outside any is refused."""
    against_champion: AgainstChampion = field(default_factory=AgainstChampion)
    """The comparison with the champion, where there is one."""
    approve: Literal["auto", "manual"] = "auto"
    """`manual` waits for a person's word before the champion changes."""
    approve_within: Annotated[int, Ge(1)] = 3600
    """Seconds that `manual` waits at most."""

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if limit.max == "promised" and name != PROMISED:
                raise ParamsError(
                    f"promote.limits.{name}.max must be a number, only {PROMISED} is promised (params.yaml)"
                )
        against, where = self.against_champion, "promote.against_champion"
        if against.rule == "interval" and against.metric not in PAIRED:
            raise ParamsError(
                f"{where}.metric must be one of {', '.join(PAIRED)} with rule: interval, got {against.metric!r}; "
                "rule: margin takes any metric (params.yaml)"
            )
        other, unused = ("margin", against.margin) if against.rule == "interval" else ("tolerance", against.tolerance)
        if unused:
            raise ParamsError(f"{where}.{other} has no meaning with rule: {against.rule}, got {unused} (params.yaml)")


@dataclass(frozen=True)
class Score:
    """Which batch the champion scores, in how many hands, and where the results go."""

    source: Annotated[str, MinLen(1)]
    """The batch, as in `dataset.source`, or a glob."""
    batch: Annotated[int, Ge(1), Le(1_000_000)] | None = None
    """Samples decoded at a time; by default as many as suits the kind of data."""
    false_discovery_rate: Rate | None = None
    """With it alarms are chosen over the whole batch, so that on average at most this share of them is false (Benjamini
    & Hochberg), instead of by the alarm threshold."""
    shadow: bool = False
    """Whether the challenger scores the batch, too, without deciding anything."""
    shard: Annotated[int, Ge(1)] | None = None
    """Samples scored together and written as one file; by default as many as suits the kind of data."""
    runner: Literal["threads", "processes", "dask", "ray"] = "threads"
    """Who scores the shards."""
    workers: Annotated[int, Ge(1), Le(1024)] = 1
    """How many do so at once."""
    address: Annotated[str, MinLen(1)] | None = None
    """Where a Dask scheduler or a Ray cluster runs already; without it a local one is started for the run."""
    keep: Literal["all", "flagged", "none"] = "all"
    """Which samples stay beside their scores, for people who look at them and for labels that come later."""
    report: bool = True
    """Whether every batch, and every candidate of a training, gets a page for people, as HTML and as PDF."""
    sinks: list[dict[str, Any]] = field(default_factory=list)
    """Where the scores go besides the line's folder: each names its `kind` and its options."""

    def __post_init__(self) -> None:
        if self.address is not None and self.runner not in ("dask", "ray"):
            raise ParamsError(f"score.address has no meaning with score.runner: {self.runner} (params.yaml)")


@dataclass(frozen=True)
class Monitor:
    """When a batch, or all batches of a version together, are no longer what its promise was made for."""

    threshold: Annotated[float, Gt(1)] = 100.0
    """The martingale's, and that of the evidence against the promised rate of alarms: over all time each is reached by
    chance with probability at most 1 / threshold."""
    level: Rate = 0.001
    """p-value below which a batch's own tests warn."""
    anomalies: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of anomalous samples to expect in batches: so many more alarms break no promise."""


@dataclass(frozen=True)
class Schedule:
    """When `make serve` starts runs."""

    train: str = "0 2 * * *"
    """Cron expression of the training."""
    score: str = "0 * * * *"
    """Cron expression of the scoring."""
    timezone: str = "UTC"
    """The time zone that both are meant in."""
    retrain: Literal["on-drift", "never"] = "on-drift"
    """Whether a training also starts by itself when monitoring finds drift or a broken promise."""
