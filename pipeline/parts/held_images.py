"""Training images held in memory as bytes, what does not count black: each is decoded once, not at each step."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts.held import BATCH, MEGA, affordable
from pipeline.parts.images import checked
from pipeline.parts.progress import Progress
from pipeline.protocols import ANOMALOUS, NORMAL, Batch, Samples
from pipeline.samples import presumed_normal


@dataclass(frozen=True)
class Images:
    """n images: `x` uint8 `(n, 3, h, w)`, `marks` bool `(n, h, w)` where labelled anomalies are, `inside` bool
    `(n, h, w)` what counts, `label` int8 `(n,)` (NORMAL also where that is presumed), `category`, the positions `at`
    among those asked for, and the size (h, w) of the images as they came."""

    x: np.ndarray
    marks: np.ndarray
    inside: np.ndarray
    label: np.ndarray
    category: list[str]
    at: np.ndarray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def normals(self) -> np.ndarray:
        """Positions of the images that are normal or presumed so."""
        return np.flatnonzero(self.label == NORMAL)

    @property
    def marked(self) -> np.ndarray:
        """Positions of the anomalous images whose place is known."""
        return np.flatnonzero((self.label == ANOMALOUS) & self.marks.any(axis=(1, 2)))


def hold_images(
    some: Samples,
    cache: int,
    seed: int,
    shrink: int = 1,
    least: int = 1,
    normals: int = 1,
    beside: Callable[[np.ndarray], int] = lambda _: 0,
) -> Images:
    """`some` images, or as many as `cache` MB (10^6 bytes) hold, drawn evenly, but of each category that has normal
    images one at least; blocks of `shrink` pixels averaged. Fewer than `normals` normal images are repeated at the end
    until they are as many, as far as `cache` allows. `beside` says how many bytes more the caller holds for an image,
    uint8 `(1, 3, h, w)`.

    Raises DataError for images of differing sizes, of fewer than `least` pixels down or across, or when `cache` does
    not hold one, or one normal image of each category."""
    size, chosen, room = None, np.arange(len(some)), len(some)
    good = presumed_normal(some.label)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    names: list[str] = []
    with Progress(len(some), "images", "images") as bar:
        for batch in some.batches(BATCH):
            images = checked(batch, size)
            if size is None:
                size = images.shape[2:]
                if min(size) < least:
                    raise DataError(
                        f"images must be at least {least} pixels high and wide for these hyperparameters,"
                        f" got {size[0]} x {size[1]}"
                    )
                bytes_ = 5 * -(-size[0] // shrink) * -(-size[1] // shrink) + beside(images[:1])  # 3 colours, 2 masks
                room = cache * MEGA // bytes_
                chosen = _drawn(some.rows["category"].astype(str).to_numpy(), good, bytes_, cache, seed)
            keep = np.isin(np.arange(bar.n, bar.n + len(batch)), chosen)
            x, marks, inside = shrunk(batch, shrink)
            parts.append((x[keep], marks[keep], inside[keep]))
            names += batch.category if batch.category is not None else [""] * len(batch)
            bar.update(len(batch))
    assert size is not None
    x, marks, inside = (np.concatenate(part) for part in zip(*parts, strict=True))
    mine = np.flatnonzero(good[chosen])
    if 0 < len(mine) < normals and room > len(chosen):
        again = np.tile(mine, -(-normals // len(mine)) - 1)[: room - len(chosen)]
        x, marks, inside, chosen = (np.concatenate([part, part[again]]) for part in (x, marks, inside, chosen))
    label = np.where(good, NORMAL, some.label).astype(np.int8)[chosen]
    return Images(x, marks, inside, label, [names[i] for i in chosen], chosen, size)


def _drawn(names: np.ndarray, good: np.ndarray, bytes_: int, cache: int, seed: int) -> np.ndarray:
    """The images that `cache` MB hold, as positions; `names` of the categories of all, and which are normal, bool."""
    chosen = affordable(bytes_, len(names), cache, seed, "one image")
    rng, ones = np.random.default_rng(seed), []
    for name in np.unique(names[good]):
        of_it = np.flatnonzero(good & (names == name))
        held = of_it[np.isin(of_it, chosen)]
        ones.append(rng.choice(held if len(held) else of_it))
    if len(ones) > len(chosen):
        raise DataError(
            f"cache must hold a normal image of each of {len(ones)} categories, {len(ones) * bytes_ / MEGA:.1f} MB,"
            f" got {cache}"
        )
    others = rng.permutation(np.setdiff1d(chosen, ones))
    return np.sort(np.r_[ones, others[: len(chosen) - len(ones)]].astype(int))


def shrunk(batch: Batch, shrink: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of `batch`, uint8 `(n, 3, h', w')`, black where nothing counts, blocks of `shrink` pixels averaged; where
    any pixel is anomalous and where any counts, bool `(n, h', w')`."""
    n, _, h, w = batch.x.shape
    inside = np.ones((n, h, w), bool) if batch.region is None else batch.region
    marks = np.zeros((n, h, w), bool) if batch.mask is None else batch.mask == ANOMALOUS
    x = batch.x if batch.region is None else batch.x * inside[:, None]
    if shrink == 1:
        return x, marks & inside, inside
    small = F.avg_pool2d(torch.from_numpy(x).float(), shrink, ceil_mode=True).round().to(torch.uint8).numpy()
    marks, inside = (_any(part, shrink) for part in (marks & inside, inside))
    return small, marks, inside


def unit(x: np.ndarray, where: torch.device) -> Tensor:
    """uint8 images `(n, 3, h, w)` in [0, 1] on the device `where`, channels last."""
    return torch.from_numpy(x).to(where).to(torch.float32, memory_format=torch.channels_last) / 255


def _any(masks: np.ndarray, shrink: int) -> np.ndarray:
    return F.max_pool2d(torch.from_numpy(masks)[:, None].float(), shrink, ceil_mode=True)[:, 0].numpy() > 0
