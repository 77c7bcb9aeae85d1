"""What there is to know of a candidate: what its stages left, what the registry and monitoring say of its version."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pipeline import threshold
from pipeline.candidate import Candidate
from pipeline.threshold import Calibration


@dataclass(frozen=True)
class Published:
    """What the registry and monitoring know of a candidate: its version with tags, what its thresholds promise if they
    were set anew since, which version is champion by now, and the batches that the version scored, as
    `monitoring.record.history` gives them."""

    version: int | None = None
    run_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    recalibrated: str = ""
    champion: int | None = None
    history: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` and `calibrate` left of a candidate."""

    candidate: Candidate

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.candidate.report / "metrics.json").read_text(encoding="utf-8"))

    @cached_property
    def table(self) -> pd.DataFrame:
        return pd.read_parquet(self.candidate.report / "scores.parquet")

    @cached_property
    def calibration(self) -> Calibration:
        return threshold.read(self.candidate.calibration)

    @cached_property
    def where(self) -> str:
        """The folder of the candidate's report, as seen from the line."""
        return self.candidate.report.relative_to(self.candidate.line).as_posix()

    def scores(self, label: int) -> np.ndarray:
        """The scores of test samples with that label, float32."""
        return self.table.loc[self.table["label"] == label, "score"].to_numpy(np.float32)
