"""PatchCore: distance of each patch to a small bank of normal patches.

Roth, Pemula, Zepeda, Schölkopf, Brox and Gehler (CVPR 2022), "Towards Total Recall in Industrial Anomaly
Detection", https://arxiv.org/abs/2106.08265.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts import features
from pipeline.parts.coreset import Coreset
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.images import checked
from pipeline.parts.moments import Covariance
from pipeline.parts.neighbours import Bank
from pipeline.parts.progress import Progress
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (2, 3)  # of a timm backbone, as in the paper, section 4.1
BATCH = 16  # images looked at together during fit
LOOKED_AT = 64  # images at most behind the whitening


@dataclass
class PatchCore:
    """Memory bank of normal patches, thinned to a coreset; an image is as odd as its oddest patch."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2106.08265"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose feature maps make the patches."""
    coreset: Annotated[float, Gt(0), Le(1)] = 0.01
    """Share of all normal patches that the bank keeps (the paper's 1 %; its best figures have 25 %); smaller is faster
    and coarser."""
    memory: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of patches held during fit; where it does not hold them all, the coreset is chosen in parts,
    and the bank is at most a third of it."""
    neighbours: Annotated[int, Ge(1)] = 9
    """Bank patches that weigh the image score (b in equation 7); 1 leaves the score unweighted."""
    image_score: Literal["patch", "map"] = "patch"
    """`patch`: the distance of the oddest patch, weighted (the paper's). `map`: the largest value of the map, which is
    blurred, so that a defect must be odd over more than one patch; calmer on textures."""
    whiten: Annotated[float, Gt(0)] | None = None
    """Stretches patches until their principal components vary alike, so that distances are Mahalanobis distances: all
    variances are raised by this share of their mean first, so that less, such as 0.1, stretches more; null does not.
    Ours, not the paper's."""
    spacing: Annotated[int, Ge(0)] = 0
    """Distances are divided by the mean distance of the nearest bank patch to so many neighbours of its own, so that
    what is odd among patches that are much alike weighs as much as what is odd among diverse ones (the nearest
    neighbour ratio of Tax and Duin, "Outlier detection using classifier instability", SSPR 1998); 0 does not."""
    projection: Annotated[int, Ge(1)] | None = 128
    """Dimensions of the random projection in which the coreset is chosen; null chooses in full."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side (the paper's 4 of 224 pixels)."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the projection and the coreset's start."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Fill the bank from the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError without normals, for images of differing sizes, or when `memory` does not hold one image."""
        some = normals(train)
        self._features = features.load(self.backbone, LEVELS)
        self.white_ = None if self.whiten is None else self._whitening(some, self.whiten)
        size = coreset = None
        with Progress(len(some), "patches", "images") as bar:
            for batch in some.batches(BATCH):
                images = checked(batch, size)
                size = images.shape[2:]
                maps = self._patches(images, batch)
                coreset = coreset or Coreset.within(
                    self.memory, self.coreset, maps.shape, len(some), self.projection, self.seed
                )
                coreset.add(maps.permute(0, 2, 3, 1)[counted(batch, maps.shape[2:], maps.device)])
                bar.update(len(batch))
        self.bank_, self.size_, self.hash_ = coreset.centres(), size, self._features.hash
        self._prepare()
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)` in units of feature distance, or of the bank's spacing; for images of the
        size of training."""
        must_be_fitted(self, "bank_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            maps = self._patches(images, batch)
            inside = counted(batch, maps.shape[2:], maps.device)
            patches = maps.permute(0, 2, 3, 1)  # (n, h', w', c)
            found, nearest = self._search.nearest(patches[inside])
            distance = patches.new_full(inside.shape, -torch.inf)
            index = torch.zeros(inside.shape, dtype=torch.int64, device=maps.device)
            distance[inside], index[inside] = found[:, 0], nearest[:, 0]
            if self.spacing:
                distance[inside] /= self._apart[index[inside]]
            local = enlarged(distance.masked_fill(~inside, 0), self.size_, self.smooth, inside)
            if self.image_score == "map":
                sample = largest(local, counted(batch, self.size_, local.device))
            else:
                sample, worst = distance.flatten(1).max(dim=1)  # s*, equation 6
                each = torch.arange(len(batch), device=maps.device)
                sample = sample * self._weight(patches.flatten(1, 2)[each, worst], index.flatten(1)[each, worst])
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "bank_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "bank_")
        arrays = {"bank": self.bank_.cpu().numpy(), **self._features.arrays()}
        if self.white_ is not None:
            arrays |= {f"white.{i}": tensor.cpu().numpy() for i, tensor in enumerate(self.white_)}
        return State(arrays, {"size": list(self.size_), "weights_sha256": self.hash_})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        self.bank_ = torch.from_numpy(np.array(state.arrays["bank"])).to(self._features.device)
        white = [torch.from_numpy(np.array(state.arrays[f"white.{i}"])) for i in range(2) if self.whiten is not None]
        self.white_ = tuple(tensor.to(self._features.device) for tensor in white) or None
        self._prepare()
        self.size_ = tuple(state.meta["size"])
        self.hash_ = state.meta["weights_sha256"]
        return self

    def _whitening(self, some: Samples, share: float) -> tuple[Tensor, Tensor]:
        """Mean `(c,)` and whitening `(c, c)` of the patches of at most LOOKED_AT of the images `some`."""
        chosen = np.unique(np.linspace(0, len(some) - 1, LOOKED_AT).round().astype(int))
        covariance = Covariance()
        for batch in some[chosen].batches(BATCH):
            maps = features.patches(self._features.maps(checked(batch)), batch)
            covariance.add(maps.permute(0, 2, 3, 1)[counted(batch, maps.shape[2:], maps.device)])
        mean, scatter = covariance.found()
        variance, axes = torch.linalg.eigh(scatter)
        raised = variance.clamp(min=0) + share * variance.mean()
        if not raised[0] > 0:
            raise DataError("whiten needs patches that differ from each other, got only copies of one")
        return mean.float(), (axes / raised.sqrt()).float()

    def _patches(self, images: np.ndarray, batch: Batch) -> Tensor:
        """Patch features `(n, c, h', w')`, whitened where asked for."""
        maps = features.patches(self._features.maps(images), batch)
        if self.white_ is None:
            return maps
        mean, white = self.white_
        return F.conv2d(maps - mean[:, None, None], white.T[:, :, None, None])

    def _prepare(self) -> None:
        """The bank ready to be searched, and how far each of its patches lies from its own neighbours, `(m,)`."""
        self._search = Bank(self.bank_)
        if self.spacing:
            count = min(self.spacing + 1, len(self.bank_))  # the patch itself is the first
            around = self._search.nearest(self.bank_, count)[0][:, 1:]
            # a bank of one patch knows no spacing; equal patches have none, and lend the least of the others
            apart = around.mean(dim=1) if count > 1 else torch.ones(1, device=self.bank_.device)
            self._apart = apart.clamp(min=float(apart[apart > 0].min()) if (apart > 0).any() else 1.0)

    def _weight(self, patches: Tensor, index: Tensor) -> Tensor:
        """The factor of equation 7 `(n,)`: near 1 where the nearest bank patch m* lies apart from its neighbours.

        `patches` `(n, c)` and `index` `(n,)`: the oddest patch and its m* in the bank."""
        count = min(self.neighbours, len(self.bank_))
        if count == 1:
            return torch.ones_like(patches[:, 0])
        star = (patches - self.bank_[index]).norm(dim=1)
        _, around = self._search.nearest(self.bank_[index], count)  # (n, b), m* among them
        distances = (patches[:, None] - self.bank_[around]).norm(dim=2)
        # exp(s*) over the sum of exponentials, in logarithms: distances may be large. s* is the smallest of them.
        share = torch.exp(star - torch.logsumexp(distances, dim=1))
        return 1 - share.clamp(0, 1)
