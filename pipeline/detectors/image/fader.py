"""FADeR: inpainting under one mask, and two small layers that keep defects from slipping through it.

Park et al., "Feature Attenuation of Defective Representation Can Resolve Incomplete Masking on Anomaly Detection"
(CVPR workshops 2025), https://arxiv.org/abs/2407.04597; its mask after Park et al., "Excision And Recovery" (2023),
https://arxiv.org/abs/2310.04010. Their host repairs pixels; ours the maps of a pre-trained network, learnt in seconds.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts import features, nets
from pipeline.parts.attenuation import LEAST, Attenuation, error
from pipeline.parts.device import seeded
from pipeline.parts.draws import shuffled
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.held import Held, hold
from pipeline.parts.held_images import shrunk
from pipeline.parts.hourglass import Hourglass
from pipeline.parts.images import checked
from pipeline.parts.moments import standardised
from pipeline.parts.perlin import corrupted
from pipeline.parts.regions import counted, enlarged, largest, pooled
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (2, 3)  # of a timm CNN whose maps are repaired
HOSTS = {"unet": True, "autoencoder": False}  # whether the host hands over maps of every resolution, or the code alone
SHARED = 0.1  # of the spread of all errors, added to that at each position: few images tell little of one
BATCH = 32  # images looked at together
CHANNELS = 16  # of all held maps, summed together: more take more memory
ARRAYS = ("mean", "spread", "place", "due", "varied")  # of the state, beside the weights


@dataclass
class Fader:
    """A host network repairs what one mask covers; what is unlike the normals' mean at its place is covered.

    Defects that the mask misses would be copied. So two layers, trained after the host and without changing it, look at
    each position of the maps that its encoder hands to its decoder and weaken those whose patch came out wrong. What is
    wrong is learned from normals with textures blended in, whose clean twins are known; no label is needed."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2407.04597"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose maps are repaired, all levels at the resolution of the finest."""
    host: Literal["unet", "autoencoder"] = "unet"
    """The network that repairs: with skips between encoder and decoder (the paper's), or without."""
    covered: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Share of the positions that the mask covers, those that stand out most; larger misses less and repairs worse."""
    mosaic: Annotated[int, Ge(0)] = 2
    """Side of the blocks whose mean is the hint under the mask, in positions; 0 leaves the mean of all normals."""
    steps: Annotated[int, Ge(1)] = 200
    """Optimiser steps of the host."""
    attenuating: Annotated[int, Ge(0)] = 100
    """Optimiser steps of the two layers behind it; 0 leaves the host alone."""
    hidden: Annotated[int, Ge(1)] = 32
    """Width between the two layers."""
    tolerated: Annotated[float, Ge(1)] = 1.5
    """Times that a patch's error may exceed what it is without the texture before its features are weakened."""
    opacity: Annotated[float, Ge(0), Le(1)] = 0.2
    """Least opacity of the textures that stand for defects; 1 is the most."""
    usual: bool = True
    """Whether errors are measured in spreads from what is usual of normals at their position; otherwise as they are."""
    batch: Annotated[int, Ge(1)] = 8
    """Images per step."""
    width: Annotated[int, Ge(1)] = 32
    """Channels of the host's first block; they double with each block up to 8 times."""
    depth: Annotated[int, Ge(1), Le(6)] = 2
    """Halvings of the resolution in the host."""
    rate: Annotated[float, Gt(0), Le(1)] = 2e-3
    """Largest learning rate of Adam for the host; it falls along half a cosine."""
    layers_rate: Annotated[float, Gt(0), Le(1)] = 2e-2
    """The same for the two layers, which are small and start wide open."""
    smooth: Annotated[float, Ge(0), Le(1)] = 8 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of maps held during fit; of more images than it holds, as many as it does are drawn."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the order of the images and the textures."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError without normals, for images of differing sizes or of too few positions to halve."""
        some = normals(train)
        self._features = features.load(self.backbone, LEVELS)
        where, rng = self._features.device, np.random.default_rng(self.seed)
        held = hold(self._features, some, self.cache, self.seed, lambda maps, batch: self._twins(maps, batch, rng))
        self.mean_, self.spread_ = held.mean[0], held.spread[0]
        known = self._known(held)
        with seeded(self.seed):
            host, layers = (net.to(where, memory_format=torch.channels_last) for net in self._nets(known.clean.shape))

        def repairing(one: Known) -> dict[str, Tensor]:
            wrong = error(host(self._hidden(one.clean, one.mask)), one.clean)
            return {"repair": pooled(wrong[:, None], one.inside).mean()}

        def attenuating(one: Known) -> dict[str, Tensor]:
            with torch.no_grad():
                due = error(host(self._hidden(one.clean, one.mask)), one.clean)
            asked, left = layers.learned(host, self._hidden(one.twin, one.other), one.clean, due, self.tolerated)
            return {"signal": asked, "left": pooled(left[:, None], one.inside).mean()}

        self.history_ = self._trained(host.train(), known, self.steps, self.rate, rng, repairing)
        nets.frozen(host)
        if self.attenuating:
            more = self._trained(layers.train(), known, self.attenuating, self.layers_rate, rng, attenuating)
            self.history_ += [{**row, "step": row["step"] + self.steps} for row in more]
        self.host_, self.layers_ = host, nets.frozen(layers)
        self.size_, self.hash_ = held.size, self._features.hash
        with torch.inference_mode():
            self._remember(known)
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)`: how unlike its repair an image is, the score where most so."""
        must_be_fitted(self, "host_")
        checked(batch, self.size_)
        with torch.inference_mode():
            maps = self._standard(features.merge(self._features.maps(shrunk(batch)[0])))
            inside = counted(batch, maps.shape[2:], maps.device)
            wrong = self._errors(maps, self._masks(maps, inside))
            wrong = (wrong - self.due_) / self.varied_ if self.usual else wrong
            local = enlarged(wrong, self.size_, self.smooth, inside)
            sample = largest(local, counted(batch, self.size_, local.device))
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """Means of the backbone's features, float32 `(n, d)`, for monitoring."""
        must_be_fitted(self, "host_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "host_")
        own = {name: getattr(self, name + "_").cpu().numpy() for name in ARRAYS}
        arrays = nets.arrays(self.host_, "host.") | nets.arrays(self.layers_, "layers.") | self._features.arrays()
        return State(arrays | own, {"size": list(self.size_), "weights_sha256": self.hash_})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        where = self._features.device
        for name in ARRAYS:
            setattr(self, name + "_", torch.from_numpy(np.array(state.arrays[name])).to(where))
        self.host_, self.layers_ = (
            nets.restored(net, state.arrays, prefix).to(where, memory_format=torch.channels_last)
            for net, prefix in zip(self._nets(self.place_[None].shape), ("host.", "layers."), strict=True)
        )
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        return self

    def _nets(self, shape: torch.Size) -> tuple[Hourglass, Attenuation]:
        """Host and layers for maps of `shape` `(n, c, h', w')`. Raises DataError for maps too small."""
        if min(shape[2:]) < 2 ** (self.depth + 1):
            least = f"at least {2 ** (self.depth + 1)} positions down and across for depth = {self.depth}"
            raise DataError(f"the backbone must give {least}, got {shape[2]} x {shape[3]} of an image")
        host = Hourglass(shape[1], shape[1], self.width, self.depth, HOSTS[self.host])
        return host, Attenuation(host, self.hidden)

    def _twins(self, maps: list[Tensor], batch: Batch, rng: np.random.Generator) -> list[Tensor]:
        """Maps of the images of `batch`, `maps` where all of them counts, and of the same with textures blended in."""
        images, _, inside = shrunk(batch)
        most = (self.opacity, 1.0)
        seen = np.stack([corrupted(images, i, rng, 1.0, most, inside=inside[i])[0] for i in range(len(images))])
        clean = maps if batch.region is None else self._features.maps(images)
        return [features.merge(clean), features.merge(self._features.maps(seen))]

    def _standard(self, maps: Tensor) -> Tensor:
        return standardised(maps.contiguous(memory_format=torch.channels_last), self.mean_, self.spread_)

    def _known(self, held: Held) -> "Known":
        """What training draws from, in the memory of `held`, whose maps it replaces; and what is usual of normals at
        each position."""
        where, counts = self.mean_.device, held.inside[0]
        clean, twin = (self._replaced(level) for level in held.levels)
        weight = counts[:, None].half()
        total = torch.cat([(part * weight).sum(dim=0, dtype=torch.float32) for part in clean.split(CHANNELS, dim=1)])
        self.place_ = (total / weight.sum(dim=0, dtype=torch.float32).clamp(min=1)).to(where)

        def masks(maps: Tensor) -> Tensor:
            parts = zip(maps.split(BATCH), counts.split(BATCH), strict=True)
            return torch.cat([self._masks(x.to(where).float(), inside.to(where)).cpu() for x, inside in parts])

        return Known(clean, twin, masks(clean), masks(twin), counts)

    def _replaced(self, level: Tensor) -> Tensor:
        """Held maps `(n, c, h', w')`, dense and image by image, standardised in their own memory, channels last."""
        _, c, h, w = level.shape
        last = level.as_strided(level.shape, (c * h * w, 1, c * w, c))
        for old, new in zip(level.split(BATCH), last.split(BATCH), strict=True):
            new.copy_(self._standard(old.to(self.mean_.device).float()).half())
        return last

    def _masks(self, maps: Tensor, inside: Tensor) -> Tensor:
        """What is covered, bool `(n, h', w')`: of each image the positions that count and are furthest from the
        normals' mean at the same position; the papers take a DINO ViT's attention."""
        return furthest(error(maps, self.place_), inside, self.covered)

    def _hidden(self, maps: Tensor, mask: Tensor) -> Tensor:
        """Maps `(n, c, h, w)` with a mosaic of them under the mask: the hint of Excision And Recovery."""
        if not self.mosaic:
            return maps * ~mask[:, None]
        blocks = F.avg_pool2d(maps, self.mosaic, ceil_mode=True, count_include_pad=False)
        whole = blocks.repeat_interleave(self.mosaic, dim=2).repeat_interleave(self.mosaic, dim=3)
        return torch.where(mask[:, None], whole[:, :, : maps.shape[2], : maps.shape[3]], maps)

    def _errors(self, maps: Tensor, mask: Tensor) -> Tensor:
        return error(self.host_(self._hidden(maps, mask), self.layers_.weaken if self.attenuating else None), maps)

    def _remember(self, known: "Known") -> None:
        """Mean and spread of the normals' errors at each position, over those that count there."""
        where, parts = self.mean_.device, zip(known.clean.split(BATCH), known.mask.split(BATCH), strict=True)
        wrong = torch.cat([self._errors(maps.to(where).float(), mask.to(where)) for maps, mask in parts])
        weight = known.inside.to(where).float()
        counts = weight.sum(dim=0).clamp(min=1)
        self.due_ = (wrong * weight).sum(dim=0) / counts
        varied = (((wrong - self.due_) ** 2 * weight).sum(dim=0) / counts).sqrt()
        self.varied_ = varied + SHARED * wrong[weight > 0].std(correction=0).clamp(min=LEAST)

    def _trained(
        self, net: nn.Module, known: "Known", steps: int, rate: float, rng: np.random.Generator, losses: "Losses"
    ) -> list[dict[str, float]]:
        def drawn() -> Iterator[Known]:
            for at in shuffled(len(known.clean), steps * self.batch, rng).reshape(steps, -1):
                clean, twin, *masks = (part[torch.from_numpy(at)].to(self.mean_.device) for part in known)
                yield Known(clean.float(), twin.float(), *masks)

        optimiser = torch.optim.Adam(net.parameters(), lr=rate)
        return nets.train(optimiser, drawn(), steps, losses, nets.warm_cosine(optimiser, steps))


class Known(NamedTuple):
    """Standardised maps of normals and of their twins with textures, `(n, c, h', w')`, float16 when held; what is
    covered of each, and what counts, bool `(n, h', w')`."""

    clean: Tensor
    twin: Tensor
    mask: Tensor
    other: Tensor
    inside: Tensor


Losses = Callable[[Known], dict[str, Tensor]]


def furthest(odd: Tensor, inside: Tensor, share: float) -> Tensor:
    """Where the largest `share` of the values of `odd` `(n, h, w)` that count are, bool; the first of equal ones."""
    n, h, w = odd.shape
    rank = odd.masked_fill(~inside, -math.inf).flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    wanted = (inside.flatten(1).sum(dim=1, keepdim=True) * share).round()
    return (rank < wanted).view(n, h, w)
