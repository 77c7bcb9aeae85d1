"""Gaussian: Mahalanobis distance of pooled deep features to the normals, summed over levels.

Rippel, Mertens and Merhof (ICPR 2020), "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for
Anomaly Detection", https://arxiv.org/abs/2005.14140. The optional map is ours, not the paper's.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from sklearn.covariance import ledoit_wolf
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts import features
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.images import checked
from pipeline.parts.progress import Progress
from pipeline.parts.regions import counted, enlarged, pooled
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

BATCH = 16  # images looked at together during fit
POSITIONS = 20_000  # at most, behind the map's Gaussians

Normal = tuple[np.ndarray, np.ndarray]  # mean (c,) and whitening (c, k): |(x - mean) @ whitening| is Mahalanobis


@dataclass
class Gaussian:
    """One Gaussian per feature level, its covariance shrunk after Ledoit and Wolf."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2005.14140"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose feature maps are pooled; without levels, all of them as in the paper."""
    reduce: Literal["none", "pca", "npca"] = "none"
    """`pca` keeps the components of most variance, `npca` (the paper's negated PCA) those of least."""
    variance: Annotated[float, Gt(0), Lt(1)] = 0.99
    """Share of variance that `pca` keeps and `npca` leaves out; unused by `none`."""
    maps: bool = False
    """Also give a map: Mahalanobis distance at every position to one Gaussian for all positions. Ours."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the positions behind the maps."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Fit to the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError for fewer than two normals, normals that are all alike, or images of differing sizes."""
        some = normals(train)
        if len(some) < 2:
            raise DataError("a Gaussian needs at least 2 normal samples to have a spread, got 1")
        rng = np.random.default_rng(self.seed)
        self._features = features.load(self.backbone)
        share = max(1, POSITIONS // len(some))
        size, means, local = None, [], []
        with Progress(len(some), "features", "images") as bar:
            for batch in some.batches(BATCH):
                images = checked(batch, size)
                size = images.shape[2:]
                levels = self._features.maps(images)
                means.append([_pooled(level, batch) for level in levels])
                if self.maps:
                    local.append([_drawn(level, batch, share, rng) for level in levels])
                bar.update(len(batch))
        self.pooled_ = [self._normal(np.concatenate(x)) for x in zip(*means, strict=True)]
        self.local_ = [self._normal(np.concatenate(x)) for x in zip(*local, strict=True)]
        self.size_, self.hash_ = size, self._features.hash
        self._prepare()
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` in standard deviations, summed over levels; maps `(n, h, w)` only with `maps`."""
        must_be_fitted(self, "pooled_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            levels = self._features.maps(images)
            sample = np.zeros(len(batch))
            for level, (mean, whitening) in zip(levels, self.pooled_, strict=True):
                sample += np.linalg.norm((_pooled(level, batch) - mean) @ whitening, axis=1)
            return Scores(sample.astype(np.float32), self._map(levels, batch).cpu().numpy() if self.maps else None)

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "pooled_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    @property
    def degrees(self) -> tuple[int, ...]:
        """Degrees of freedom of the chi-square distribution that squared distances of each level follow if features
        are Gaussian (section 3.3)."""
        must_be_fitted(self, "pooled_")
        return tuple(whitening.shape[1] for _, whitening in self.pooled_)

    def state(self) -> State:
        must_be_fitted(self, "pooled_")
        arrays = self._features.arrays()
        for kind, gaussians in (("pooled", self.pooled_), ("local", self.local_)):
            for i, (mean, whitening) in enumerate(gaussians):
                arrays[f"{kind}.{i}.mean"], arrays[f"{kind}.{i}.whitening"] = mean, whitening
        return State(arrays, {"size": list(self.size_), "levels": len(self.pooled_), "weights_sha256": self.hash_})

    def from_state(self, state: State) -> Self:
        def taken(kind: str) -> list[Normal]:
            names = [f"{kind}.{i}" for i in range(state.meta["levels"])]
            return [(state.arrays[f"{name}.mean"], state.arrays[f"{name}.whitening"]) for name in names]

        self._features = features.restore(self.backbone, state.arrays)
        self.pooled_ = taken("pooled")
        self.local_ = taken("local") if self.maps else []
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        self._prepare()
        return self

    def _normal(self, x: np.ndarray) -> Normal:
        """The Gaussian of the rows of `x` `(n, c)`, in the components that `reduce` keeps."""
        mean = x.mean(axis=0)
        centred = x - mean
        if np.abs(centred).max() <= 1e-6 * np.abs(mean).max():  # equal images differ by float32 rounding at most
            raise DataError("the normal samples must differ from each other, got only copies of one image")
        kept = self._components(centred)
        covariance, _ = ledoit_wolf(centred @ kept, assume_centered=True)
        spread, axes = np.linalg.eigh(covariance)
        spread = np.maximum(spread, 1e-12 * spread.max())  # rounding may leave a flat direction at or below zero
        return mean, kept @ (axes / np.sqrt(spread))

    def _components(self, centred: np.ndarray) -> np.ndarray:
        """Orthonormal columns `(c, k)`."""
        if self.reduce == "none":
            return np.eye(centred.shape[1])
        spread, axes = np.linalg.eigh(centred.T @ centred / len(centred))
        spread, axes = spread[::-1].clip(0), axes[:, ::-1]  # most variance first
        held = np.cumsum(spread) / spread.sum()
        count = min(int(np.searchsorted(held, self.variance)) + 1, len(spread))
        if self.reduce == "pca":
            return axes[:, :count]
        return axes[:, min(count, len(spread) - 1) :]

    def _prepare(self) -> None:
        """The map's Gaussians as 1 x 1 convolutions of centred features."""
        where = self._features.device
        self._convolutions = [
            (torch.from_numpy(mean).to(where, torch.float32), torch.from_numpy(whitening.T).to(where, torch.float32))
            for mean, whitening in self.local_
        ]

    def _map(self, levels: list[Tensor], batch: Batch) -> Tensor:
        """`(n, h, w)`: distances at every position, enlarged and summed over levels."""
        total = torch.zeros((len(batch), *self.size_), device=levels[0].device)
        for level, (mean, whitening) in zip(levels, self._convolutions, strict=True):
            distance = F.conv2d(level - mean[:, None, None], whitening[:, :, None, None]).norm(dim=1)
            total += enlarged(distance, self.size_, 0.0, counted(batch, distance.shape[1:], distance.device))
        return total


def _pooled(level: Tensor, batch: Batch) -> np.ndarray:
    """Average of every map over what counts: `(n, c, h', w')` to float64 `(n, c)`."""
    if batch.region is None:
        return level.mean(dim=(2, 3)).double().cpu().numpy()
    return pooled(level, counted(batch, level.shape[2:], level.device)).double().cpu().numpy()


def _drawn(level: Tensor, batch: Batch, share: int, rng: np.random.Generator) -> np.ndarray:
    """At most `share` of the positions that count of every image, float64 `(m, c)`."""
    inside = counted(batch, level.shape[2:], level.device)
    each = [one[:, counts].T.double().cpu().numpy() for one, counts in zip(level, inside, strict=True)]
    return np.concatenate([rng.permutation(positions)[:share] for positions in each])
