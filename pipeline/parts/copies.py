"""More of few images: copies of them mirrored, turned and moved."""

import numpy as np
import pandas as pd

from pipeline.parts.images import checked
from pipeline.protocols import Batch, Samples
from pipeline.samples import View

MOVED = 1 / 8  # share of the shorter side that a copy is moved by at most


def filled(some: Samples, least: int, seed: int) -> Samples:
    """`some` images, and behind them copies of those of each category with fewer than `least`, one round after the
    other until there are: mirrored, turned by quarters where they are square, and moved, what lay beyond the edge
    reflected. What counts moves along; the labels stay. Raises DataError for what is no batch of images."""
    category = some.rows["category"].fillna("").to_numpy() if "category" in some.rows else np.full(len(some), "")
    parts = [np.flatnonzero(category == name) for name in sorted(set(category))]
    places = [own[np.arange(len(own), least) % len(own)] for own in parts if len(own) < least]  # of the copies
    if not places:
        return some
    place, few = np.concatenate(places), np.concatenate([own for own in parts if len(own) < least])
    (batch,) = some[few].batches(len(few))
    images, rng = checked(batch), np.random.default_rng(seed)
    region = np.ones((len(batch), *images.shape[2:]), bool) if batch.region is None else batch.region
    layers = dict(zip(few, np.concatenate([images, region[:, None]], axis=1).astype(np.uint8), strict=True))
    moved = np.stack([copied(layers[i], rng) for i in place])  # (n, 4, h, w)
    rows = pd.concat([some.rows.assign(copy=-1), some.rows.iloc[place].assign(copy=np.arange(len(place)))])
    rows["place"] = np.r_[np.arange(len(some)), place]

    def read(wanted: pd.DataFrame) -> Batch:
        which = wanted["copy"].to_numpy()
        (plain,) = some[wanted["place"].to_numpy()].batches(len(wanted))
        x = np.where(which[:, None, None, None] < 0, plain.x, moved[which, :3])
        inside = None if plain.region is None else np.where(which[:, None, None] < 0, plain.region, moved[which, 3] > 0)
        return Batch(wanted["id"].tolist(), x, plain.label, region=inside, category=plain.category)

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
