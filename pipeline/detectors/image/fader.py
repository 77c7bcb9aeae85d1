"""FADeR: inpainting under one mask, and two small layers that keep defects from slipping through it.

Park et al., "Feature Attenuation of Defective Representation Can Resolve Incomplete Masking on Anomaly Detection"
(CVPR workshops 2025), https://arxiv.org/abs/2407.04597; its mask after Park et al., "Excision And Recovery" (2023),
https://arxiv.org/abs/2310.04010. Defaults are for small images on a CPU.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.parts import features, nets
from pipeline.parts.device import seeded
from pipeline.parts.draws import shuffled
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.held_images import Images, hold_images, shrunk, unit
from pipeline.parts.hourglass import Hourglass
from pipeline.parts.images import checked
from pipeline.parts.perlin import corrupted
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.parts.ssim import ssim
from pipeline.parts.tokens import cosine_distance, on_grid
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (2, 3)  # of a timm CNN whose features say what stands out; the papers take the attention of a DINO ViT
HOSTS = {"unet": True, "autoencoder": False}  # whether the host hands over maps of every resolution, or the code alone
LEAST = 1e-3  # error of a patch below which there is nothing to tell
OPEN = 3.0  # logit at which the layers start: nearly all is let through
BATCH = 16  # images whose masks are made together


@dataclass
class Fader:
    """A host network repairs what one mask covers; what a pre-trained network finds odd in the image is covered.

    Defects that the mask misses would be copied. So two layers, trained after the host and without changing it, look at
    each position of the maps that its encoder hands to its decoder and weaken those whose patch came out wrong. What is
    wrong is learned from normals with textures blended in, whose clean twins are known; no label is needed."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2407.04597"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose features say what stands out of an image and is covered."""
    host: Literal["unet", "autoencoder"] = "unet"
    """The network that repairs: with skips between encoder and decoder (the paper's), or without."""
    covered: Annotated[float, Ge(0), Lt(1)] = 0.25
    """Share of the positions that the mask covers, those that stand out most; larger misses less and repairs worse."""
    mosaic: Annotated[int, Ge(0)] = 8
    """Side of the blocks whose mean colour is the hint under the mask, in pixels that the host sees; 0 leaves black."""
    steps: Annotated[int, Ge(1)] = 300
    """Optimiser steps of the host."""
    attenuating: Annotated[int, Ge(0)] = 100
    """Optimiser steps of the two layers behind it; 0 leaves the host alone."""
    hidden: Annotated[int, Ge(1)] = 32
    """Width between the two layers."""
    tolerated: Annotated[float, Ge(1)] = 1.5
    """Times that a patch's error may exceed what it is without the texture before its features are weakened."""
    opacity: Annotated[float, Ge(0), Le(1)] = 0.2
    """Least opacity of the textures that stand for defects; 1 is the most."""
    batch: Annotated[int, Ge(1)] = 8
    """Images per step."""
    width: Annotated[int, Ge(1)] = 16
    """Channels of the host's first block; they double with each block up to 8 times."""
    depth: Annotated[int, Ge(1), Le(6)] = 3
    """Halvings of the resolution in the host."""
    shrink: Annotated[int, Ge(1), Le(8)] = 4
    """Side of the blocks of pixels averaged before the host looks; larger is faster, and blind to finer defects."""
    rate: Annotated[float, Gt(0), Le(1)] = 2e-3
    """Largest learning rate of Adam for the host; it falls along half a cosine."""
    layers_rate: Annotated[float, Gt(0), Le(1)] = 2e-2
    """The same for the two layers, which are small and start wide open."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of images held during fit; of more images than it holds, as many as it does are drawn."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the order of the images and the textures."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on the normal images of `train`, uint8 `(n, 3, h, w)`, at least shrink * 2**(depth + 1) pixels high
        and wide.

        Raises DataError without normals, for images too small or of differing sizes."""
        some = normals(train)
        self._features = features.load(self.backbone, LEVELS)
        where, rng = self._features.device, np.random.default_rng(self.seed)
        held = hold_images(some, self.cache, self.seed, self.shrink, self.shrink * 2 ** (self.depth + 1))
        masks = np.concatenate([self._masks(batch).cpu().numpy() for batch in some[held.at].batches(BATCH)])
        with seeded(self.seed):
            host, layers = (net.to(where, memory_format=torch.channels_last) for net in self._nets())

        def repairing(clean: Tensor, _: Tensor, mask: Tensor) -> dict[str, Tensor]:
            made = host(self._hidden(clean, mask))
            return {"ssim": 1 - ssim(made, clean).mean(), "l2": F.mse_loss(made.float(), clean)}

        drawn = self._drawn(held, masks, self.steps, 0.0, rng, where)
        self.history_ = self._trained(host.train(), self.steps, self.rate, drawn, repairing)
        nets.frozen(host)
        if self.attenuating:

            def attenuating(clean: Tensor, seen: Tensor, mask: Tensor) -> dict[str, Tensor]:
                with torch.no_grad():
                    maps = host.encode(self._hidden(seen, mask))
                    wrong, due = error(host.decode(maps), clean), error(host(self._hidden(clean, mask)), clean)
                signals = []
                for level in host.handed:
                    patches = (F.adaptive_avg_pool2d(x[:, None], maps[level].shape[2:])[:, 0] for x in (wrong, due))
                    logit, share = layers(level, maps[level]).float(), signal(*patches, self.tolerated)
                    signals.append(F.binary_cross_entropy_with_logits(logit, share))
                made = host.decode(maps, layers.weaken)
                return {"signal": torch.stack(signals).mean(), "repair": error(made, clean).mean()}

            drawn = self._drawn(held, masks, self.attenuating, 0.5, rng, where)
            more = self._trained(layers.train(), self.attenuating, self.layers_rate, drawn, attenuating)
            self.history_ += [{**row, "step": row["step"] + self.steps} for row in more]
        self.host_, self.layers_ = host, nets.frozen(layers)
        self.size_, self.hash_ = held.size, self._features.hash
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)`: how unlike its repair an image is, the score where most so."""
        must_be_fitted(self, "host_")
        checked(batch, self.size_)
        with torch.inference_mode():
            mask = self._masks(batch)
            images = unit(shrunk(batch, self.shrink)[0], mask.device)
            change = self.layers_.weaken if self.attenuating else None
            wrong = error(self.host_(self._hidden(images, mask), change), images)
            local = enlarged(wrong, self.size_, self.smooth, counted(batch, wrong.shape[1:], wrong.device))
            sample = largest(local, counted(batch, self.size_, local.device))
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "host_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "host_")
        arrays = nets.arrays(self.host_, "host.") | nets.arrays(self.layers_, "layers.") | self._features.arrays()
        return State(arrays, {"size": list(self.size_), "weights_sha256": self.hash_})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        self.host_, self.layers_ = (
            nets.restored(net, state.arrays, prefix).to(self._features.device, memory_format=torch.channels_last)
            for net, prefix in zip(self._nets(), ("host.", "layers."), strict=True)
        )
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        return self

    def _nets(self) -> tuple[Hourglass, "Layers"]:
        host = Hourglass(3, 3, self.width, self.depth, HOSTS[self.host])
        return host, Layers([host.widths[level] for level in host.handed], host.handed, self.hidden)

    def _masks(self, batch: Batch) -> Tensor:
        """What is covered, bool `(n, h', w')` as the host sees images: of each image the share `covered` of the
        positions that count, those whose features lie furthest, in angle, from the image's mean."""
        with torch.inference_mode():
            levels = on_grid(self._features.maps(shrunk(batch)[0]))
            inside = counted(batch, levels[0].shape[2:], levels[0].device)
            weight = inside[:, None].to(levels[0].dtype)
            means = [(x * weight).sum(dim=(2, 3), keepdim=True) / weight.sum(dim=(2, 3), keepdim=True) for x in levels]
            odd = torch.stack([cosine_distance(x, mean) for x, mean in zip(levels, means, strict=True)]).sum(dim=0)
            covered = furthest(odd, inside, self.covered)
            size = [-(-side // self.shrink) for side in batch.x.shape[2:]]
            return F.interpolate(covered[:, None].float(), size)[:, 0] > 0

    def _hidden(self, images: Tensor, mask: Tensor) -> Tensor:
        """Images `(n, 3, h', w')` with a mosaic of them under the mask: the hint of Excision And Recovery."""
        if not self.mosaic:
            return images * ~mask[:, None]
        blocks = F.avg_pool2d(images, self.mosaic, ceil_mode=True, count_include_pad=False)
        whole = blocks.repeat_interleave(self.mosaic, dim=2).repeat_interleave(self.mosaic, dim=3)
        return torch.where(mask[:, None], whole[:, :, : images.shape[2], : images.shape[3]], images)

    def _drawn(
        self, held: Images, masks: np.ndarray, steps: int, chance: float, rng: np.random.Generator, where: torch.device
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Per step: clean images, the same with a texture in the share `chance` of them, and what is covered."""
        order = shuffled(len(held), steps * self.batch, rng).reshape(steps, -1)
        for at in order:
            clean = held.x[at]
            seen = [
                corrupted(clean, i, rng, chance, (self.opacity, 1.0), inside=held.inside[at[i]])[0]
                for i in range(len(at))
            ]
            yield unit(clean, where), unit(np.stack(seen), where), torch.from_numpy(masks[at]).to(where)

    def _trained(
        self, net: nn.Module, steps: int, rate: float, drawn: Iterator, losses: Callable[..., dict[str, Tensor]]
    ) -> list[dict[str, float]]:
        optimiser = torch.optim.Adam(net.parameters(), lr=rate)
        return nets.train(optimiser, drawn, steps, lambda one: losses(*one), nets.warm_cosine(optimiser, steps))


class Layers(nn.Module):
    """The two layers of each level that is handed over: how much of a position's features goes on, from 0 to 1."""

    def __init__(self, widths: list[int], levels: list[int], hidden: int) -> None:
        super().__init__()
        self.levels = nn.ModuleDict(
            {
                str(level): nn.Sequential(nn.Conv2d(width, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 1, 1))
                for width, level in zip(widths, levels, strict=True)
            }
        )
        for each in self.levels.values():
            nn.init.constant_(each[2].bias, OPEN)

    def forward(self, level: int, maps: Tensor) -> Tensor:
        """Logits `(n, h, w)` of the shares of `maps` `(n, c, h, w)` that go on."""
        return self.levels[str(level)](maps)[:, 0]

    def weaken(self, level: int, maps: Tensor) -> Tensor:
        """`maps`, each position times its share: the soft mask of the paper."""
        return maps * self(level, maps).sigmoid()[:, None]


def furthest(odd: Tensor, inside: Tensor, share: float) -> Tensor:
    """Where the largest `share` of the values of `odd` `(n, h, w)` that count are, bool; the first of equal ones."""
    n, h, w = odd.shape
    rank = odd.masked_fill(~inside, -math.inf).flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    wanted = (inside.flatten(1).sum(dim=1, keepdim=True) * share).round()
    return (rank < wanted).view(n, h, w)


def error(made: Tensor, image: Tensor) -> Tensor:
    """How unlike each other two images `(n, 3, h, w)` are at each pixel, `(n, h, w)`: half of 1 - SSIM and the squared
    difference, means of the colours."""
    return ((1 - ssim(made, image)) / 2 + (made.float() - image) ** 2).mean(dim=1)


def signal(wrong: Tensor, due: Tensor, tolerated: float) -> Tensor:
    """The share of a patch's features that should go on: all where its error is at most `tolerated` times what is due,
    inversely less where it is larger."""
    most = tolerated * due.clamp(min=LEAST)
    return most / torch.maximum(wrong, most)
