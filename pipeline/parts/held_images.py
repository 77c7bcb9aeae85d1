"""Training images held in memory as bytes, what does not count black: each is decoded once, not at each step."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts.held import BATCH, affordable
from pipeline.parts.images import checked
from pipeline.parts.progress import Progress
from pipeline.protocols import ANOMALOUS, NORMAL, Batch, Samples


@dataclass(frozen=True)
class Images:
    """n images: `x` uint8 `(n, 3, h, w)`, `marks` bool `(n, h, w)` where labelled anomalies are, `inside` bool
    `(n, h, w)` what counts, `label` int8 `(n,)`, `category`, the positions `at` among those asked for, and the size
    (h, w) of the images as they came."""

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
        """Positions of the normal images."""
        return np.flatnonzero(self.label == NORMAL)

    @property
    def marked(self) -> np.ndarray:
        """Positions of the anomalous images whose place is known."""
        return np.flatnonzero((self.label == ANOMALOUS) & self.marks.any(axis=(1, 2)))


def hold_images(some: Samples, cache: int, seed: int, shrink: int = 1, least: int = 1) -> Images:
    """`some` images, or as many as `cache` MB (10^6 bytes) hold, drawn evenly; blocks of `shrink` pixels averaged.

    Raises DataError for images of differing sizes, of fewer than `least` pixels down or across, or when `cache` does
    not hold one."""
    size, chosen = None, np.arange(len(some))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    labels, category = [], []
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
                bytes_ = 5 * -(-size[0] // shrink) * -(-size[1] // shrink)  # three colours and two masks
                chosen = affordable(bytes_, len(some), cache, seed, "one image")
            keep = np.isin(np.arange(bar.n, bar.n + len(batch)), chosen)
            x, marks, inside = shrunk(batch, shrink)
            parts.append((x[keep], marks[keep], inside[keep]))
            labels.append(batch.label[keep])
            names = batch.category if batch.category is not None else [""] * len(batch)
            category += [name for name, kept in zip(names, keep.tolist(), strict=True) if kept]
            bar.update(len(batch))
    assert size is not None
    x, marks, inside = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Images(x, marks, inside, np.concatenate(labels), category, chosen, size)


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
