"""Dinomaly: a decoder that cannot copy rebuilds a frozen backbone's features; what it rebuilds badly is odd.

Guo, Lu, Zhang, Chen, Li and Liao (CVPR 2025), "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised
Anomaly Detection", https://arxiv.org/abs/2405.14325.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from pipeline.errors import ParamsError
from pipeline.parts import features, nets, tokens
from pipeline.parts.attention import MLP, Block, Kind
from pipeline.parts.backbones import at_depths
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.held import hold
from pipeline.parts.images import checked
from pipeline.parts.regions import counted, enlarged, top_mean
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (1, 2, 3)  # of a timm CNN: the resolutions nearest to those of a ViT's tokens
DEPTHS = tuple(i / 12 for i in range(3, 11))  # of a ViT: its middle eight blocks of twelve, as in the paper
RAMP = 0.1  # share of the steps over which `discard` rises: the paper's first 1,000 of 10,000
WARM = 0.01  # share of the steps in which the rate rises: the paper's 100
LEAST = 0.1  # of the rate at the end
CLIP = 0.1  # largest norm of a step's gradient
TOP = 0.01  # share of the map whose mean is the image's score


@dataclass
class Dinomaly:
    """Tokens pass a bottleneck with dropout and a decoder of linear attention, which looks everywhere at once, and are
    compared with the backbone's own in groups of levels. One model serves all categories.

    A ViT's middle blocks make the groups; of a CNN each level is one, brought to one grid. Channels are divided by
    their root mean square (the paper's as they come); tokens of which next to nothing is seen, as of black, count as
    alike. In place of the paper's StableAdamW: AdamW with AMSGrad, gradients clipped."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2405.14325"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose tokens are rebuilt; without `levels` the middle two thirds of a ViT's blocks (the paper's DINOv2)."""
    groups: Annotated[int, Ge(1)] = 2
    """Groups of a ViT's blocks whose means are rebuilt (the paper's 2); as many as there are blocks rebuilds each."""
    patch: Annotated[int, Ge(1)] = 8
    """Pixels across and down behind a token where levels differ in resolution, a CNN's (a ViT has its own, the paper's
    14 of 392); smaller is slower by the square and sees smaller defects, down to the finest level."""
    width: Annotated[int, Ge(1)] = 64
    """Channels of the decoder (the paper's 768, those of its backbone); time grows with its square."""
    depth: Annotated[int, Ge(1)] = 4
    """Blocks of the decoder (the paper's 8); the latter ones rebuild the earlier levels."""
    heads: Annotated[int, Ge(1)] = 4
    """Attention heads (the paper's 12); must divide `width`."""
    attention: Literal["linear", "softmax"] = "linear"
    """Of the decoder: `linear` cannot focus, so it cannot hand a token on (the paper's); `softmax` can."""
    drop: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Chance that a value in the bottleneck is dropped in training (the paper's 0.2, 0.4 for many kinds); 0 lets odd
    tokens pass unharmed."""
    discard: Annotated[float, Ge(0), Le(1)] = 0.9
    """Share of a batch's tokens, those rebuilt best, that teach little (the paper's 0.9), reached after a tenth of the
    steps; 0 lets all teach alike."""
    shrink: Annotated[float, Ge(0), Le(1)] = 0.1
    """What is left of the gradient of these (the paper's 0.1)."""
    steps: Annotated[int, Ge(1)] = 300
    """Optimiser steps (the paper's 10,000)."""
    batch: Annotated[int, Ge(1)] = 8
    """Images per step (the paper's 16)."""
    rate: Annotated[float, Gt(0), Le(1)] = 2e-3
    """Learning rate at its highest (the paper's 2e-3), falling along a cosine to a tenth."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of features held in half precision during fit; of more images than it holds, as many as it
    does are drawn."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 256
    """Sigma of the blur of the map, as a share of the image's shorter side (the paper's 4 of 256 pixels)."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the images drawn and the dropout."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []
        if self.width % self.heads:
            raise ParamsError(f"dinomaly.heads must divide width = {self.width}, got {self.heads}")

    def fit(self, train: Samples) -> Self:
        """Train on the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError for images of differing sizes, a backbone that gives no tokens, or when `cache` does not hold
        one image."""
        some = normals(train)
        self._features = features.load(at_depths(self.backbone, DEPTHS), LEVELS)
        held = hold(
            self._features,
            some,
            self.cache,
            self.seed,
            lambda maps, batch: tokens.patched(maps, self.groups, batch.x.shape[2:], self.patch),
        )
        self.scale_ = held.scale
        where, rng = self._features.device, np.random.default_rng(self.seed)
        with seeded(self.seed):  # of dropout, too
            net = self._net([len(scale) for scale in self.scale_]).to(where).train()
            optimiser = torch.optim.AdamW(net.parameters(), self.rate, weight_decay=1e-4, amsgrad=True, eps=1e-10)
            schedule = nets.warm_cosine(optimiser, self.steps, round(WARM * self.steps), LEAST)
            draws = zip(self._rising(), held.draws(self.steps, self.batch, rng, where), strict=True)

            def losses(drawn: tuple[float, tuple[list[Tensor], list[Tensor]]]) -> dict[str, Tensor]:
                discard, (maps, insides) = drawn
                maps = tokens.scaled(maps, self.scale_)
                pairs = zip(maps, net(maps, insides[0]), strict=True)
                found = [loose(wanted, made.float(), insides[0], discard, self.shrink) for wanted, made in pairs]
                return {"loss": torch.stack(found).mean()}

            history = nets.train(optimiser, draws, self.steps, losses, schedule, CLIP)
        self.net_, self.size_, self.hash_, self.history_ = nets.frozen(net), held.size, self._features.hash, history
        return self

    def score(self, batch: Batch) -> Scores:
        """Maps `(n, h, w)` of cosine distances, 0 to 2, the mean of those of the groups; scores `(n,)`, the mean of the
        largest hundredth of the map."""
        must_be_fitted(self, "net_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            maps = tokens.patched(self._features.maps(images), self.groups, self.size_, self.patch)
            maps = tokens.scaled(maps, self.scale_)
            inside = counted(batch, maps[0].shape[2:], maps[0].device)
            pairs = zip(maps, self.net_(maps, inside), strict=True)
            odd = torch.stack([tokens.apart(wanted, made, inside) for wanted, made in pairs]).mean(dim=0)
            local = enlarged(odd, self.size_, self.smooth, inside)
            sample = top_mean(local, counted(batch, self.size_, local.device), TOP)
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "net_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "net_")
        arrays = {f"scale.{i}": scale.cpu().numpy() for i, scale in enumerate(self.scale_)}
        arrays |= {**nets.arrays(self.net_), **self._features.arrays()}
        return State(arrays, {"size": list(self.size_), "weights_sha256": self.hash_, "groups": len(self.scale_)})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(at_depths(self.backbone, DEPTHS), state.arrays, LEVELS)
        where, count = self._features.device, state.meta["groups"]
        self.scale_ = [torch.from_numpy(np.array(state.arrays[f"scale.{i}"])).to(where) for i in range(count)]
        self.net_ = nets.restored(self._net([len(scale) for scale in self.scale_]), state.arrays).to(where)
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        return self

    def _net(self, channels: list[int]) -> "Rebuilder":
        return Rebuilder(channels, self.width, self.depth, self.heads, self.attention, self.drop)

    def _rising(self) -> Iterator[float]:
        """`discard` by step."""
        for step in range(self.steps):
            yield self.discard * min(step / max(RAMP * self.steps, 1), 1)


class Rebuilder(nn.Module):
    """Bottleneck and decoder over groups of `channels`; linear maps at either end where these are not `width`."""

    def __init__(self, channels: list[int], width: int, depth: int, heads: int, kind: Kind, drop: float) -> None:
        super().__init__()
        self.alike = len(set(channels)) == 1
        entering = channels[0] if self.alike else sum(channels)
        self.enter = nn.Identity() if entering == width else nn.Linear(entering, width)
        self.bottleneck = nn.Sequential(nn.Dropout(drop), MLP(width, 4 * width, drop))  # Noisy Bottleneck
        self.blocks = nn.ModuleList([Block(width, heads, kind) for _ in range(depth)])  # Unfocused Linear Attention
        self.leave = nn.ModuleList([nn.Identity() if c == width else nn.Linear(width, c) for c in channels])

    def forward(self, groups: list[Tensor], inside: Tensor) -> list[Tensor]:
        """Groups `(n, c, h, w)` rebuilt, of the same shapes; only tokens `inside`, bool `(n, h, w)`, are looked at."""
        seen = torch.stack(groups).mean(dim=0) if self.alike else torch.cat(groups, dim=1)
        x, found = self.bottleneck(self.enter(tokens.tokens(seen))), []
        for block in self.blocks:
            x = block(x, mask=inside.flatten(1)[:, None, None])
            found.append(x)
        runs = reversed(tokens.runs(len(found), len(groups)))  # the last blocks rebuild the first group
        made = [leave(tokens.mean_of(found, run)) for leave, run in zip(self.leave, runs, strict=True)]
        return [tokens.laid_out(each, tuple(inside.shape[1:])) for each in made]


def loose(wanted: Tensor, made: Tensor, inside: Tensor, discard: float, shrink: float) -> Tensor:
    """The loose loss of one group: cosine distance of the whole maps `(n, c, h, w)`, the gradient of the share
    `discard` of the points that count, those nearest to the wanted over the batch, multiplied by `shrink`."""
    with torch.no_grad():
        distance = tokens.apart(wanted, made, inside)
        easy = distance < torch.quantile(distance[inside], discard)
    factor = torch.where(easy, shrink, 1.0)[:, None]
    return tokens.flat_cosine(wanted, tokens.with_gradient(made, factor), inside)
