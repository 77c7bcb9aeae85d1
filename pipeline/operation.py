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
    """The range that a metric must lie in.

    `max: promised`, for false_alarm_rate only: the test must not contradict what the calibration promised."""

    min: float | None = None
    max: Annotated[float | Literal["promised"] | None, BeforeValidator(_bound)] = None


@dataclass(frozen=True)
class AgainstChampion:
    """When a candidate replaces the champion, by the `metric` of both on the same test samples.

    `rule: interval`, for the metrics in PAIRED: when the lower end of the two-sided `confidence` interval of the
    difference, by `resamples` paired resamples of the test, exceeds -`tolerance`. `rule: margin`, for any metric: when
    the candidate's exceeds the champion's plus `margin`, which may be negative."""

    metric: str = "auroc"
    rule: Literal["interval", "margin"] = "interval"
    tolerance: Annotated[float, Ge(0)] = 0.0
    margin: float = 0.0
    confidence: Rate = 0.95
    resamples: Annotated[int, Ge(100), Le(100_000)] = 2000


@dataclass(frozen=True)
class Promote:
    """Under which name candidates are registered, and what one must reach to become champion.

    `approve: manual` waits at most `approve_within` seconds for a person's word before the champion changes."""

    name: Annotated[str, MinLen(1)]
    limits: dict[str, Limit] = field(default_factory=dict)
    against_champion: AgainstChampion = field(default_factory=AgainstChampion)
    approve: Literal["auto", "manual"] = "auto"
    approve_within: Annotated[int, Ge(1)] = 3600

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
    """Which batch the champion scores, in how many hands, and where the results go.

    With `false_discovery_rate` alarms are chosen over the whole batch, so that on average at most this share of them is
    false (Benjamini & Hochberg), instead of by the alarm threshold. With `shadow` the challenger scores the batch, too,
    without deciding anything.
    A batch is cut into shards of `shard` samples, of which `batch` are decoded at a time; by default as many as suits
    the kind of data. `runner` says who scores them, `workers` how many do so at once, `address` where a Dask
    scheduler or a Ray cluster runs already; without one, a local one is started for the run.
    `keep` says which samples stay beside their scores, for people who look at them and for labels that come later.
    With `report` every batch, and every candidate of a training, gets a page for people, as HTML and as PDF.
    Each of `sinks` names its `kind` and its options, see pipeline/sinks/."""

    source: Annotated[str, MinLen(1)]
    batch: Annotated[int, Ge(1), Le(1_000_000)] | None = None
    false_discovery_rate: Rate | None = None
    shadow: bool = False
    shard: Annotated[int, Ge(1)] | None = None
    runner: Literal["threads", "processes", "dask", "ray"] = "threads"
    workers: Annotated[int, Ge(1), Le(1024)] = 1
    address: Annotated[str, MinLen(1)] | None = None
    keep: Literal["all", "flagged", "none"] = "all"
    report: bool = True
    sinks: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.address is not None and self.runner not in ("dask", "ray"):
            raise ParamsError(f"score.address has no meaning with score.runner: {self.runner} (params.yaml)")


@dataclass(frozen=True)
class Monitor:
    """When a batch, or all batches of a version together, are no longer what its promise was made for.

    `threshold` is the martingale's, and that of the evidence against the promised rate of alarms: over all time each is
    reached by chance with probability at most 1 / threshold. A batch's own tests warn below the p-value `level`.
    `anomalies` is the share of anomalous samples to expect in batches: so many more alarms break no promise."""

    threshold: Annotated[float, Gt(1)] = 100.0
    level: Rate = 0.001
    anomalies: Annotated[float, Ge(0), Lt(1)] = 0.0


@dataclass(frozen=True)
class Schedule:
    """Cron expressions of the two deployments, and the time zone they are meant in.

    `retrain` says whether a training also starts by itself when monitoring finds drift or a broken promise."""

    train: str = "0 2 * * *"
    score: str = "0 * * * *"
    timezone: str = "UTC"
    retrain: Literal["on-drift", "never"] = "on-drift"
