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
from tqdm import tqdm

from pipeline.errors import NotFittedError
from pipeline.parts import features
from pipeline.parts.coreset import k_centre_greedy, project
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.filterbank import blur
from pipeline.parts.images import checked
from pipeline.parts.neighbours import nearest
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (2, 3)  # of a timm backbone, as in the paper, section 4.1
BATCH = 16  # images looked at together during fit


@dataclass
class PatchCore:
    """Memory bank of normal patches, thinned to a coreset; an image is as odd as its oddest patch."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2106.08265"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose feature maps make the patches."""
    coreset: Annotated[float, Gt(0), Le(1)] = 0.1
    """Share of the pool of patches that the bank keeps; smaller is faster and coarser."""
    patches: Annotated[int, Ge(1)] = 50_000
    """Most patches in the pool, drawn evenly over the images; bounds memory and time of the fit."""
    neighbours: Annotated[int, Ge(1)] = 9
    """Bank patches that weigh the image score (b in equation 7); 1 leaves the score unweighted."""
    projection: Annotated[int, Ge(1)] | None = 128
    """Dimensions of the random projection in which the coreset is chosen; null chooses in full."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side (the paper's 4 of 224 pixels)."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the patches drawn, the projection and the coreset's start."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Fill the bank from the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError without normals or for images of differing sizes."""
        some = normals(train)
        rng = np.random.default_rng(self.seed)
        self._features = features.load(self.backbone, LEVELS)
        pool, size, seen = [], None, 0
        with tqdm(total=len(some), desc="patches", unit="image", mininterval=1.0) as bar:
            for batch in some.batches(BATCH):
                images = checked(batch, size)
                size = images.shape[2:]
                for patches in self._patches(images):  # (h' w', c)
                    # every image gives an equal share of the limit
                    share = self.patches * (seen + 1) // len(some) - self.patches * seen // len(some)
                    seen += 1
                    if share < len(patches):
                        chosen = np.sort(rng.choice(len(patches), share, replace=False))
                        patches = patches[torch.from_numpy(chosen).to(patches.device)]
                    pool.append(patches.clone())
                bar.update(len(batch))
        everything = torch.cat(pool)
        del pool
        count = max(1, round(self.coreset * len(everything)))
        if count < len(everything):
            searched = everything
            if self.projection is not None and self.projection < everything.shape[1]:
                searched = project(everything, self.projection, self.seed)
            everything = everything[k_centre_greedy(searched, count, int(rng.integers(len(searched))))]
        self.bank_, self.size_, self.hash_ = everything, size, self._features.hash
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)` in units of feature distance, for images of the size of training."""
        self._fitted()
        images = checked(batch, self.size_)
        with torch.inference_mode():
            maps = self._merged(images)
            n, c, h, w = maps.shape
            patches = maps.permute(0, 2, 3, 1).reshape(-1, c)
            distance, index = nearest(patches, self.bank_)
            distance, index = distance.view(n, h * w), index.view(n, h * w)
            worst = distance.argmax(dim=1, keepdim=True)
            sample = distance.gather(1, worst)[:, 0]  # s*, equation 6
            sample = sample * self._weight(patches.view(n, h * w, c), worst[:, 0], index.gather(1, worst)[:, 0], sample)
            local = F.interpolate(distance.view(n, 1, h, w), self.size_, mode="bilinear", align_corners=False)
            local = blur(local, self.smooth * min(self.size_))[:, 0]
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def state(self) -> State:
        self._fitted()
        arrays = {"bank": self.bank_.cpu().numpy(), **self._features.arrays()}
        return State(arrays, {"size": list(self.size_), "weights_sha256": self.hash_})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        self.bank_ = torch.from_numpy(np.array(state.arrays["bank"])).to(self._features.device)
        self.size_ = tuple(state.meta["size"])
        self.hash_ = state.meta["weights_sha256"]
        return self

    def _fitted(self) -> None:
        if not hasattr(self, "bank_"):
            raise NotFittedError("PatchCore must be fitted before it can score or be saved")

    def _merged(self, images: np.ndarray) -> Tensor:
        """Locally aware patch features (equations 1 to 3): `(n, c, h', w')`."""
        return features.merge([features.local_mean(level) for level in self._features.maps(images)])

    def _patches(self, images: np.ndarray) -> Tensor:
        return self._merged(images).flatten(2).permute(0, 2, 1)  # (n, h' w', c)

    def _weight(self, patches: Tensor, worst: Tensor, index: Tensor, star: Tensor) -> Tensor:
        """The factor of equation 7 `(n,)`: near 1 where the nearest bank patch m* lies apart from its neighbours.

        `patches` `(n, p, c)`; `worst`, `index`, `star` `(n,)`: the oddest patch, its m* in the bank, their distance."""
        count = min(self.neighbours, len(self.bank_))
        if count == 1:
            return torch.ones_like(star)
        _, around = nearest(self.bank_[index], self.bank_, count)  # (n, b), m* among them
        oddest = patches[torch.arange(len(patches), device=patches.device), worst]
        distances = (oddest[:, None] - self.bank_[around]).norm(dim=2)
        # exp(s*) over the sum of exponentials, in logarithms: distances may be large. s* is the smallest of them.
        share = torch.exp(star - torch.logsumexp(distances, dim=1))
        return 1 - share.clamp(0, 1)
