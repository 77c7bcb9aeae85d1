"""At most a share of normals raises an alarm: split-conformal."""

from dataclasses import dataclass

from pipeline.errors import PromiseError
from pipeline.rules.conformal import Found, Known, Rate, carried, order, percent, sure, too_few


@dataclass(frozen=True)
class FalseAlarmRate:
    """At most a share `alpha` of normals above the threshold: with `confidence` for this very calibration set, without
    one on average over calibration sets."""

    alpha: Rate = 0.01
    """Share of normals that may raise an alarm."""
    confidence: Rate | None = 0.95
    """With which probability the promise holds for this very calibration set; null: on average over such sets."""

    def find(self, known: Known, where: str) -> Found:
        n = len(known.normals)
        above = order(n, self.alpha, self.confidence)
        if above == 0:
            more = f"give more normals, a larger split.calibrate or a larger {where}.alpha"
            raise PromiseError(too_few(n, self.alpha, self.confidence, where, "normals", more))
        rate = carried(n, above, self.confidence)
        says = f"{sure(self.confidence)} at most {percent(self.alpha)} of normals raise one"
        says += f" ({n} calibration normals carry {percent(rate)})"
        return Found(float(known.normals[n - above]), rate, says)
