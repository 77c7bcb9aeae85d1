"""Turns: an image seen in several directions, for parts that lie as they fall."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Le
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts.images import checked
from pipeline.protocols import NORMAL, UNKNOWN, Batch, Samples, Scores
from pipeline.wrappers.copies import Copies, times
from pipeline.wrappers.wrapper import Wrapper


@dataclass
class Turns(Wrapper):
    """The detector scores every image in `count` directions, evenly over the full circle.

    Quarter turns are exact and need square images; half turns do not. Between them pixels are interpolated, what comes
    in from beyond the image does not count, and its corners are seen by fewer directions."""

    kind: ClassVar[str | None] = "image"

    count: Annotated[int, Ge(2), Le(36)] = 4
    """Directions; time grows with it."""
    merge: Literal["mean", "min"] = "mean"
    """`mean` steadies the scores. With `min` one direction in which an image looks normal suffices: for detectors
    that know positions, and parts of which training has not seen every direction."""
    train: bool = False
    """Also learn from the turned images: as many times more of them."""

    def fit(self, train: Samples) -> Self:
        """Fit the detector. Raises DataError for images that cannot be turned so."""
        first = next(iter(train[:1].batches(1)))
        self._fitting(checked(first).shape[2:])
        self.inner.fit(Copies(train, self._turned, times(train, self.count)) if self.train else train)
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)`, merged over the directions."""
        self._fitting(checked(batch).shape[2:])
        samples, maps, shares = [], [], []
        for number in range(self.count):
            seen = self._turned(batch, number)
            scores = self.inner.score(seen)
            samples.append(scores.sample)
            if scores.local is not None:
                inside = np.ones(scores.local.shape, bool) if seen.region is None else seen.region
                maps.append(turned(np.where(inside, scores.local, 0), -number / self.count))
                shares.append(turned(inside.astype(np.float32), -number / self.count))
        sample = (np.mean if self.merge == "mean" else np.min)(np.stack(samples), axis=0)
        if not maps:
            return Scores(sample)
        total, share = np.stack(maps), np.stack(shares)  # both interpolated: their quotient is the map where it counts
        if self.merge == "mean":
            return Scores(sample, total.sum(axis=0) / share.sum(axis=0).clip(1e-6))
        least = np.where(share > 0.5, total / share.clip(1e-6), np.inf).min(axis=0)
        return Scores(sample, np.where(np.isfinite(least), least, 0))

    def _fitting(self, size: tuple[int, int]) -> None:
        if size[0] != size[1] and self.count != 2:
            raise DataError(f"images must be square to be turned {self.count} times, got {size[0]} x {size[1]}")

    def _turned(self, batch: Batch, number: int) -> Batch:
        """The images turned `number` of `count` times, counter-clockwise, with what is known of their pixels."""
        part = number / self.count
        if number == 0:
            return batch
        x = turned(batch.x, part)
        mask = None if batch.mask is None else turned(batch.mask, part)
        region = None if batch.region is None else turned(batch.region.astype(np.uint8), part) > 0
        if (4 * number) % self.count:
            inside = turned(np.ones((1, *x.shape[2:]), np.float32), part)[0] > 0.99
            region = np.repeat(inside[None], len(x), axis=0) if region is None else region & inside
            if mask is not None:
                mask = np.where(inside, mask, np.where(batch.label == NORMAL, NORMAL, UNKNOWN)[:, None, None])
        return Batch(batch.ids, x, batch.label, None if mask is None else mask.astype(np.int8), region, batch.category)


def turned(x: np.ndarray, part: float) -> np.ndarray:
    """`x` `(..., h, w)` turned counter-clockwise about its middle by `part` of a circle. Quarters are exact; otherwise
    uint8 and float32 are interpolated, int8 labels taken from the nearest pixel, and 0 comes in from outside."""
    quarters = 4 * part
    if quarters == int(quarters):
        return np.ascontiguousarray(np.rot90(x, int(quarters) % 4, axes=(-2, -1)))
    *lead, h, w = x.shape
    angle = 2 * np.pi * part
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    # where each pixel of the result comes from: turned back, rows counted downwards
    theta = torch.tensor([[cos, -sin * h / w, 0.0], [sin * w / h, cos, 0.0]])[None]
    grid = F.affine_grid(theta, [1, 1, h, w], align_corners=False)
    flat = torch.from_numpy(x.reshape(1, -1, h, w).astype(np.float32))
    mode = "nearest" if x.dtype == np.int8 else "bilinear"
    found = F.grid_sample(flat, grid, mode=mode, padding_mode="zeros", align_corners=False)[0].numpy()
    if x.dtype.kind in "iu":
        found = found.round()
    return found.reshape(*lead, h, w).astype(x.dtype)
