"""The golden batch: a few fixed samples that a model must score alike wherever it is loaded."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.params import Params
from pipeline.samples import part, read_manifest
from pipeline.stages import DATASET, SPLIT

GOLDEN = 16  # samples


@dataclass(frozen=True)
class Golden:
    """Samples of a line's test part, written once to `folder` as a dataset of its own, to be checked at any time."""

    params: Params
    line: Path
    folder: Path

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Samples spread evenly over the test part, by label and id (over the calibration part if none is tested)."""
        rows = part(self.line / DATASET, self.line / SPLIT, "test")
        if rows.empty:
            rows = part(self.line / DATASET, self.line / SPLIT, "calibrate")
        rows = rows.sort_values(["label", "id"], ignore_index=True)
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(GOLDEN, len(rows))).round().astype(int))
        self.folder.mkdir(parents=True)
        self.params.modality.save(self.params.modality.samples(rows.iloc[chosen]).batches(GOLDEN), self.folder)
        return read_manifest(self.folder)


def max_difference(here: pd.DataFrame, there: pd.DataFrame) -> float:
    """The largest difference of scores and p-values; infinite when rows, decisions or finiteness differ."""
    if len(here) != len(there) or here["decision"].tolist() != there["decision"].tolist():
        return math.inf
    pairs = [(here[c].to_numpy(np.float64), there[c].to_numpy(np.float64)) for c in ("score", "p_value")]
    differences = [float(np.max(np.abs(a - b), initial=0.0)) for a, b in pairs]
    return max(math.inf if math.isnan(d) else d for d in differences)
