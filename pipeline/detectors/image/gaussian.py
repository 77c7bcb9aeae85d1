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
from tqdm import tqdm

from pipeline.errors import DataError, NotFittedError
from pipeline.parts import features
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.images import checked
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
        size, pooled, local = None, [], []
        with tqdm(total=len(some), desc="features", unit="image", mininterval=1.0) as bar:
            for batch in some.batches(BATCH):
                images = checked(batch, size)
                size = images.shape[2:]
                levels = self._features.maps(images)
                pooled.append([_pool(level) for level in levels])
                if self.maps:
                    local.append([_drawn(level, share, rng) for level in levels])
                bar.update(len(batch))
        self.pooled_ = [self._normal(np.concatenate(x)) for x in zip(*pooled, strict=True)]
        self.local_ = [self._normal(np.concatenate(x)) for x in zip(*local, strict=True)]
        self.size_, self.hash_ = size, self._features.hash
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` in standard deviations, summed over levels; maps `(n, h, w)` only with `maps`."""
        self._fitted()
        images = checked(batch, self.size_)
        levels = self._features.maps(images)
        sample = sum(_mahalanobis(_pool(level), *normal) for level, normal in zip(levels, self.pooled_, strict=True))
        return Scores(np.asarray(sample, np.float32), self._map(levels) if self.maps else None)

    def state(self) -> State:
        self._fitted()
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
        return self

    def _fitted(self) -> None:
        if not hasattr(self, "pooled_"):
            raise NotFittedError("Gaussian must be fitted before it can score or be saved")

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

    def _map(self, levels: list[Tensor]) -> np.ndarray:
        total = torch.zeros(len(levels[0]), 1, *self.size_)
        for level, normal in zip(levels, self.local_, strict=True):
            n, _, h, w = level.shape
            distance = torch.from_numpy(_mahalanobis(_positions(level).reshape(n * h * w, -1), *normal)).float()
            total += F.interpolate(distance.view(n, 1, h, w), self.size_, mode="bilinear", align_corners=False)
        return total[:, 0].numpy()


def _pool(level: Tensor) -> np.ndarray:
    """Global average of every map: `(n, c, h, w)` to float64 `(n, c)`."""
    return level.double().mean(dim=(2, 3)).cpu().numpy()


def _positions(level: Tensor) -> np.ndarray:
    """`(n, c, h, w)` to float64 `(n, h w, c)`."""
    return level.double().flatten(2).permute(0, 2, 1).cpu().numpy()


def _drawn(level: Tensor, share: int, rng: np.random.Generator) -> np.ndarray:
    """At most `share` positions of every image, `(m, c)`."""
    return np.concatenate([rng.permutation(positions)[:share] for positions in _positions(level)])


def _mahalanobis(x: np.ndarray, mean: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    """Distances `(n,)` of the rows of `x` `(n, c)`."""
    return np.linalg.norm((x - mean) @ whitening, axis=1)
