"""CutPaste: a patch of a normal image, jittered and turned, pasted somewhere else in it.

Li, Sohn, Yoon and Pfister (CVPR 2021), "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization",
https://arxiv.org/abs/2104.04015.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from pipeline.errors import ParamsError
from pipeline.parts.draws import shuffled
from pipeline.parts.images import checked
from pipeline.parts.progress import tracked
from pipeline.protocols import Batch, Samples
from pipeline.samples import normals

BATCH = 32  # images held at a time


@dataclass
class CutPaste:
    """Pastes a rectangle (section 2.2) or a thin turned scar (section 2.3) of an image into the image itself."""

    share: Annotated[float, Gt(0)] = 0.5
    """Synthetic anomalies per normal image; at least one is made."""
    shape: Literal["patch", "scar", "both"] = "both"
    """`both` takes turns by chance."""
    area: tuple[Annotated[float, Gt(0), Le(0.5)], Annotated[float, Gt(0), Le(0.5)]] = (0.02, 0.15)
    """Least and most share of the image that a patch covers."""
    jitter: Annotated[float, Ge(0), Le(1)] = 0.1
    """Most change of brightness, contrast and colour of what is pasted, as a share."""
    seed: Annotated[int, Ge(0)] = 0
    """Of everything random here."""

    def __post_init__(self) -> None:
        if self.area[0] > self.area[1]:
            raise ParamsError(f"augment.area must be [least, most], got {list(self.area)} (params.yaml)")

    def augment(self, train: Samples) -> Iterator[Batch]:
        """Anomalous uint8 images `(n, 3, h, w)` with masks `(n, h, w)`; raises DataError without normals."""
        some = normals(train)
        rng = np.random.default_rng(self.seed)
        made = 0
        order = shuffled(len(some), max(1, round(self.share * len(some))), rng)
        for batch in tracked(some[order].batches(BATCH), -(-len(order) // BATCH), "cutpaste", "batches"):
            images = checked(batch)
            regions = [None] * len(images) if batch.region is None else batch.region
            pasted = [self._paste(image, region, rng) for image, region in zip(images, regions, strict=True)]
            ids = [f"cutpaste-{made + i:04d}" for i in range(len(images))]
            made += len(images)
            x, mask = (np.stack(part) for part in zip(*pasted, strict=True))
            yield Batch(ids, x, np.ones(len(x), np.int8), mask.astype(np.int8), batch.region, batch.category)

    def _paste(
        self, image: np.ndarray, region: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The image `(3, h, w)` with the patch in it, and the mask `(h, w)`: what of the patch lies in the region."""
        _, h, w = image.shape
        scar = self.shape == "scar" or (self.shape == "both" and rng.random() < 0.5)
        height, width, angle = self._scar(h, w, rng) if scar else self._patch(h, w, rng)
        top, left = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
        patch = self._jittered(image[:, top : top + height, left : left + width], rng)
        turned, inside = _turned(patch, angle, (h, w))
        high, wide = inside.shape
        # elsewhere: a place that differs from where the patch was cut, if the image has another
        for _ in range(8):
            y, x = self._place((h, w), (high, wide), region, rng)
            if (y, x) != (top, left):
                break
        if region is not None:
            inside = inside & region[y : y + high, x : x + wide]
        out, mask = image.copy(), np.zeros((h, w), bool)
        mask[y : y + high, x : x + wide] = inside
        out[:, y : y + high, x : x + wide] = np.where(inside, turned, out[:, y : y + high, x : x + wide])
        return out, mask

    def _place(
        self, size: tuple[int, int], box: tuple[int, int], region: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[int, int]:
        """Top and left of a box of (h, w) pixels; in a region, its middle is a pixel of that if edges let it."""
        if region is None or not region.any():
            return int(rng.integers(size[0] - box[0] + 1)), int(rng.integers(size[1] - box[1] + 1))
        inside = np.flatnonzero(region)
        row, column = divmod(int(inside[rng.integers(len(inside))]), size[1])
        return (
            int(np.clip(row - box[0] // 2, 0, size[0] - box[0])),
            int(np.clip(column - box[1] // 2, 0, size[1] - box[1])),
        )

    def _patch(self, h: int, w: int, rng: np.random.Generator) -> tuple[int, int, float]:
        """Height and width in pixels, and an angle of 0. Aspect ratio 0.3 to 3.3, as in the paper."""
        area = rng.uniform(*self.area) * h * w
        aspect = np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
        return _pixels(np.sqrt(area * aspect), h), _pixels(np.sqrt(area / aspect), w), 0.0

    def _scar(self, h: int, w: int, rng: np.random.Generator) -> tuple[int, int, float]:
        """Height and width in pixels (the paper's 10-25 by 2-16 of 256), and an angle of -45 to 45 degrees."""
        height, width = rng.uniform(10, 25) * h / 256, rng.uniform(2, 16) * w / 256
        return max(2, _pixels(height, h)), _pixels(width, w), float(rng.uniform(-45, 45))

    def _jittered(self, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        gain = rng.uniform(1 - self.jitter, 1 + self.jitter, (3, 1, 1))
        contrast = rng.uniform(1 - self.jitter, 1 + self.jitter)
        shift = 255 * rng.uniform(-self.jitter, self.jitter)
        middle = patch.mean()
        x = ((patch.astype(np.float32) - middle) * contrast + middle + shift) * gain
        return np.rint(np.clip(x, 0, 255)).astype(np.uint8)


def _pixels(length: float, most: int) -> int:
    return int(np.clip(round(length), 1, most))


def _turned(patch: np.ndarray, angle: float, most: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """`patch` `(3, h, w)` turned by `angle` degrees in a box that just holds it, and where in the box it is.

    Nearest neighbour, so the tones stay those of the patch; the box is cut to `most`."""
    if angle == 0:
        return patch, np.ones(patch.shape[1:], bool)
    _, h, w = patch.shape
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    high = min(most[0], int(np.ceil(abs(h * cos) + abs(w * sin) - 1e-9)))
    wide = min(most[1], int(np.ceil(abs(w * cos) + abs(h * sin) - 1e-9)))
    y, x = np.mgrid[:high, :wide] + 0.5
    y, x = y - high / 2, x - wide / 2
    row = np.floor(cos * y - sin * x + h / 2).astype(int)
    column = np.floor(sin * y + cos * x + w / 2).astype(int)
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    return patch[:, row.clip(0, h - 1), column.clip(0, w - 1)], inside
