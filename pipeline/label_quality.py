"""What labels of some samples say about the decisions on all of them: precision and recall, each with its interval.

A batch falls into three strata by its decisions, accept, review and reject. People label a share of each: most alarms,
few of the accepted samples. Each labelled sample stands for N / n of its stratum (N samples, n of them labelled), the
estimator of Horvitz and Thompson, "A generalization of sampling without replacement from a finite universe", JASA 47,
1952. It is right where the labelled samples of a stratum were chosen without regard to what they are: all of them, or
some drawn by chance; not those that someone suspected.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

DECISIONS = ("accept", "review", "reject")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Stratum:
    """Samples with one decision: how many, how many of them are labelled, how many of those anomalous."""

    samples: int = 0
    labelled: int = 0
    anomalous: int = 0

    def __add__(self, other: "Stratum") -> "Stratum":
        return Stratum(self.samples + other.samples, self.labelled + other.labelled, self.anomalous + other.anomalous)


@dataclass(frozen=True)
class Estimate:
    """A share with the ends of its interval."""

    value: float
    low: float
    high: float


def precision(alarms: Stratum, confidence: float = CONFIDENCE) -> Estimate | None:
    """The share of anomalies among labelled alarms, with the interval of Clopper and Pearson (Biometrika 26, 1934).

    None without a labelled alarm."""
    from scipy.stats import beta

    n, k = alarms.labelled, alarms.anomalous
    if not n:
        return None
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return Estimate(k / n, low, high)


def recall(strata: Mapping[str, Stratum], confidence: float = CONFIDENCE) -> Estimate | None:
    """The share of all anomalies of the batch that raised an alarm, see above.

    The interval puts exact bounds for the anomalies of each stratum together (see `total`), each at a third of the
    error, so that all hold at once. None where a stratum with samples has no labelled one, or no labelled sample is
    anomalous."""
    held = {name: one for name, one in strata.items() if one.samples}
    if any(not one.labelled for one in held.values()) or not any(one.anomalous for one in held.values()):
        return None
    each = {name: one.samples * one.anomalous / one.labelled for name, one in held.items()}
    bounds = {name: total(one, 1 - (1 - confidence) / len(strata)) for name, one in held.items()}
    low, high = bounds.pop("reject", (0, 0))
    missed_low, missed_high = (sum(bound[end] for bound in bounds.values()) for end in (0, 1))
    return Estimate(
        each.get("reject", 0.0) / sum(each.values()),
        low / (low + missed_high) if low else 0.0,
        high / (high + missed_low) if high else 0.0,
    )


def total(stratum: Stratum, confidence: float) -> tuple[int, int]:
    """Between which numbers the anomalies of a stratum lie, with at least that confidence: all totals T under which
    what was found is not too rare, where the labelled ones are a draw without replacement (hypergeometric)."""
    from scipy.stats import hypergeom

    samples, n, k = stratum.samples, stratum.labelled, stratum.anomalous
    tail = (1 - confidence) / 2
    least, most = k, samples - (n - k)
    low = _first(least, most, lambda t: hypergeom.sf(k - 1, samples, t, n) > tail)
    high = _first(least, most, lambda t: hypergeom.cdf(k, samples, t, n) <= tail) - 1
    return low, max(low, high)


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The first number from `low` to `high` for which `holds` is true, high + 1 without one; true stays true."""
    while low <= high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle - 1
        else:
            low = middle + 1
    return low
