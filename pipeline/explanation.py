"""Why an alarm is one: the columns of a table that added most to its score, for detectors that can tell."""

import json
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from pipeline.protocols import Batch, Detector, Samples

MOST = 5  # columns named for an alarm
ROWS = 1024  # alarms explained at a time


@runtime_checkable
class Explains(Protocol):
    """A detector that tells what each column adds to a score."""

    def explain(self, batch: Batch) -> pd.DataFrame:
        """float32 `(n, c)`, indexed by the ids of the batch, one column per column of the table."""


def because(detector: Detector, samples: Samples, alarm: np.ndarray) -> list[str] | None:
    """A text for each of the n samples: "" where `alarm`, bool `(n,)`, is false, else a JSON list of at most 5 columns,
    the one that added most first, each with `column`, `value` (as text) and `adds`, in units of the score.

    Columns that lower a score are not named. None for a detector that cannot tell."""
    if not isinstance(detector, Explains):
        return None
    texts = [""] * len(samples)
    places = np.flatnonzero(alarm)
    for start in range(0, len(places), ROWS):
        some = places[start : start + ROWS]
        (batch,) = samples[some].batches(len(some))
        for place, told in zip(some, _told(detector.explain(batch), batch.x), strict=True):
            texts[place] = told
    return texts


def _told(adds: pd.DataFrame, values: pd.DataFrame) -> list[str]:
    parts = adds.to_numpy()
    order = np.argsort(-parts, axis=1, kind="stable")[:, :MOST]
    names = [str(name) for name in adds.columns]
    cells = [values[name].to_numpy(object) for name in adds.columns]
    found = []
    for row, largest in enumerate(order):
        named = [
            {"column": names[j], "value": _text(cells[j][row]), "adds": float(f"{parts[row, j]:.6g}")}
            for j in largest
            if parts[row, j] > 0
        ]
        found.append(json.dumps(named, ensure_ascii=False))
    return found


def _text(value: object) -> str:
    if pd.isna(value):
        return "(missing)"
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)[:200]
