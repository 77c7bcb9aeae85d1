"""STFPM: a student learns the teacher's features of normal images, level by level; elsewhere the two disagree.

Wang, Han, Ding and Huang (BMVC 2021), "Student-Teacher Feature Pyramid Matching for Anomaly Detection",
https://arxiv.org/abs/2103.04257.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.parts import backbones, features, held, nets
from pipeline.parts.backbones import FILTERBANK
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.images import checked
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (1, 2, 3)  # of a timm backbone: conv2_x to conv4_x, as in the paper
MOMENTUM = 0.9  # of SGD, as in the authors' repository
WIDTH = 32  # channels of the student of the filter bank
PROBE = (1, 3, 64, 64)  # shape of the images on which the folded student is compared


@dataclass
class STFPM:
    """A student of the teacher's architecture with random weights, trained to give the teacher's features.

    Features count by their direction alone. The student sees images, so it does at scoring what the teacher does: twice
    the time of the backbone. Of the filter bank, which has no weights to learn, the student is a small network instead:
    two convolutions of stride 2, then two per level, each of 32 channels."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2103.04257"

    backbone: BackboneField = field(default_factory=Backbone)
    """The teacher, and the student's architecture."""
    pyramid: bool = True
    """Whether all levels are matched; without it the coarsest alone."""
    fusion: Literal["product", "sum"] = "product"
    """How the maps of the levels become one: `product` (the paper's), odd where all levels find it so; `sum`, odd where
    any does."""
    steps: Annotated[int, Ge(1)] = 400
    """Optimiser steps. The paper trains for 100 epochs."""
    batch: Annotated[int, Ge(2)] = 4
    """Images per step (the paper's 32); time grows with it."""
    rate: Annotated[float, Gt(0), Le(1)] = 0.4
    """Learning rate of SGD with momentum (the paper's), falling to 0 along half a cosine, where the paper's stays."""
    decay: Annotated[float, Ge(0), Le(1)] = 1e-4
    """Weight decay of SGD (the paper's); larger holds the student's weights smaller."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of images and their teacher's maps held in half precision during fit; of more images than it
    holds, as many as it does are drawn."""
    smooth: Annotated[float, Ge(0), Le(1)] = 0.0
    """Sigma of the blur of each level's map, as a share of the image's shorter side; 0, the paper's, is none."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the student's first weights and the images drawn."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError without normals, for images of differing sizes, or when `cache` does not hold one."""
        some = normals(train)
        self._features = features.load(self.backbone, LEVELS)
        where = self._features.device
        known = held.hold(self._features, some, self.cache, self.seed, with_images)
        self.size_, self.shapes_ = known.size, [tuple(level.shape[1:]) for level in known.levels[1:]]
        net = self._student().to(where, memory_format=torch.channels_last).train()
        optimiser = torch.optim.SGD(net.parameters(), self.rate, momentum=MOMENTUM, weight_decay=self.decay)

        def losses(drawn: tuple[list[Tensor], list[Tensor]]) -> dict[str, Tensor]:
            (images, *taught), (counts, *inside) = drawn
            learnt = net(self._normalised(images, counts))
            found = [apart(one, other)[which] for one, other, which in zip(learnt, taught, inside, strict=True)]
            return {f"level{i}": each.mean() for i, each in enumerate(self._matched(found))}

        draws = known.draws(self.steps, self.batch, np.random.default_rng(self.seed), where)
        schedule = nets.warm_cosine(optimiser, self.steps)
        self.history_ = nets.train(optimiser, draws, self.steps, losses, schedule)
        self.net_, self.hash_ = nets.frozen(net), self._features.hash
        self._prepare()
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)`, the largest of the map that counts, and maps `(n, h, w)`: products or, by `fusion`, sums over
        the levels of half the squared distance of two directions, each from 0 to 2."""
        must_be_fitted(self, "net_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            taught, found = self._features.maps(images), []
            counts = counted(batch, self.size_, self._features.device)
            x = torch.from_numpy(images).to(self._features.device).float()
            for one, other in zip(self._folded(self._normalised(x, counts)), taught, strict=True):
                inside = counted(batch, other.shape[2:], other.device)
                found.append(enlarged(apart(one, other), self.size_, self.smooth, inside))
            levels = torch.stack(self._matched(found))
            local = levels.prod(dim=0) if self.fusion == "product" else levels.sum(dim=0)
            sample = largest(local, counts)
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "net_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "net_")
        meta = {"size": list(self.size_), "shapes": [list(s) for s in self.shapes_], "weights_sha256": self.hash_}
        return State({**nets.arrays(self.net_), **self._features.arrays()}, meta)

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        self.shapes_ = [tuple(shape) for shape in state.meta["shapes"]]
        self.net_ = nets.restored(self._student(), state.arrays).to(self._features.device)
        self._prepare()
        return self

    def _student(self) -> nn.Module:
        """The student with its first weights."""
        if self.backbone.name != FILTERBANK:
            return backbones.architecture(self.backbone, LEVELS, self.seed + 1)[0]  # 0 is a random teacher's
        with seeded(self.seed):
            return Small(self.shapes_, self.size_[0])

    def _matched(self, levels: list[Tensor]) -> list[Tensor]:
        return levels if self.pyramid else levels[-1:]

    def _normalised(self, images: Tensor, counts: Tensor) -> Tensor:
        """Images `(n, 3, h, w)` from 0 to 255 as the teacher takes them, 0 where nothing counts, bool `(n, h, w)`."""
        found = (images * self._features.scale + self._features.shift) * counts[:, None]
        return found.contiguous(memory_format=torch.channels_last)

    def _prepare(self) -> None:
        """The student with its batch norms, where it has any, folded and in channels_last, which is what scores."""
        folded = self.net_
        if any(isinstance(module, nn.BatchNorm2d) for module in folded.modules()):
            probe = torch.rand(PROBE, generator=torch.Generator().manual_seed(0)).to(self._features.device)
            folded = backbones.folded(folded, probe)
        self._folded = (deepcopy(folded) if folded is self.net_ else folded).to(memory_format=torch.channels_last)


class Small(nn.Module):
    """A student for maps of `shapes` of images of so many `rows`, as the filter bank gives them: of stride 4 or 8."""

    def __init__(self, shapes: list[nets.Shape], rows: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nets.convolution(3, WIDTH, stride=2), nets.convolution(WIDTH, WIDTH, stride=2))
        before = [-(-rows // 4), *(h for _, h, _ in shapes[:-1])]
        self.levels = nn.ModuleList(
            [
                nn.Sequential(nets.convolution(WIDTH, WIDTH, stride=1 + (h < above)), nets.convolution(WIDTH, WIDTH))
                for (_, h, _), above in zip(shapes, before, strict=True)
            ]
        )
        self.heads = nn.ModuleList([nn.Conv2d(WIDTH, c, 1) for c, _, _ in shapes])

    def forward(self, x: Tensor) -> list[Tensor]:
        x, found = self.stem(x), []
        for level, head in zip(self.levels, self.heads, strict=True):
            x = level(x)
            found.append(head(x))
        return found


def with_images(maps: list[Tensor], batch: Batch) -> list[Tensor]:
    """The images `(n, 3, h, w)` as a level before the others: half precision holds 0 to 255 as they are."""
    return [torch.from_numpy(batch.x).to(maps[0].device).float(), *maps]


def apart(one: Tensor, other: Tensor) -> Tensor:
    """Half the squared distance of the directions of features `(n, c, h', w')` at each position, `(n, h', w')`:
    1 minus their cosine."""
    return (F.normalize(one.float(), dim=1) - F.normalize(other.float(), dim=1)).square().sum(dim=1) / 2
