"""Features of training images, held in half precision: a frozen backbone looks at each image once, not at each step."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import DataError
from pipeline.parts.draws import shuffled
from pipeline.parts.features import Features
from pipeline.parts.images import checked
from pipeline.parts.moments import Moments
from pipeline.parts.progress import Progress
from pipeline.parts.regions import counted
from pipeline.protocols import Batch, Samples

BATCH = 16  # images looked at together
HALF = 2  # bytes of a float16
LARGEST = 65504.0  # of the numbers that float16 holds
MEGA = 10**6


@dataclass(frozen=True)
class Held:
    """Maps of n images, per level float16 `(n, c, h', w')` with what counts, bool `(n, h', w')`; the mean and standard
    deviation of every channel of each level, float32 `(c,)`; the images' positions among those asked for, their
    categories and their size (h, w)."""

    levels: list[Tensor]
    inside: list[Tensor]
    mean: list[Tensor]
    spread: list[Tensor]
    at: np.ndarray
    category: list[str]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.at)

    @property
    def scale(self) -> list[Tensor]:
        """The root mean square of every channel of each level, `(c,)`: for maps that are divided, but keep their zero.
        Cosines of centred channels are noise where little is seen, as what is near the mean points nowhere."""
        return [(mean**2 + spread**2).sqrt() for mean, spread in zip(self.mean, self.spread, strict=True)]

    def of(self, at: np.ndarray, where: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        """Maps, float32, and what counts of the images at some positions, on the device `where`."""
        index = torch.from_numpy(np.asarray(at, np.int64))
        return [m[index].to(where).float() for m in self.levels], [i[index].to(where) for i in self.inside]

    def draws(
        self, steps: int, batch: int, rng: np.random.Generator, where: torch.device
    ) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """`of` at `batch` positions per step, one shuffled round after the other."""
        order = shuffled(len(self), steps * batch, rng)
        for start in range(0, steps * batch, batch):
            yield self.of(order[start : start + batch], where)


def hold(
    features: Features,
    some: Samples,
    cache: int,
    seed: int,
    prepare: Callable[[list[Tensor], Batch], list[Tensor]] | None = None,
) -> Held:
    """The maps of `some` images, or of as many as `cache` MB (10^6 bytes) hold, drawn evenly; mean and spread are of
    all. `prepare` makes other maps of each batch's first (fewer, smaller, merged).

    Raises DataError for images of differing sizes, or when `cache` does not hold one."""
    size, chosen = None, np.arange(len(some))
    levels: list[list[Tensor]] = []
    insides: list[list[Tensor]] = []
    moments: list[Moments] = []
    category: list[str] = []
    with Progress(len(some), "features", "images") as bar:
        for batch in some.batches(BATCH):
            images = checked(batch, size)
            maps = features.maps(images)
            maps = prepare(maps, batch) if prepare is not None else maps
            if size is None:
                size = images.shape[2:]
                chosen = affordable(sum(level[0].numel() for level in maps) * HALF, len(some), cache, seed)
                levels, insides, moments = [[] for _ in maps], [[] for _ in maps], [Moments() for _ in maps]
            keep = torch.from_numpy(np.isin(np.arange(bar.n, bar.n + len(batch)), chosen))
            for i, level in enumerate(maps):
                inside = counted(batch, level.shape[2:], level.device)
                moments[i].add(level.permute(0, 2, 3, 1)[inside])
                levels[i].append(level[keep].clamp(-LARGEST, LARGEST).half().cpu())
                insides[i].append(inside[keep].cpu())
            names = batch.category if batch.category is not None else [""] * len(batch)
            category += [name for name, kept in zip(names, keep.tolist(), strict=True) if kept]
            bar.update(len(batch))
    assert size is not None
    mean, spread = zip(*(each.found() for each in moments), strict=True)
    return Held(
        [torch.cat(each) for each in levels],
        [torch.cat(each) for each in insides],
        list(mean),
        list(spread),
        chosen,
        category,
        size,
    )


def affordable(bytes_: int, images: int, cache: int, seed: int, what: str = "the maps of one image") -> np.ndarray:
    """Which of all images are held within `cache` MB (10^6 bytes) at `bytes_` each, as positions, drawn evenly.

    Raises DataError when not one is."""
    room = cache * MEGA // bytes_
    if room < 1:
        raise DataError(f"cache must hold {what}, {bytes_ / MEGA:.1f} MB, got {cache}")
    if room >= images:
        return np.arange(images)
    logging.getLogger(__name__).warning("cache holds %d of %d images: only these are trained on", room, images)
    return np.sort(np.random.default_rng(seed).choice(images, room, replace=False))
