"""Views of manifest rows that decode in the background: the one implementation of `Samples`."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN, Batch, Samples

AHEAD = 2  # batches decoded before they are asked for
LABELLED = "labelled"  # `split` of samples that people labelled after a batch was scored, see labelled.py and split.py


class View:
    """Samples over manifest rows; `read` decodes some rows into one batch."""

    def __init__(self, rows: pd.DataFrame, read: Callable[[pd.DataFrame], Batch]) -> None:
        self.rows = rows
        self._read = read

    @property
    def ids(self) -> list[str]:
        return self.rows["id"].tolist()

    @property
    def label(self) -> np.ndarray:
        return self.rows["label"].to_numpy(np.int8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | np.ndarray) -> "View":
        return View(self.rows.iloc[index], self._read)

    def batches(self, size: int) -> Iterator[Batch]:
        starts = iter(range(0, len(self.rows), size))
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(AHEAD, thread_name_prefix="decode") as pool:
            try:
                for start in starts:
                    waiting.append(pool.submit(self._read, self.rows.iloc[start : start + size]))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()


def presumed_normal(label: np.ndarray) -> np.ndarray:
    """Which samples stand for what is normal, bool `(n,)`: those labelled so; where none is, all of unknown label.

    Anomalies among unlabelled samples blur what detectors learn, and make thresholds stricter than promised: fewer
    false alarms, more escapes."""
    labelled = np.asarray(label) == NORMAL
    return labelled if labelled.any() else np.asarray(label) == UNKNOWN


def normals(samples: Samples) -> Samples:
    """The samples that stand for what is normal, see `presumed_normal`. Raises DataError when there is none."""
    chosen = samples[presumed_normal(samples.label)]
    if len(chosen) == 0:
        raise DataError(
            f"training needs at least one normal sample (label 0, or unlabelled), got none among {len(samples)} samples"
        )
    return chosen


def teaching(samples: Samples) -> Samples:
    """What teaches a detector that learns from labels: the `normals` and the labelled anomalies, in their order. Raises
    DataError when nothing stands for what is normal."""
    normals(samples)
    return samples[presumed_normal(samples.label) | (samples.label == ANOMALOUS)]


def read_manifest(folder: Path) -> pd.DataFrame:
    """The manifest of a dataset folder, with a column `folder` that tells where its samples lie: there, or below it
    where the file has a column `below`.

    Raises DataError when the folder holds no readable manifest."""
    try:
        rows = pd.read_parquet(folder / "manifest.parquet")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} must hold a manifest.parquet that can be read: {error}") from error
    if "below" not in rows:
        return rows.assign(folder=str(folder))
    below = rows.pop("below")
    return rows.assign(folder=[str(folder / name) for name in below])


def part(folder: Path, split: Path, name: str) -> pd.DataFrame:
    """The manifest rows of one part (`train`, `calibrate` or `test`) of a split dataset."""
    parts = pd.read_parquet(split)
    return read_manifest(folder).merge(parts[parts["part"] == name][["id"]], on="id", validate="one_to_one")
