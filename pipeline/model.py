"""A model ready for use: the fitted detector, the calibration that goes with it, and the kind of data it reads.

On disk it is a folder as `store.save` writes it with the calibration in it as `calibration.json` (in MLflow),
or with the calibration in a file beside it (in a line's models/).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from pipeline import scoring, store, threshold
from pipeline.errors import ModelError
from pipeline.files import sha256
from pipeline.protocols import Samples

CALIBRATION = "calibration.json"
COLUMNS = ("id", "score", "p_value", "decision")


@dataclass(frozen=True)
class Model:
    """A detector that decides: its scores are compared with the thresholds of its own calibration."""

    stored: store.Stored
    calibration: threshold.Calibration

    @classmethod
    def load(cls, folder: Path, calibration: Path | None = None) -> Self:
        """The model in `folder`; its calibration is `calibration`, or `calibration.json` in that folder.

        Raises ModelError when either is incomplete or damaged, or when they do not belong together."""
        path = calibration or folder / CALIBRATION
        stored = store.load(folder)
        found = threshold.read(path)
        came = sha256(folder, without=CALIBRATION)
        if found.model != came:
            raise ModelError(
                f"{path} must be the calibration of the model in {folder} (hash {came[:12]}), "
                f"got the calibration of another model ({found.model[:12]}); calibrate again"
            )
        return cls(stored, found)

    def score(self, samples: Samples, batch: int = 32) -> pd.DataFrame:
        """One row per sample, in order: id, score (float32), p_value (float64), decision (accept, review, reject).

        Samples are decoded `batch` at a time and local scores are not kept, so memory grows by these rows only."""
        if len(samples) == 0:
            return empty_rows()
        score = scoring.score(self.stored.detector, samples, batch, keep_local=False).scores.sample
        of = groups(samples, self.calibration)
        return _rows(samples.ids, score, self.calibration.p_values(score, of), self.calibration.decide(score, of))

    def draw(self, samples: Samples, out: Path, batch: int = 32) -> list[Path]:
        """One picture per sample under `out`, with its local scores and the alarm threshold; `batch` at a time."""
        alarm = self.calibration.thresholds["alarm"]
        pictures = []
        for some in samples.batches(batch):
            pictures += self.stored.modality.draw(some, self.stored.detector.score(some), alarm, out)
        return pictures

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Score samples that come as a DataFrame: score, p_value and decision, one row per row of `frame`.

        Raises DataError when they cannot be read."""
        modality = self.stored.modality
        rows = self.score(modality.from_frame(frame), modality.batch)
        return rows.drop(columns="id").set_index(frame.index)


def groups(samples: Samples, calibration: threshold.Calibration) -> list[str] | None:
    """What each sample's thresholds go by; empty, so judged by all together, where that is not known."""
    by = calibration.plan.by
    if by is None:
        return None
    if by not in samples.rows:
        return [""] * len(samples)
    given = samples.rows[by]
    return given.astype("str").where(given.notna(), "").tolist()


def empty_rows() -> pd.DataFrame:
    """The scores of no sample."""
    return _rows([], np.zeros(0, np.float32), np.zeros(0), np.zeros(0, str))


def _rows(ids: list[str], score: np.ndarray, p_value: np.ndarray, decision: np.ndarray) -> pd.DataFrame:
    values = (np.asarray(ids, object), score, p_value, decision.astype(object))
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True))).astype({"id": "str", "decision": "str"})
