"""INP-Former: an image's tokens are rebuilt from the few normal prototypes that it holds itself.

Luo, Cao, Yao, Zhang, Lou, Cheng, Shen and Yu (CVPR 2025), "Exploring Intrinsic Normal Prototypes within a Single Image
for Universal Anomaly Detection", https://arxiv.org/abs/2503.02424.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import ParamsError
from pipeline.parts import features, nets, regions, tokens
from pipeline.parts.attention import MLP, Attention
from pipeline.parts.backbones import at_depths
from pipeline.parts.copies import filled
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
WARM = 0.01  # share of the steps in which the rate rises
LEAST = 0.1  # of the rate at the end
CLIP = 0.1  # largest norm of a step's gradient
TOP = 0.01  # share of the map whose mean is the image's score


@dataclass
class InpFormer:
    """Learned queries gather an image's tokens into prototypes, each a weighted mean of tokens; a decoder that looks at
    these alone, and hands no token on, rebuilds the tokens, and what no prototype is like is rebuilt badly.

    The paper's prototypes pass a value projection, and its queries and an MLP are added to them; here they stay within
    the tokens, so that distances to them mean the same for images of any kind, and learned vectors and an MLP are added
    on their way to the decoder. A ViT's middle blocks make the groups that are rebuilt; of a
    CNN each level is one. Channels are divided by their root mean square (the paper's as they come); tokens of which
    next to nothing is seen, as of black, count as alike. In place of the paper's StableAdamW: AdamW with AMSGrad,
    gradients clipped."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.02424"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose tokens are rebuilt; without `levels` the middle two thirds of a ViT's blocks (the paper's DINOv2)."""
    groups: Annotated[int, Ge(1)] = 2
    """Groups of a ViT's blocks whose means are rebuilt (the paper's 2)."""
    patch: Annotated[int, Ge(1)] = 8
    """Pixels across and down behind a token where levels differ in resolution, a CNN's (a ViT has its own, the paper's
    14 of 392); smaller is slower by the square and sees smaller defects, down to the finest level."""
    prototypes: Annotated[int, Ge(1)] = 6
    """Prototypes of an image (the paper's 6); more tell more kinds of normal apart, and hold more of a defect."""
    width: Annotated[int, Ge(1)] = 64
    """Channels of the decoder (the paper's 768, those of its backbone); time grows with its square."""
    depth: Annotated[int, Ge(1)] = 4
    """Blocks of the decoder (the paper's 8); the latter ones rebuild the earlier levels."""
    heads: Annotated[int, Ge(1)] = 4
    """Attention heads of the decoder (the paper's 12); must divide `width`."""
    residual: bool = False
    """Whether the decoder's attention adds to the tokens that look, which hands odd ones on; the paper leaves that
    out."""
    coherence: Annotated[float, Ge(0)] = 0.2
    """Weight of the loss that draws each token to its nearest prototype (the paper's 0.2)."""
    gamma: Annotated[float, Ge(0)] = 3.0
    """Exponent of the soft mining: larger teaches more by what is rebuilt badly (the paper's 3); 0 by all alike."""
    zero_shot: bool = False
    """Score by the distance of each token to the nearest prototype of its own image instead of by the decoder: for
    categories that training did not show, whose tokens the decoder never learned to rebuild; weak where an
    object has rare parts of its own, which are far from all prototypes, too."""
    steps: Annotated[int, Ge(1)] = 300
    """Optimiser steps (the paper's 200 epochs)."""
    batch: Annotated[int, Ge(1)] = 8
    """Images per step (the paper's 16)."""
    rate: Annotated[float, Gt(0), Le(1)] = 2e-3
    """Learning rate at its highest (the paper's 1e-3), falling along a cosine to a tenth."""
    least: Annotated[int, Ge(1)] = 32
    """Images that training has at least of each category: fewer are filled up with mirrored, turned and moved copies,
    as the paper does with few; 1 takes them as they come."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of features held in half precision during fit; of more images than it holds, as many as it
    does are drawn."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 256
    """Sigma of the blur of the map, as a share of the image's shorter side (the paper's 4 of 256 pixels)."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the copies and the images drawn."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []
        if self.width % self.heads:
            raise ParamsError(f"inpformer.heads must divide width = {self.width}, got {self.heads}")

    def fit(self, train: Samples) -> Self:
        """Train on the normal images of `train`, uint8 `(n, 3, h, w)`; one is enough.

        Raises DataError for images of differing sizes, a backbone that gives no tokens, or when `cache` does not hold
        one image."""
        some = filled(normals(train), self.least, self.seed)
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
        with seeded(self.seed):
            net = self._net([len(scale) for scale in self.scale_]).to(where).train()
        optimiser = torch.optim.AdamW(net.parameters(), self.rate, weight_decay=1e-4, amsgrad=True, eps=1e-10)
        schedule = nets.warm_cosine(optimiser, self.steps, round(WARM * self.steps), LEAST)

        def losses(drawn: tuple[list[Tensor], list[Tensor]]) -> dict[str, Tensor]:
            maps, (inside, *_) = drawn
            maps = tokens.scaled(maps, self.scale_)
            made, near = net(maps, inside)
            pairs = zip(maps, made, strict=True)
            found = [soft_mined(wanted, each.float(), inside, self.gamma) for wanted, each in pairs]
            return {"rebuilt": torch.stack(found).mean(), "coherence": self.coherence * near[inside].mean()}

        draws = held.draws(self.steps, self.batch, rng, where)
        history = nets.train(optimiser, draws, self.steps, losses, schedule, CLIP)
        self.net_, self.size_, self.hash_, self.history_ = nets.frozen(net), held.size, self._features.hash, history
        return self

    def score(self, batch: Batch) -> Scores:
        """Maps `(n, h, w)` of cosine distances, 0 to 2: of the groups from what the decoder makes of them, the mean, or
        of the tokens from the nearest prototype; scores `(n,)`, the mean of the largest hundredth of the map."""
        must_be_fitted(self, "net_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            maps = tokens.patched(self._features.maps(images), self.groups, self.size_, self.patch)
            maps = tokens.scaled(maps, self.scale_)
            inside = counted(batch, maps[0].shape[2:], maps[0].device)
            made, odd = self.net_(maps, inside)
            if not self.zero_shot:
                pairs = zip(maps, made, strict=True)
                odd = torch.stack([tokens.apart(wanted, each, inside) for wanted, each in pairs]).mean(dim=0)
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

    def _net(self, channels: list[int]) -> "Net":
        return Net(channels, self.prototypes, self.width, self.depth, self.heads, self.residual)


class Extractor(nn.Module):
    """Learned queries that gather tokens of `channels` into as many `prototypes` (INP Extractor)."""

    def __init__(self, channels: int, prototypes: int) -> None:
        super().__init__()
        self.wanted = nn.Parameter(torch.randn(prototypes, channels))
        self.norm = nn.LayerNorm(channels)
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels)
        for layer in (self.query, self.key):
            nn.init.orthogonal_(layer.weight)  # so that the first prototypes differ

    def forward(self, x: Tensor, inside: Tensor) -> Tensor:
        """Prototypes `(n, m, c)` of tokens `(n, t, c)`: convex combinations of those that `inside`, bool `(n, t)`."""
        odds = self.query(self.wanted) @ self.key(self.norm(x)).mT / x.shape[-1] ** 0.5  # (n, m, t)
        shares = odds.float().masked_fill(~inside[:, None], -torch.inf).softmax(dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            return shares @ x.float()


class Guided(nn.Module):
    """A block of the decoder: tokens look at prototypes, then an MLP (INP-Guided Decoder)."""

    def __init__(self, width: int, heads: int, residual: bool) -> None:
        super().__init__()
        self.residual, self.norm = residual, nn.LayerNorm(width)
        self.attention, self.after, self.mlp = (
            Attention(width, heads, "relu"),
            nn.LayerNorm(width),
            MLP(width, 4 * width),
        )

    def forward(self, x: Tensor, prototypes: Tensor) -> Tensor:
        seen = self.attention(self.norm(x), self.norm(prototypes))
        x = x + seen if self.residual else seen
        return x + self.mlp(self.after(x))


class Net(nn.Module):
    """Extractor, bottleneck and decoder over groups of `channels`; linear maps at either end where these are not
    `width`."""

    def __init__(
        self, channels: list[int], prototypes: int, width: int, depth: int, heads: int, residual: bool
    ) -> None:
        super().__init__()
        self.alike = len(set(channels)) == 1
        entering = channels[0] if self.alike else sum(channels)
        self.extract = Extractor(entering, prototypes)
        self.enter = nn.Identity() if entering == width else nn.Linear(entering, width)
        self.own, self.norm = nn.Parameter(torch.randn(prototypes, width)), nn.LayerNorm(width)
        self.mlp, self.bottleneck = MLP(width, 4 * width), MLP(width, 4 * width)
        self.blocks = nn.ModuleList([Guided(width, heads, residual) for _ in range(depth)])
        self.leave = nn.ModuleList([nn.Identity() if c == width else nn.Linear(width, c) for c in channels])

    def forward(self, groups: list[Tensor], inside: Tensor) -> tuple[list[Tensor], Tensor]:
        """Groups `(n, c, h, w)` rebuilt, of the same shapes, and the distance `(n, h, w)` of each token to its nearest
        prototype; the prototypes are of the tokens `inside`, bool `(n, h, w)`."""
        seen = tokens.tokens(torch.stack(groups).mean(dim=0) if self.alike else torch.cat(groups, dim=1))
        prototypes = self.extract(seen, inside.flatten(1))
        near = nearest(seen, prototypes, inside.flatten(1)).view_as(inside)
        prototypes = self.enter(prototypes) + self.own
        prototypes = prototypes + self.mlp(self.norm(prototypes))
        x, found = self.bottleneck(self.enter(seen)), []
        for block in self.blocks:
            x = block(x, prototypes)
            found.append(x)
        runs = reversed(tokens.runs(len(found), len(groups)))  # the last blocks rebuild the first group
        made = [leave(tokens.mean_of(found, run)) for leave, run in zip(self.leave, runs, strict=True)]
        return [tokens.laid_out(each, tuple(inside.shape[1:])) for each in made], near


def nearest(x: Tensor, prototypes: Tensor, inside: Tensor) -> Tensor:
    """Cosine distance `(n, t)` of each token `(n, t, c)` to the nearest of its image's prototypes `(n, m, c)`; those of
    which next to nothing is seen are made alike, as by `tokens.apart`. Its mean is the coherence loss.

    In float32: bfloat16 has so few values below 1 that most tokens would have several nearest prototypes."""
    with torch.autocast(x.device.type, enabled=False):
        x, prototypes = x.float(), prototypes.float()
        faint = tokens.FAINT * regions.pooled((x**2).sum(dim=2)[:, None, None], inside[:, None]).sqrt()[:, None]
        x, prototypes = (torch.cat([y, faint.expand(-1, y.shape[1], -1)], dim=2) for y in (x, prototypes))
        return 1 - (F.normalize(x, dim=2) @ F.normalize(prototypes, dim=2).mT).amax(dim=2)


def soft_mined(wanted: Tensor, made: Tensor, inside: Tensor, gamma: float) -> Tensor:
    """The Soft Mining Loss of one group: cosine distance of the whole maps `(n, c, h, w)`, the gradient
    of each point multiplied by its distance over the mean distance of what counts, to the power `gamma`."""
    with torch.no_grad():
        distance = tokens.apart(wanted, made, inside)
        factor = (distance / distance[inside].mean().clamp(min=1e-6)) ** gamma
    return tokens.flat_cosine(wanted, tokens.with_gradient(made, factor[:, None]), inside)
