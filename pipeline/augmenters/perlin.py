"""Perlin: foreign textures blended into normal images where Perlin noise is high (see pipeline/parts/perlin.py)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from pipeline.errors import ParamsError
from pipeline.parts.draws import shuffled
from pipeline.parts.images import checked
from pipeline.parts.perlin import blend, foreign, mask
from pipeline.parts.progress import tracked
from pipeline.protocols import Batch, Samples
from pipeline.samples import normals

BATCH = 32  # images held at a time


@dataclass
class Perlin:
    """Blends patches of another normal image, changed beyond recognition, into normal images."""

    share: Annotated[float, Gt(0)] = 0.5
    """Synthetic anomalies per normal image; at least one is made."""
    opacity: tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]] = (0.2, 1.0)
    """Least and most weight of the texture inside the mask; the paper's 1 - beta."""
    finest: Annotated[int, Ge(0), Le(8)] = 5
    """The noise has 1 to 2**finest cells each way; larger gives finer anomalies."""
    seed: Annotated[int, Ge(0)] = 0
    """Of everything random here."""

    def __post_init__(self) -> None:
        if self.opacity[0] > self.opacity[1]:
            raise ParamsError(f"augment.opacity must be [least, most], got {list(self.opacity)} (params.yaml)")

    def augment(self, train: Samples) -> Iterator[Batch]:
        """Anomalous uint8 images `(n, 3, h, w)` with pixel labels `(n, h, w)`; raises DataError without normals."""
        some = normals(train)
        rng = np.random.default_rng(self.seed)
        targets = shuffled(len(some), max(1, round(self.share * len(some))), rng)
        sources = rng.integers(len(some), size=len(targets))
        made = 0
        pairs = zip(some[targets].batches(BATCH), some[sources].batches(BATCH), strict=True)
        for onto, other in tracked(pairs, -(-len(targets) // BATCH), "perlin", "batches"):
            images = checked(onto)
            textures = checked(other, images.shape[2:])
            out, masks = np.empty_like(images), np.empty((len(images), *images.shape[2:]), bool)
            for i, image in enumerate(images):
                masks[i] = mask(image.shape[1:], self.finest, rng, None if onto.region is None else onto.region[i])
                texture = foreign(textures[i], rng)
                out[i] = blend(image, texture, masks[i], float(rng.uniform(*self.opacity)))
            ids = [f"perlin-{made + i:04d}" for i in range(len(images))]
            made += len(images)
            yield Batch(ids, out, np.ones(len(out), np.int8), masks.astype(np.int8), onto.region, onto.category)
