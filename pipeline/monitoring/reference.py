"""What a version's inputs looked like: facts about normals of its calibration part, an artifact of its run.

reference/inputs.parquet   facts, see inputs.py
reference/counts.json      how many samples its dataset had, and how many could not be read
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from pipeline.files import write_json
from pipeline.monitoring import inputs
from pipeline.params import Params
from pipeline.protocols import Samples
from pipeline.samples import part, presumed_normal
from pipeline.stages import DATASET, SPLIT
from pipeline.store import Stored

FOLDER = "reference"
TAG = "reference"  # of a version that has one: how many samples it describes
INPUTS, COUNTS = "inputs.parquet", "counts.json"


@dataclass(frozen=True)
class Reference:
    """`inputs`: facts about samples, one row each. `samples` were in the dataset, `quarantined` did not get there."""

    inputs: pd.DataFrame
    samples: int
    quarantined: int

    def write(self, folder: Path) -> None:
        """Into the new folder `folder`."""
        folder.mkdir(parents=True)
        self.inputs.to_parquet(folder / INPUTS)
        write_json(folder / COUNTS, {"samples": self.samples, "quarantined": self.quarantined})

    @classmethod
    def read(cls, folder: Path) -> Self:
        counts = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
        return cls(pd.read_parquet(folder / INPUTS), counts["samples"], counts["quarantined"])


@dataclass(frozen=True)
class Source:
    """Where the references of a line's candidates come from: the line after its stages ran. Samples are described once,
    whatever the number of candidates; only embeddings are each candidate's own."""

    params: Params
    line: Path

    def of(self, stored: Stored) -> Reference:
        """The reference of a candidate's model."""
        embedded = inputs.embeddings(stored.detector, self._samples[self._first])
        facts = self._facts if embedded is None else self._facts.join(embedded)
        return Reference(facts, *self._counts)

    @cached_property
    def _samples(self) -> Samples:
        rows = part(self.line / DATASET, self.line / SPLIT, "calibrate")
        normal = rows[presumed_normal(rows["label"].to_numpy())]
        drawn = np.random.default_rng(0).permutation(len(normal))[: inputs.MOST]
        return self.params.modality.samples(normal.iloc[drawn])

    @property
    def _first(self) -> slice:
        return slice(0, inputs.EMBEDDED)

    @cached_property
    def _facts(self) -> pd.DataFrame:
        return inputs.facts(self.params.modality, self._samples)

    @cached_property
    def _counts(self) -> tuple[int, int]:
        manifest = pd.read_parquet(self.line / DATASET / "manifest.parquet", columns=["id"])
        rejected = pd.read_parquet(self.line / DATASET / "rejected.parquet")
        return len(manifest) + len(rejected), len(rejected)
