"""More of few images: copies of them mirrored, turned and moved."""

import numpy as np
import pandas as pd

from pipeline.parts.images import checked
from pipeline.protocols import Batch, Samples
from pipeline.samples import View

MOVED = 1 / 8  # share of the shorter side that a copy is moved by at most


def filled(some: Samples, least: int, seed: int) -> Samples:
    """`some` images as they are where there are `least`; else these and, behind them, copies one round after the other
    until there are: mirrored, turned by quarters where they are square, and moved, what lay beyond the edge reflected.
    What counts moves along; the labels stay. Raises DataError for what is no batch of images."""
    if len(some) >= least:
        return some
    (batch,) = some.batches(len(some))
    images, rng = checked(batch), np.random.default_rng(seed)
    region = np.ones((len(batch), *images.shape[2:]), bool) if batch.region is None else batch.region
    layers = np.concatenate([images, region[:, None]], axis=1).astype(np.uint8)  # (n, 4, h, w)
    at = np.arange(least) % len(batch)
    moved = np.stack([layers[i] if n < len(batch) else copied(layers[i], rng) for n, i in enumerate(at)])
    rows = some.rows.iloc[at].assign(copy=np.arange(least))
    category = None if batch.category is None else [batch.category[i] for i in at]

    def read(wanted: pd.DataFrame) -> Batch:
        which = wanted["copy"].to_numpy()
        return Batch(
            wanted["id"].tolist(),
            moved[which, :3],
            batch.label[at[which]],
            region=None if batch.region is None else moved[which, 3].astype(bool),
            category=None if category is None else [category[i] for i in which],
        )

    return View(rows, read)


def copied(layers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`layers` `(c, h, w)` mirrored, turned and moved at random, of the same shape."""
    h, w = layers.shape[1:]
    if h == w:
        layers = np.rot90(layers, int(rng.integers(4)), axes=(1, 2))
    layers = layers[:, :: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    most = int(MOVED * min(h, w))
    down, across = rng.integers(0, 2 * most + 1, size=2)
    padded = np.pad(layers, ((0, 0), (most, most), (most, most)), mode="reflect")
    return padded[:, down : down + h, across : across + w]
