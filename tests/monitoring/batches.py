"""Scored batches without a line: a calibration of normal scores, folders with scores and their reports."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import params, threshold
from pipeline.plan import Plan
from pipeline.threshold import Calibration, Scored

PARAMS = params.Params({"monitor": {}, "promote": {"name": "line"}}, "here")


def calibration(n: int = 400, **plan: object) -> Calibration:
    scores = np.random.default_rng(0).normal(size=n)
    of = ["a", "b"] * (n // 2) if "by" in plan else None
    return threshold.calibrate(
        Plan.read({"alpha": 0.05, "confidence": None, **plan}), Scored(scores, normals_of=of), "m"
    )


def scored(folder: Path, scores: np.ndarray, by: Calibration, **more: Any) -> dict[str, Any]:
    """A batch's folder and its report."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = np.asarray(scores, np.float32)
    decided = by.decide(scores, more.get("of"))
    rows = pd.DataFrame({"id": [f"s{i}" for i in range(len(scores))], "score": scores, "decision": decided})
    if "of" in more:
        rows[by.plan.by] = more.pop("of")
    rows.to_parquet(folder / "scores.parquet", index=False)
    report = {
        "name": "line",
        "version": 1,
        "batch": folder.name,
        "samples": len(scores),
        "decisions": {name: int((decided == name).sum()) for name in ("accept", "review", "reject")},
        "quarantined": 0,
        "false_discovery_rate": None,
        "promised_rate": by.promised_false_alarms,
        "promise": by.says(),
        "started": "2026-11-25T09:00:00+00:00",
        "seconds": 2.0,
    }
    return report | more


def normal(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return shift + np.random.default_rng(seed).normal(size=n)
