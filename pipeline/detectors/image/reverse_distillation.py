"""Reverse distillation: a decoder gives the teacher's features back from a small code that normal images fit into.

Deng and Li (CVPR 2022), "Anomaly Detection via Reverse Distillation from One-Class Embedding",
https://arxiv.org/abs/2201.10703.
"""

from dataclasses import dataclass, field
from math import prod
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts import features, held, nets
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.images import checked
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.parts.tokens import cosine_distance
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (1, 2, 3)  # of a timm backbone, as in the paper
BETAS = (0.5, 0.999)  # of Adam, as in the authors' repository


@dataclass
class ReverseDistillation:
    """A bottleneck fuses the teacher's levels into a code; from this alone a decoder must give all levels back.

    What is odd gets lost in the code, and the decoder makes something normal of the rest. Both work on features, so a
    fit looks at each image once. The paper's blocks are those of its ResNet; ours are sized by the maps at hand."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2201.10703"

    backbone: BackboneField = field(default_factory=Backbone)
    """The teacher, whose levels are given back."""
    code: Annotated[int, Ge(1)] = 64
    """Channels of the code, at half the resolution of the coarsest level; as the paper's, it must have fewer values
    than the levels have together, and smaller lets less pass that is odd."""
    width: Annotated[int, Ge(1)] = 32
    """Channels of the decoder at the finest level, twice as many at each coarser one, and of each level on its way into
    the code; larger is slower by its square."""
    compress: bool = True
    """Whether the code has half the resolution of the coarsest level (the one-class embedding); without it what is odd
    passes more easily."""
    steps: Annotated[int, Ge(1)] = 300
    """Optimiser steps. The paper trains for 200 epochs."""
    batch: Annotated[int, Ge(2)] = 16
    """Images per step (the paper's)."""
    rate: Annotated[float, Gt(0), Le(1)] = 5e-3
    """Learning rate of Adam (the paper's), falling to 0 along half a cosine, where the paper's stays."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of feature maps held in half precision during fit; of more images than it holds, as many as
    it does are drawn."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 256
    """Sigma of the blur of the map, as a share of the image's shorter side (the paper's 4 of 256 pixels)."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights and the images drawn."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError without normals, for images of differing sizes, when `cache` does not hold one, or for a `code`
        that is no smaller than what goes in."""
        some = normals(train)
        self._features = features.load(self.backbone, LEVELS)
        where = self._features.device
        seen = held.hold(self._features, some, self.cache, self.seed, within)
        shapes = [tuple(level.shape[1:]) for level in seen.levels]
        with seeded(self.seed):
            net = Student(shapes, self.code, self.width, self.compress).to(where).train()
        if self.compress and net.values >= sum(map(prod, shapes)):
            most = (sum(map(prod, shapes)) - 1) * self.code // net.values
            raise DataError(
                f"code must be at most {most}, so that it has fewer values than the {sum(map(prod, shapes))} of the"
                f" maps of an image, got {self.code}"
            )
        optimiser = torch.optim.Adam(net.parameters(), self.rate, betas=BETAS)

        def losses(drawn: tuple[list[Tensor], list[Tensor]]) -> dict[str, Tensor]:
            taught, inside = drawn
            pairs = zip(taught, net(taught), inside, strict=True)
            found = [cosine_distance(one, other.float())[counts].mean() for one, other, counts in pairs]
            return {f"level{i}": loss for i, loss in enumerate(found)}

        draws = seen.draws(self.steps, self.batch, np.random.default_rng(self.seed), where)
        schedule = nets.warm_cosine(optimiser, self.steps)
        self.history_ = nets.train(optimiser, draws, self.steps, losses, schedule)
        self.net_, self.shapes_ = nets.frozen(net), shapes
        self.size_, self.hash_ = seen.size, self._features.hash
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)`, the largest of the map that counts, and maps `(n, h, w)`: 1 minus the cosine of what the
        teacher and the decoder give, summed over the levels."""
        must_be_fitted(self, "net_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            taught = within(self._features.maps(images), batch)
            local = torch.zeros((len(batch), *self.size_), device=self._features.device)
            for one, other in zip(taught, self.net_(taught), strict=True):
                inside = counted(batch, one.shape[2:], one.device)
                local += enlarged(cosine_distance(one, other), self.size_, self.smooth, inside)
            sample = largest(local, counted(batch, self.size_, local.device))
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
        net = Student(self.shapes_, self.code, self.width, self.compress)
        self.net_ = nets.restored(net, state.arrays).to(self._features.device)
        return self


class Student(nn.Module):
    """The one-class bottleneck and the decoder, for maps of `shapes`, finest first."""

    def __init__(self, shapes: list[nets.Shape], code: int, width: int, compress: bool) -> None:
        super().__init__()
        _, *self.grid = shapes[-1]
        self.enter = nn.ModuleList([self._down(c, h, width) for c, h, _ in shapes])
        joint = width * len(shapes)
        self.fuse = nets.convolution(joint, joint, 1)
        self.embed = nets.Residual(joint, code, stride=1 + compress)
        self.decode = nets.Decoder(code, shapes, width)
        self.values = code * prod(-(-side // (1 + compress)) for side in self.grid)  # of the code of an image

    def _down(self, channels: int, rows: int, width: int) -> nn.Sequential:
        """A level to `width` channels at about the resolution of the coarsest: as many halvings as that takes."""
        halvings = max(0, round(np.log2(rows / self.grid[0])))
        strides = [2] * halvings or [1]
        inputs = [channels, *[width] * (len(strides) - 1)]
        return nn.Sequential(
            *(nets.convolution(c, width, stride=stride) for c, stride in zip(inputs, strides, strict=True))
        )

    def coded(self, levels: list[Tensor]) -> Tensor:
        """The code of the teacher's maps: all that the decoder gets to see."""
        fused = [F.adaptive_avg_pool2d(down(level), self.grid) for down, level in zip(self.enter, levels, strict=True)]
        return self.embed(self.fuse(torch.cat(fused, dim=1)))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return self.decode(self.coded(levels))


def within(levels: list[Tensor], batch: Batch) -> list[Tensor]:
    """Maps in which what does not count is 0, so that it is not in the code either."""
    if batch.region is None:
        return levels
    return [level * counted(batch, level.shape[2:], level.device)[:, None] for level in levels]
