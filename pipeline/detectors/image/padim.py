"""PaDiM: a Gaussian of deep features at every position; a patch is as odd as its Mahalanobis distance.

Defard, Setkov, Loesch and Audigier (ICPR workshops 2020), "PaDiM: a Patch Distribution Modeling Framework for
Anomaly Detection and Localization", https://arxiv.org/abs/2011.08785.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from pipeline.errors import DataError
from pipeline.parts import features
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.images import checked
from pipeline.parts.progress import Progress
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (1, 2, 3)  # of a timm backbone, as in the paper, section 4.2
BATCH = 16  # images looked at together during fit
CHUNK = 128  # positions whose covariances are factored together
FLOAT = 4  # bytes of a float32
RESOLVED = 1e-5  # share of a position's largest variance below which float32 sums tell nothing


@dataclass
class Padim:
    """One Gaussian per position of the merged feature maps, over the images: for objects that lie alike in each.

    Only positions that count enter the Gaussians. A position that counts in fewer than two training images takes
    the Gaussian pooled over all positions instead. The images are read once, and memory does not grow with them."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2011.08785"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose feature maps are merged at the resolution of the finest."""
    dims: Annotated[int, Ge(1)] = 100
    """Feature dimensions kept, drawn at random (the paper's 100 for ResNet-18, 550 for Wide ResNet-50); all if fewer.
    Time and memory grow with its square."""
    epsilon: Annotated[float, Gt(0)] = 0.01
    """Added to every variance (equation 1), in squared units of the features; larger trusts the covariance less."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side (the paper's 4 of 224 pixels)."""
    memory: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) for all covariances: positions x dims x dims x 4 bytes; what needs more is refused."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the dimensions drawn."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Fit to the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError for fewer than two normals, images of differing sizes, or Gaussians beyond `memory`."""
        some = normals(train)
        if len(some) < 2:
            raise DataError("PaDiM needs at least 2 normal images to have a spread at each position, got 1")
        self._features = features.load(self.backbone, LEVELS)
        size = sums = None
        with Progress(len(some), "features", "images") as bar:
            for batch in some.batches(BATCH):
                images = checked(batch, size)
                if size is None:
                    size = images.shape[2:]
                    channels = sum(level.shape[1] for level in self._features.maps(images[:1]))
                    drawn = np.random.default_rng(self.seed).permutation(channels)[: self.dims]
                    self.chosen_ = np.sort(drawn)
                maps = self._merged(images)
                if sums is None:
                    self._affordable(maps.shape, size)
                    sums = Sums(maps)
                sums.add(maps, counted(batch, maps.shape[2:], maps.device))
                bar.update(len(batch))
        self.mean_, self.whitening_ = sums.gaussians(self.epsilon)
        self.size_, self.hash_ = size, self._features.hash
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)` in standard deviations; the score is the oddest position that counts."""
        must_be_fitted(self, "mean_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            maps = self._merged(images)
            n, _, h, w = maps.shape
            white = torch.bmm(_positions(maps) - self.mean_[:, None], self.whitening_.mT)  # (p, n, d)
            distance = white.norm(dim=2).T.view(n, h, w)  # equation 2
            inside = counted(batch, (h, w), maps.device)
            sample = largest(distance, inside)
            local = enlarged(distance, self.size_, self.smooth, inside)
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "mean_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "mean_")
        rows, columns = torch.tril_indices(*self.whitening_.shape[1:])  # zeros above the diagonal are not stored
        arrays = {
            "mean": self.mean_.cpu().numpy(),
            "whitening": self.whitening_[:, rows, columns].cpu().numpy(),
            "chosen": self.chosen_,
            **self._features.arrays(),
        }
        return State(arrays, {"size": list(self.size_), "weights_sha256": self.hash_})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        where = self._features.device
        self.chosen_ = np.array(state.arrays["chosen"])
        self.mean_ = torch.from_numpy(np.array(state.arrays["mean"])).to(where)
        positions, dims = self.mean_.shape
        rows, columns = torch.tril_indices(dims, dims)
        whitening = torch.zeros(positions, dims, dims)
        whitening[:, rows, columns] = torch.from_numpy(np.array(state.arrays["whitening"]))
        self.whitening_ = whitening.to(where)
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        return self

    def _merged(self, images: np.ndarray) -> Tensor:
        """The chosen dimensions of the merged levels (sections 3.1 and 4.2), `(n, d, h', w')`."""
        kept, start = [], 0
        for level in self._features.maps(images):
            own = self.chosen_[(self.chosen_ >= start) & (self.chosen_ < start + level.shape[1])] - start
            if not kept or len(own):  # the first level gives the resolution, whatever is kept of it
                kept.append(level[:, torch.from_numpy(own).to(level.device)])
            start += level.shape[1]
        return features.merge(kept)

    def _affordable(self, shape: torch.Size, size: tuple[int, int]) -> None:
        """Raises DataError when covariances for maps `(n, d, h', w')` would exceed `memory`."""
        _, dims, h, w = shape
        room, need = self.memory * 10**6, h * w * dims**2 * FLOAT
        if need > room:
            side = (room / need) ** 0.5  # positions grow with the square of the image's sides
            raise DataError(
                f"covariances of {h} x {w} positions in {dims} dims need {need / 1e6:.0f} MB, more than memory ="
                f" {self.memory} allows: at most {int((room / (h * w * FLOAT)) ** 0.5)} dims,"
                f" or images of about {int(size[0] * side)} x {int(size[1] * side)} pixels, would fit"
            )


class Sums:
    """Counts, sums and sums of outer products per position, about a first guess of the means: what a Gaussian needs.

    float32 loses nothing that matters, as the guess lies within the spread of the values."""

    def __init__(self, maps: Tensor) -> None:
        """`maps` `(n, d, h', w')`: the first images, for the guess."""
        x = _positions(maps)
        positions, _, dims = x.shape
        self.guess = x.mean(dim=1)  # (p, d)
        self.count = x.new_zeros(positions)
        self.total = x.new_zeros(positions, dims)
        self.outer = x.new_zeros(positions, dims, dims)

    def add(self, maps: Tensor, inside: Tensor) -> None:
        """Take in `maps` `(n, d, h', w')` where `inside`, bool `(n, h', w')`."""
        weight = inside.flatten(1).T.to(maps.dtype)  # (p, n)
        x = (_positions(maps) - self.guess[:, None]) * weight[:, :, None]
        self.count += weight.sum(dim=1)
        self.total += x.sum(dim=1)
        self.outer.baddbmm_(x.mT, x)

    def gaussians(self, epsilon: float) -> tuple[Tensor, Tensor]:
        """Means `(p, d)` and whitenings `(p, d, d)`, the inverse Cholesky factors of equation 1: |W (x - mean)| is the
        Mahalanobis distance. Works in the memory of the sums, which are gone afterwards."""
        mean = self.guess + self.total / self.count.clamp(min=1)[:, None]
        known, pooled = self.count >= 2, None
        if not known.all():
            pooled = self._pooled(mean)
            mean[~known] = pooled[0].to(mean.dtype)
        for start in range(0, len(mean), CHUNK):
            part = slice(start, start + CHUNK)
            covariance = self._scatter(part) / (self.count[part].double() - 1).clamp(min=1)[:, None, None]
            if pooled is not None:
                covariance[~known[part]] = pooled[1]
            variance = covariance.diagonal(dim1=1, dim2=2)
            variance += (RESOLVED * variance.amax(dim=1, keepdim=True)).clamp(min=epsilon)
            factor = torch.linalg.cholesky(covariance)
            self.outer[part] = torch.linalg.solve_triangular(
                factor, torch.eye(factor.shape[1], dtype=factor.dtype, device=factor.device), upper=False
            ).to(self.outer.dtype)
        return mean, self.outer

    def _scatter(self, part: slice) -> Tensor:
        """Sums of outer products about the means of the positions `part`, float64 `(p, d, d)`."""
        total = self.total[part].double()
        about = total[:, :, None] * total[:, None, :] / self.count[part].double().clamp(min=1)[:, None, None]
        return self.outer[part].double() - about

    def _pooled(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Mean `(d,)` and covariance `(d, d)` over all that was taken in, float64: within and between positions."""
        count, mean = self.count.double()[:, None], mean.double()
        scatter = sum(self._scatter(slice(i, i + CHUNK)).sum(dim=0) for i in range(0, len(mean), CHUNK))
        centre = (mean * count).sum(dim=0) / count.sum()
        apart = mean - centre
        return centre, (scatter + (apart * count).T @ apart) / (count.sum() - 1)


def _positions(maps: Tensor) -> Tensor:
    """`(n, d, h, w)` to `(h w, n, d)`."""
    return maps.flatten(2).permute(2, 0, 1)
