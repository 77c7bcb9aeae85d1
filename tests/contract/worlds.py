"""Tiny worlds, one per kind of data, on which every detector, modality and augmenter must behave.

Normals follow one simple law; `planted` anomalies break it plainly. A new kind of data adds one function here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import modalities
from pipeline.params import build
from pipeline.protocols import Batch, Modality, Samples
from pipeline.samples import read_manifest
from pipeline.tables import find


@dataclass(frozen=True)
class World:
    """One kind of data: its modality, training samples (40 normals, 12 labelled anomalies), test samples
    (16 normals, then the planted anomaly last), and ways to spoil a batch, each with a word that the error must say."""

    modality: Modality
    train: Samples
    test: Samples
    spoiled: dict[str, Callable[[Batch], Batch]]


def _image(rng: np.random.Generator, anomalous: bool) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal stripes with noise, uint8 (3, 64, 64); an anomaly carries a bright disc. And its mask, bool (64, 64)."""
    y, x = np.mgrid[:64, :64]
    grey = 110 + 40 * np.sin((x + y + rng.integers(16)) * 2 * np.pi / 16) + rng.normal(0, 4, (64, 64))
    mask = np.zeros((64, 64), bool)
    if anomalous:
        row, column = rng.integers(16, 48, 2)
        mask = (y - row) ** 2 + (x - column) ** 2 < 8**2
        grey = np.where(mask, 245.0, grey)
    return np.repeat(grey[None].clip(0, 255).astype(np.uint8), 3, axis=0), mask


def _images(labels: list[int], seed: int, name: str) -> Batch:
    rng = np.random.default_rng(seed)
    made = [_image(rng, bool(label)) for label in labels]
    ids = [f"{name}-{i:03d}" for i in range(len(labels))]
    return Batch(ids, np.stack([x for x, _ in made]), np.array(labels, np.int8), np.stack([m for _, m in made]))


def _tables(labels: list[int], seed: int, name: str) -> Batch:
    """Two correlated numbers, one independent one and a switch; anomalies lie far from all of them."""
    rng = np.random.default_rng(seed)
    n = len(labels)
    label = np.array(labels, np.int8)
    a = rng.normal(0, 1, n)
    frame = pd.DataFrame(
        {
            "a": a - 8.0 * label,
            "b": a + rng.normal(0, 0.1, n) + 8.0 * label,
            "c": rng.normal(5, 2, n) - 16.0 * label,
            "on": rng.integers(0, 2, n).astype(bool),
        }
    )
    ids = [f"{name}-{i:03d}" for i in range(n)]
    return Batch(ids, frame.set_axis(ids, axis=0), label)


def _with_nan(batch: Batch) -> Batch:
    return replace(batch, x=batch.x.assign(c=np.inf))


SPOILED: dict[str, dict[str, Callable[[Batch], Batch]]] = {
    "image": {
        "uint8": lambda b: replace(b, x=np.full(b.x.shape, np.nan, np.float32)),
        "3": lambda b: replace(b, x=b.x[:, :1]),
    },
    "table": {
        "c": _with_nan,
        "b": lambda b: replace(b, x=b.x.drop(columns="b")),
        "extra": lambda b: replace(b, x=b.x.assign(extra=1.0)),
        "a": lambda b: replace(b, x=b.x.assign(a="text")),
    },
}
MAKERS = {"image": (_images, {"size": [64, 64]}), "table": (_tables, {})}


def world(kind: str, folder: Path) -> World:
    """The tiny world of one kind of data, written under `folder` as the line writes it."""
    make, options = MAKERS[kind]
    modality: Any = build(find(modalities, kind, "kind"), options, "dataset")

    def view(labels: list[int], seed: int, name: str) -> Samples:
        place = folder / name
        place.mkdir(parents=True)
        modality.save([make(labels, seed, name)], place)
        return modality.samples(read_manifest(place))

    return World(
        modality,
        train=view([0] * 40 + [1] * 12, 0, "train"),
        test=view([0] * 16 + [1], 1, "test"),
        spoiled=SPOILED[kind],
    )
