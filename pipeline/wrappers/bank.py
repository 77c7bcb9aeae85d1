"""A memory bank of normal patches beside a detector: what either finds odd is odd."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt

from pipeline.errors import DataError, NotFittedError
from pipeline.parts import features
from pipeline.parts.coreset import Coreset
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.images import checked
from pipeline.parts.neighbours import Bank
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.protocols import NORMAL, Batch, Samples, Scores, State
from pipeline.wrappers.wrapper import Wrapper

LEVELS = (2, 3)  # of a timm backbone, as in image/patchcore
BATCH = 16  # images looked at together during fit
OWN = "bank/"  # of the wrapper's own arrays


@dataclass
class WithBank(Wrapper):
    """The distance to a coreset of normal patches (as in `image/patchcore`, its largest over the blurred map as image
    score) is added to the detector's scores and maps, each in standard deviations of normals that neither has seen.

    For detectors that learn from labelled anomalies: they know those kinds, the bank knows what is normal."""

    kind: ClassVar[str | None] = "image"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose feature maps make the patches."""
    coreset: Annotated[float, Gt(0), Le(1)] = 0.01
    """Share of all normal patches that the bank keeps."""
    memory: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of patches held during fit."""
    held: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the normals that neither learns from: their scores say how much both vary."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the bank's map, as a share of the image's shorter side."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the normals held out and the coreset."""

    def fit(self, train: Samples) -> Self:
        """Fit the detector and the bank. Raises DataError for fewer than 3 normals, or for images of other sizes."""
        normal = np.flatnonzero(train.label == NORMAL)
        count = max(2, round(self.held * len(normal)))
        if len(normal) <= count:
            raise DataError(f"a bank beside a detector needs at least 3 normal samples, got {len(normal)}")
        apart = np.zeros(len(train), bool)
        apart[np.random.default_rng(self.seed).permutation(normal)[:count]] = True
        self.inner.fit(train[~apart])
        self._features = features.load(self.backbone, LEVELS)
        size = coreset = None
        some = train[~apart & (train.label == NORMAL)]
        for batch in some.batches(BATCH):
            images = checked(batch, size)
            size = images.shape[2:]
            maps = features.patches(self._features.maps(images), batch)
            coreset = coreset or Coreset.within(self.memory, self.coreset, maps.shape, len(some), seed=self.seed)
            coreset.add(maps.permute(0, 2, 3, 1)[counted(batch, maps.shape[2:], maps.device)])
        assert coreset is not None
        self.bank_, self.size_ = coreset.centres(), size
        self._search = Bank(self.bank_)
        self.scales_ = self._scales(train[apart])
        return self

    def score(self, batch: Batch) -> Scores:
        """Sums of standard deviations: scores `(n,)` and maps `(n, h, w)`, the bank's alone where the detector has no
        map."""
        self._fitted()
        (mine, inner), (sample, whole) = self._both(batch), self.scales_
        scores = [(one.sample - mean) / std for one, (mean, std) in zip((mine, inner), sample, strict=True)]
        maps = [(one.local - m) / s for one, (m, s) in zip((mine, inner), whole, strict=True) if one.local is not None]
        return Scores(np.float32(sum(scores)), np.float32(sum(maps)))

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        self._fitted()
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def _both(self, batch: Batch) -> tuple[Scores, Scores]:
        """The bank's scores and the detector's."""
        images = checked(batch, self.size_)
        with torch.inference_mode():
            maps = features.patches(self._features.maps(images), batch)
            inside = counted(batch, maps.shape[2:], maps.device)
            distance = maps.new_zeros(inside.shape)
            distance[inside] = self._search.nearest(maps.permute(0, 2, 3, 1)[inside])[0][:, 0]
            local = enlarged(distance, self.size_, self.smooth, inside)
            sample = largest(local, counted(batch, self.size_, local.device))
        return Scores(sample.cpu().numpy(), local.cpu().numpy()), self.inner.score(batch)

    def _scales(self, normals: Samples) -> np.ndarray:
        """Mean and standard deviation of scores, then of maps, of the bank and of the detector: `(2, 2, 2)`."""
        samples: list[tuple[np.ndarray, ...]] = []
        moments = np.zeros((2, 3))  # of the maps: count, sum, sum of squares
        for batch in normals.batches(BATCH):
            both = self._both(batch)
            samples.append(tuple(one.sample.astype(np.float64) for one in both))
            for which, values in enumerate(_inside(both, batch)):
                moments[which] += len(values), values.sum(), (values**2).sum()
        scores = [np.concatenate(one) for one in zip(*samples, strict=True)]
        mean, square = (moments[:, 1:] / moments[:, :1].clip(1)).T
        spread = np.sqrt((square - mean**2).clip(0))
        found = np.array([[(one.mean(), one.std()) for one in scores], list(zip(mean, spread, strict=True))])
        found[..., 1] = np.where(found[..., 1] > 1e-12, found[..., 1], 1.0)  # what does not vary is left as it is
        return found

    def state(self) -> State:
        self._fitted()
        own = {"bank": self.bank_.cpu().numpy(), "scales": self.scales_, **self._features.arrays()}
        inner = self.inner.state()
        return State(
            inner.arrays | {OWN + name: array for name, array in own.items()},
            {"inner": inner.meta, "size": list(self.size_)},
            inner.estimators,
        )

    def from_state(self, state: State) -> Self:
        own = {name.removeprefix(OWN): array for name, array in state.arrays.items() if name.startswith(OWN)}
        rest = {name: array for name, array in state.arrays.items() if not name.startswith(OWN)}
        self.inner.from_state(State(rest, state.meta["inner"], state.estimators))
        self._features = features.restore(self.backbone, own, LEVELS)
        self.bank_ = torch.from_numpy(np.array(own["bank"])).to(self._features.device)
        self.scales_, self.size_ = np.array(own["scales"]), tuple(state.meta["size"])
        self._search = Bank(self.bank_)
        return self

    def _fitted(self) -> None:
        if not hasattr(self, "scales_"):
            raise NotFittedError("WithBank must be fitted before it can score or be saved")


def _inside(both: tuple[Scores, Scores], batch: Batch) -> Iterator[np.ndarray]:
    """The values of both maps that count, float64."""
    for one in both:
        local = np.zeros(0) if one.local is None else one.local
        yield (local if batch.region is None or one.local is None else local[batch.region]).ravel().astype(np.float64)
