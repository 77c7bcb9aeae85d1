"""At most a share of anomalies like the known ones escapes: split-conformal, from the other side."""

from dataclasses import dataclass

from pipeline.errors import PromiseError
from pipeline.rules.conformal import Found, Known, Rate, carried, just_below, order, percent, sure, too_few


@dataclass(frozen=True)
class EscapeRate:
    """At most a share `alpha` of anomalies like the known ones at or below the threshold; with
    `confidence` for these very calibration anomalies, without one on average."""

    alpha: Rate = 0.05
    """Share of anomalies like the known ones that may escape."""
    confidence: Rate | None = 0.95
    """With which probability the promise holds for this very calibration set; null: on average over such sets."""

    def find(self, known: Known, where: str) -> Found:
        n = len(known.anomalies)
        below = order(n, self.alpha, self.confidence)
        if below == 0:
            more = f"give more labelled anomalies, a larger split.anomalies.calibrate or a larger {where}.alpha"
            raise PromiseError(too_few(n, self.alpha, self.confidence, where, "anomalies", more))
        rate = carried(n, below, self.confidence)
        says = f"{sure(self.confidence)} at most {percent(self.alpha)} of anomalies like the known ones escape"
        says += f" ({n} calibration anomalies carry {percent(rate)})"
        return Found(just_below(known.anomalies[below - 1]), rate, says)
