"""Checks on a batch of images where it enters a detector or an augmenter."""

import numpy as np

from pipeline.errors import DataError
from pipeline.protocols import Batch


def checked(batch: Batch, size: tuple[int, int] | None = None) -> np.ndarray:
    """The images of `batch`, uint8 `(n, 3, h, w)`; `size` is the (h, w) that they must have.

    Raises DataError, naming the first sample, for anything else."""
    x = batch.x
    first = f"sample {batch.ids[0]}" if batch.ids else "an empty batch"
    if not isinstance(x, np.ndarray):
        raise DataError(f"images must come as a numpy array of shape (n, 3, h, w), got {type(x).__name__} ({first})")
    if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape[2:]:
        raise DataError(f"images must have shape (n, 3, h, w), got {x.shape} ({first})")
    if x.dtype != np.uint8:
        raise DataError(f"images must be uint8 from 0 to 255, got {x.dtype} ({first})")
    if size is not None and x.shape[2:] != size:
        raise DataError(
            f"images must all be {size[0]} high and {size[1]} wide, as the first in training,"
            f" got {x.shape[2]} x {x.shape[3]} ({first})"
        )
    return x
