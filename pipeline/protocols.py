"""The five contracts: Samples, Scores, Detector, Modality, Augmenter.

A class fulfils a contract by having its methods, it inherits nothing. Higher scores are more anomalous.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import pandas as pd

NORMAL, ANOMALOUS, UNKNOWN = 0, 1, -1  # labels of samples and of pixels

# Every manifest has these columns, of these types and in this order; a modality adds its own behind them.
MANIFEST = {"id": "str", "sha256": "str", "label": "int8", "defect": "str", "group": "str", "category": "str"}
MANIFEST |= {"severity": "float64", "time": "datetime64[us, UTC]", "split": "str"}


@dataclass(frozen=True)
class Batch:
    """Some samples, decoded. `x`: images uint8 `(n, 3, h, w)`, tables a DataFrame of n rows. `mask`: the label of every
    pixel, int8 `(n, h, w)`, None where the kind has no parts. `region`, bool `(n, h, w)` or None: all that counts."""

    ids: list[str]
    x: Any
    label: np.ndarray  # int8 (n,)
    mask: np.ndarray | None = None
    region: np.ndarray | None = None
    category: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Scores:
    """Raw anomaly scores, never thresholded. `sample`: float32 `(n,)`; `local`: `(n, h, w)` or `(n, t)`, or None."""

    sample: np.ndarray
    local: np.ndarray | None = None


@dataclass(frozen=True)
class Look:
    """One sample as a person looks at it. `picture`: uint8 `(h, w, 3)`, at least as large as what detectors see;
    `heat`: its local scores, float32, of the picture's aspect and NaN where nothing counts; both may be None.
    `fields`: names and values, as text."""

    picture: np.ndarray | None = None
    heat: np.ndarray | None = None
    fields: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class State:
    """Fitted state: `arrays` go to safetensors, `meta` (JSON) to detector.json, scikit-learn `estimators` to skops."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    estimators: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Samples(Protocol):
    """An ordered, indexable view of part of a dataset; nothing is decoded until `batches` is called."""

    rows: pd.DataFrame  # the manifest rows behind this view, in order; see MANIFEST
    ids: list[str]
    label: np.ndarray  # int8 (n,)

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | np.ndarray) -> "Samples":
        """The samples at `index` (a slice, positions or a boolean mask), as a view."""

    def batches(self, size: int) -> Iterator[Batch]:
        """Consecutive batches of at most `size` samples, decoded in the background a few ahead."""


@runtime_checkable
class Detector(Protocol):
    """A dataclass whose fields are its hyperparameters. Fitted attributes end in `_`; `history_`: numbers per step.
    Who learns from `samples` takes them as they come and looks at no label."""

    learns_from: ClassVar[Literal["normals", "labels", "samples"]]
    paper: ClassVar[str]
    history_: list[dict[str, float]]

    def fit(self, train: Samples) -> Self:
        """Learn from `train` alone; who learns from normals selects them. Raises DataError when that is impossible."""

    def score(self, batch: Batch) -> Scores:
        """Score one batch; changes nothing. Raises NotFittedError, or DataError for other shapes, columns, infinity."""

    def state(self) -> State:
        """All that `score` needs besides the hyperparameters."""

    def from_state(self, state: State) -> Self:
        """Take over what `state()` of an equal detector gave; `score` then gives the same bits."""


@dataclass(frozen=True)
class Ingested:
    """What a modality found in a source: good samples, and rejected ones (id, path, reason)."""

    manifest: pd.DataFrame
    rejected: pd.DataFrame


@dataclass(frozen=True)
class Check:
    """A Great Expectations class with its arguments; failing a `critical` one stops the line with what it `says`."""

    expectation: str
    options: dict[str, Any]
    critical: bool
    says: str


@dataclass(frozen=True)
class Cut:
    """A source in parts, each of which `ingest` reads as a source of its own; `content` is a hash of all samples."""

    parts: list[Path]
    content: str


class Modality(Protocol):
    """One kind of data: how it is read, checked, measured, drawn. Its fields are options of the section `dataset`."""

    shard: ClassVar[int]  # samples of a batch that one hand takes, where params do not say
    batch: ClassVar[int]  # samples of which it holds that many in memory

    def ingest(self, source: Path, out: Path, quarantine: Path) -> Ingested:
        """Read every sample of `source` (local) once: the good ones and `manifest.parquet` go under `out`, others under
        `quarantine` with a reason each. Raises DataError for a source it cannot understand."""

    def samples(self, rows: pd.DataFrame) -> Samples:
        """A view of manifest rows as `pipeline.samples.read_manifest` gives them."""

    def cut(self, source: Path, size: int, out: Path) -> Cut:
        """Cut `source` into sources of at most `size` samples, under `out`; memory does not grow with their number."""

    def thin(self, folder: Path, wanted: np.ndarray) -> None:
        """Leave only the samples `wanted`, bool `(n,)` in the manifest's order, in a folder that `ingest` wrote, and of
        these only those whose files are still there."""

    def describe(self, batch: Batch) -> pd.DataFrame:
        """Plain facts about each sample, one float or text column each, to compare with those of another batch."""

    def from_frame(self, frame: pd.DataFrame) -> Samples:
        """A view of samples in a DataFrame, as MLflow's server gets them. Raises DataError when they cannot be read."""

    def to_frame(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Manifest rows in the form that `from_frame` takes; the way there and back gives the same batches."""

    def save(self, batches: Iterable[Batch], out: Path) -> pd.DataFrame:
        """Write batches (of an augmenter) in the layout of `ingest`; return their manifest."""

    def checks(self, folder: Path) -> tuple[pd.DataFrame, list[Check]]:
        """The frame to check for the dataset in `folder`, and the suite of checks for it."""

    def local_metrics(self, truth: np.ndarray, local: np.ndarray) -> dict[str, float]:
        """Metrics of local scores over all test samples against labels of the same shape; -1 does not count."""

    def local_curves(self, truth: np.ndarray, local: np.ndarray) -> dict[str, pd.DataFrame]:
        """Curves of the same by name, each with x and y in its first two columns, at most 1,000 points."""

    def look(self, rows: pd.DataFrame, scores: Scores | None) -> list[Look]:
        """The samples of some manifest rows to look at, with their scores where these are known. Raises DataError for
        one that is gone or has changed."""

    def draw(self, batch: Batch, scores: Scores, threshold: float, out: Path) -> list[Path]:
        """One picture per sample of `batch` under `out`, named after the sample's id; their paths."""


class Augmenter(Protocol):
    """A dataclass whose fields are its options; makes more train samples out of train samples."""

    def augment(self, train: Samples) -> Iterator[Batch]:
        """New samples, with label and mask. Equal seeds, equal bytes. Raises DataError without any to work from."""
