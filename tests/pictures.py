"""Small pictures for the tests of image detectors and augmenters: noisy stripes, some with a bright square."""

import numpy as np
import pandas as pd

from pipeline.protocols import Batch, Samples
from pipeline.samples import View

SIDE = 48


def view(
    x: np.ndarray,
    label: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    region: np.ndarray | None = None,
    category: list[str] | None = None,
) -> Samples:
    """Samples over images in memory, all normal unless `label` says otherwise."""
    n = len(x)
    label = np.zeros(n, np.int8) if label is None else label.astype(np.int8)
    mask = np.zeros((n, *x.shape[2:]), np.int8) if mask is None else mask.astype(np.int8)
    rows = pd.DataFrame({"id": [f"s-{i:03d}" for i in range(n)], "label": label, "at": np.arange(n)})
    rows["category"] = [""] * n if category is None else category

    def read(some: pd.DataFrame) -> Batch:
        at = some["at"].to_numpy()
        inside = None if region is None else region[at]
        return Batch(some["id"].tolist(), x[at], label[at], mask[at], inside, some["category"].tolist())

    return View(rows, read)


def stripes(n: int, seed: int) -> np.ndarray:
    """uint8 `(n, 3, SIDE, SIDE)`: diagonal stripes at chance phases, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    grey = 120 + 40 * np.sin((x + y) * 2 * np.pi / 12 + phase) + rng.normal(0, 4, (n, SIDE, SIDE))
    return np.repeat(grey[:, None], 3, axis=1).clip(0, 255).astype(np.uint8)


def planted(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stripes whose last picture carries a bright square, rows 16 to 27 and columns 20 to 31; and the masks."""
    x, mask = stripes(n, seed), np.zeros((n, SIDE, SIDE), bool)
    mask[-1, 16:28, 20:32] = True
    x[-1][:, mask[-1]] = 240
    return x, mask


def whole(samples: Samples) -> Batch:
    """All samples as one batch."""
    return next(iter(samples.batches(len(samples))))
