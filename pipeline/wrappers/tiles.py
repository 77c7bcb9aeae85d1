"""Tiles: a large image in overlapping pieces, so that small defects keep their pixels."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from math import ceil
from typing import Annotated, ClassVar, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Lt

from pipeline.errors import DataError
from pipeline.parts.images import checked
from pipeline.parts.progress import Progress
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN, Batch, Samples, Scores, State
from pipeline.wrappers.copies import Copies, joined, one, times
from pipeline.wrappers.wrapper import Wrapper

Side = Annotated[int, Ge(16)]
CHUNK = 16  # tiles scored together


@dataclass
class Tiles(Wrapper):
    """The detector learns and scores tiles; an image is as odd as its oddest tile, its map is that of the tiles.

    Tiles are spread evenly, the outermost flush with the image's edges. A pixel counts in the tile whose middle is
    nearest. Over a band around the border between two such cores, half as wide as their overlap, it counts in both,
    and the map changes over from one to the other linearly; the rest of the overlap is only context."""

    kind: ClassVar[str | None] = "image"

    size: tuple[Side, Side]
    """Height and width of a tile in pixels."""
    overlap: Annotated[float, Ge(0), Lt(0.9)] = 0.25
    """Least share of a tile's side that its neighbour repeats; more context, more tiles."""

    def fit(self, train: Samples) -> Self:
        """Fit the detector to the tiles of `train`. A tile of an anomalous image is anomalous where its mask is, normal
        where it is not, and unknown without one. Raises DataError for images smaller than a tile."""
        first = next(iter(train[:1].batches(1)))
        self.image_ = checked(first).shape[2:]
        self._lay()
        self.inner.fit(Copies(train, self._cut, self._rows(train)))
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)`, the largest of the tiles'; maps `(n, h, w)` put together of theirs."""
        if not hasattr(self, "image_"):
            return self.inner.score(batch)  # which says that it is not fitted
        checked(batch, self.image_)
        sample = np.full(len(batch), -np.inf, np.float32)
        local = np.zeros((len(batch), *self.image_), np.float32)
        mapped = True
        pieces = self._pieces(batch)
        while some := list(islice(pieces, CHUNK)):
            scores = self.inner.score(joined([tile for _, _, tile in some]))
            mapped = mapped and scores.local is not None
            for at, (index, number, _) in enumerate(some):
                sample[index] = max(sample[index], scores.sample[at])
                if scores.local is not None:
                    place, weight = self._tiles[number], self._weights[number]
                    local[(index, *place)] += weight * scores.local[at]
        return Scores(sample, local if mapped else None)

    def state(self) -> State:
        inner = self.inner.state()
        return State(inner.arrays, {"image": list(self.image_), "inner": inner.meta}, inner.estimators)

    def from_state(self, state: State) -> Self:
        self.inner.from_state(State(state.arrays, state.meta["inner"], state.estimators))
        self.image_ = tuple(state.meta["image"])
        self._lay()
        return self

    def _lay(self) -> None:
        """Place, weights `(h, w)` and what counts for every tile."""
        rows, columns = (self._axis(*sides) for sides in zip(self.image_, self.size, strict=True))
        self._tiles = [(y, x) for y, _ in rows for x, _ in columns]
        self._weights = [np.outer(v, w).astype(np.float32) for _, v in rows for _, w in columns]

    def _axis(self, whole: int, side: int) -> list[tuple[slice, np.ndarray]]:
        """Along one axis, place and weights of every tile; the weights of all add up to 1 at every pixel."""
        if whole < side:
            raise DataError(
                f"tiles must not be larger than the images, got tiles of {self.size[0]} x {self.size[1]}"
                f" and images of {self.image_[0]} x {self.image_[1]}"
            )
        count = 1 + ceil((whole - side) / (side * (1 - self.overlap)))
        starts = np.linspace(0, whole - side, count).round().astype(int)
        at = np.arange(whole) + 0.5
        # share of every pixel that lies beyond the border between tile i and tile i + 1
        beyond = [np.ones(whole)]
        for one_start, next_start in pairwise(starts):
            middle, shared = (one_start + next_start + side) / 2, one_start + side - next_start
            beyond.append(np.clip((at - middle) / max(shared / 2, 1e-9) + 0.5, 0, 1))
        beyond.append(np.zeros(whole))
        weights = [before - after for before, after in pairwise(beyond)]
        return [(slice(s, s + side), w[s : s + side]) for s, w in zip(starts, weights, strict=True)]

    def _rows(self, train: Samples) -> pd.DataFrame:
        """Of the tiles of `train` in which anything counts, with their own labels: one look at every image."""
        labels = []
        with Progress(len(train), "tiles", "images") as bar:
            for batch in train.batches(CHUNK):
                images = [one(batch, index) for index in range(len(batch))]
                checked(batch, self.image_)
                tiles = [self._cut(image, number) for image in images for number in range(len(self._tiles))]
                labels += [tile.label[0] if self._counts(tile) else None for tile in tiles]
                bar.update(len(batch))
        rows = times(train, len(self._tiles))
        kept = np.array([label is not None for label in labels])
        return rows[kept].assign(label=np.array([label for label in labels if label is not None], np.int8))

    def _counts(self, tile: Batch) -> bool:
        return tile.region is None or bool(tile.region.any())

    def _cut(self, batch: Batch, number: int) -> Batch:
        """Tile `number` of a batch of one image."""
        place = (slice(None), *self._tiles[number])
        region = (self._weights[number] > 0)[None]
        if batch.region is not None:
            region = region & batch.region[place]
        mask, label = None if batch.mask is None else batch.mask[place], batch.label
        if label[0] == ANOMALOUS:
            seen = np.array([UNKNOWN]) if mask is None else mask[region]
            worst = ANOMALOUS if (seen == ANOMALOUS).any() else UNKNOWN if (seen == UNKNOWN).any() else NORMAL
            label = np.array([worst], np.int8)
        x = batch.x[(slice(None), *place)]
        return Batch(batch.ids, x, label, mask, region, batch.category)

    def _pieces(self, batch: Batch) -> Iterator[tuple[int, int, Batch]]:
        """Image, number and content of every tile that counts; of an image of which nothing counts, the first."""
        for index in range(len(batch)):
            image = one(batch, index)
            found = False
            for number in range(len(self._tiles)):
                tile = self._cut(image, number)
                if self._counts(tile):
                    found = True
                    yield index, number, tile
            if not found:
                yield index, 0, self._cut(replace(image, region=None), 0)
