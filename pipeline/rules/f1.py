"""The best F1 on labelled calibration samples."""

from dataclasses import dataclass

import numpy as np

from pipeline.rules.conformal import Found, Known
from pipeline.rules.cost import counted


@dataclass(frozen=True)
class F1:
    """The highest F1 on the labelled calibration samples; of equal ones the highest threshold."""

    def find(self, known: Known, where: str) -> Found:
        levels, normals, anomalies = counted(known, where)
        caught = anomalies.sum() - np.cumsum(anomalies)
        false = normals.sum() - np.cumsum(normals)
        f1 = 2 * caught / (caught + false + anomalies.sum())
        at = len(f1) - 1 - int(np.argmax(f1[::-1]))
        says = f"best F1 {f1[at]:.4g} on {normals.sum()} normals and {anomalies.sum()} anomalies; no rate is promised"
        return Found(float(levels[at]), None, says, {"f1": float(f1[at])})
