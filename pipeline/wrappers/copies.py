"""Every sample several times over, each time changed: what a detector sees through tiles or turns."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.protocols import Batch, Samples
from pipeline.samples import View

Change = Callable[[Batch, int], Batch]


class Copies(View):
    """A view of changed copies of `samples`; `change` makes copy number k of a batch of one sample.

    `rows` are those of the copies: the samples' own, with their labels as copies, and columns `copy_of`, the place of
    the sample, and `copy`, the number of the copy."""

    def __init__(self, samples: Samples, change: Change, rows: pd.DataFrame) -> None:
        super().__init__(rows, self._made)
        self._samples, self._change = samples, change

    def __getitem__(self, index: slice | np.ndarray) -> "Copies":
        return Copies(self._samples, self._change, self.rows.iloc[index])

    def _made(self, rows: pd.DataFrame) -> Batch:
        wanted = rows["copy_of"].unique()
        (batch,) = self._samples[wanted].batches(len(wanted))
        place = {which: index for index, which in enumerate(wanted)}
        return joined([self._change(one(batch, place[row.copy_of]), row.copy) for row in rows.itertuples()])


def times(samples: Samples, count: int) -> pd.DataFrame:
    """The rows of `count` copies of each of `samples`, one after the other."""
    at = np.repeat(np.arange(len(samples)), count)
    return samples.rows.iloc[at].assign(copy_of=at, copy=np.tile(np.arange(count), len(samples)))


def one(batch: Batch, index: int) -> Batch:
    """A single sample of `batch`, as a batch; its arrays are views."""
    at = slice(index, index + 1)
    mask, region = (None if part is None else part[at] for part in (batch.mask, batch.region))
    return Batch(batch.ids[at], batch.x[at], batch.label[at], mask, region, batch.category and batch.category[at])


def joined(parts: list[Batch]) -> Batch:
    """Image batches, one at least, one after the other."""

    def together(arrays: list[np.ndarray | None]) -> np.ndarray | None:
        return None if arrays[0] is None else np.concatenate([array for array in arrays if array is not None])

    return Batch(
        [name for part in parts for name in part.ids],
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.label for part in parts]),
        together([part.mask for part in parts]),
        together([part.region for part in parts]),
        None if parts[0].category is None else [name for part in parts for name in part.category or []],
    )
