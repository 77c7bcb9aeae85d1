"""SuperSimpleNet: one network for every kind of supervision, from none to a mask for each defect.

Rolih, Fucka and Skocaj, "SuperSimpleNet: Unifying Unsupervised and Supervised Learning for Fast and Reliable Surface
Defect Detection" (ICPR 2024), https://arxiv.org/abs/2408.03143, and "No Label Left Behind: A Unified Surface Defect
Detection Model for all Supervision Regimes" (2025), https://arxiv.org/abs/2508.19060.
"""

import logging
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts import features, nets, perlin
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.images import checked
from pipeline.parts.losses import focal, truncated_l1
from pipeline.parts.moments import Moments, standardised
from pipeline.parts.progress import Progress
from pipeline.parts.regions import counted, enlarged, largest, positions
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN, Batch, Samples, Scores, State
from pipeline.samples import teaching

LEVELS = (2, 3)  # of a timm backbone, as in the paper
BATCH = 16  # images looked at together when features are taken
SLOPE = 0.2  # of the LeakyReLU below zero
FINEST = 5  # of the Perlin noise: up to 2**5 cells each way
HALF = 2  # bytes of a float16
LARGEST = 65504.0  # of the numbers that float16 holds


@dataclass
class SuperSimpleNet:
    """A segmentation head and a classification head over frozen features, trained on noise in Perlin-shaped places.

    The labels decide what else they learn from: anomalous images with a mask teach both heads, those without one the
    classification head; without anomalous images there is only the noise. Features are brought to mean 0 and standard
    deviation 1 and cut at five of these, as in `image/simplenet`; `noise` and `reach` mean the same as there."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = "https://arxiv.org/abs/2508.19060"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose feature maps are merged."""
    upscale: Annotated[int, Ge(1), Le(4)] = 1
    """Times that the merged maps are enlarged before the heads (the paper's 2): finer, and slower by its square."""
    noise: Annotated[float, Gt(0)] = 0.25
    """Least standard deviation of the noise, in those of the features (the paper's is 0.015 of its own features)."""
    reach: Annotated[float, Ge(1)] = 20.0
    """Most noise is `reach` times the least; 1 is the paper's one noise."""
    hidden: Annotated[int, Ge(1)] = 128
    """Width of the segmentation head."""
    width: Annotated[int, Ge(1)] = 16
    """Channels of the classification head's 5 x 5 convolution (the paper's 128); larger is slower."""
    steps: Annotated[int, Ge(1)] = 300
    """Optimiser steps. The paper trains for 300 epochs."""
    batch: Annotated[int, Ge(2)] = 8
    """Images per step, half of them anomalous where training has such; each is seen with and without noise."""
    rate: Annotated[float, Gt(0), Le(1)] = 1e-3
    """Learning rate of AdamW for the heads; 0.4 of it after 80 %, and again after 90 % of the steps. The paper's is
    2e-4, and half of that for the adapter; here it is a tenth."""
    gamma: Annotated[float, Ge(0)] = 4.0
    """Exponent of the focal loss; larger looks more at what is hard."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of feature maps held in half precision during fit; of more images than it holds, as many as
    it does are drawn."""
    image_score: Literal["auto", "head", "map"] = "auto"
    """`head`: the classification head's logit (the paper's). `map`: the largest value of the map. `auto`: the head
    where anomalous images taught it, the map where it has seen nothing but noise."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 256
    """Sigma of the blur of the map, as a share of the image's shorter side."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the images drawn and the noise."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on uint8 images `(n, 3, h, w)`; of unknown label only where none is labelled normal, as normals.

        Raises DataError without normals, for images of differing sizes, or when `cache` does not hold one."""
        self._features = features.load(self.backbone, LEVELS)
        held = self._held(teaching(train))
        where, rng = self._features.device, np.random.default_rng(self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        with seeded(self.seed):
            net = Heads(len(held.mean), self.hidden, self.width).to(where).train()
        groups = [
            {"params": net.adapter.parameters(), "lr": self.rate / 10},
            {"params": [*net.segment.parameters(), *net.classify.parameters()], "lr": self.rate},
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=1e-5)
        cuts = [round(0.8 * self.steps), round(0.9 * self.steps)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, cuts, gamma=0.4)

        def losses(_: int) -> dict[str, Tensor]:
            maps, target, inside, label = self._drawn(held, rng)
            noise, spots = self._noise(target, inside, maps.shape[1], rng, generator)
            target = torch.cat([target, target.masked_fill(spots, ANOMALOUS)]).to(where)
            label = torch.cat([label, label.masked_fill(spots.flatten(1).any(dim=1), ANOMALOUS)]).to(where)
            inside = torch.cat([inside, inside]).to(where)
            odd, logit = net(torch.cat([maps, maps]).to(where), inside, noise.to(where))
            known = inside & (target != UNKNOWN)
            return {
                "l1": truncated_l1(odd.float(), target, inside),
                "focal": focal(odd.float()[known], target[known], self.gamma),
                "classify": focal(logit.float(), label, self.gamma),
            }

        history = nets.train(optimiser, range(self.steps), self.steps, losses, schedule)
        self.net_, self.mean_, self.spread_ = nets.frozen(net), held.mean, held.spread
        self.size_, self.hash_, self.history_ = held.size, self._features.hash, history
        taught = "head" if (held.label == ANOMALOUS).any() else "map"
        self.by_ = taught if self.image_score == "auto" else self.image_score
        return self

    def score(self, batch: Batch) -> Scores:
        """Maps `(n, h, w)`, the segmentation head's; scores `(n,)`, the classification head's logit or the largest of
        the map."""
        must_be_fitted(self, "net_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            maps = standardised(features.patches(self._features.maps(images), batch), self.mean_, self.spread_)
            size = (maps.shape[2] * self.upscale, maps.shape[3] * self.upscale)
            inside = counted(batch, size, maps.device)
            odd, logit = self.net_.scored(maps, inside, self.upscale)
            local = enlarged(odd, self.size_, self.smooth, inside)
            sample = logit if self.by_ == "head" else largest(local, counted(batch, self.size_, local.device))
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def state(self) -> State:
        must_be_fitted(self, "net_")
        arrays = nets.arrays(self.net_) | self._features.arrays()
        arrays |= {"mean": self.mean_.cpu().numpy(), "spread": self.spread_.cpu().numpy()}
        return State(arrays, {"size": list(self.size_), "weights_sha256": self.hash_, "image_score": self.by_})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        where = self._features.device
        self.mean_, self.spread_ = (torch.from_numpy(np.array(state.arrays[k])).to(where) for k in ("mean", "spread"))
        self.net_ = nets.restored(Heads(len(self.mean_), self.hidden, self.width), state.arrays).to(where)
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        self.by_ = state.meta["image_score"]
        return self

    def _held(self, some: Samples) -> "Held":
        """Merged maps of as many images as `cache` holds, drawn evenly, with what is known of their positions; those of
        unknown label stand for normals."""
        maps, targets, insides, labels, size, moments = [], [], [], [], None, Moments()
        chosen = np.arange(len(some))
        with Progress(len(some), "features", "images") as bar:
            for batch in some.batches(BATCH):
                images, batch = checked(batch, size), as_normal(batch)
                found = features.patches(self._features.maps(images), batch)
                if size is None:
                    size, chosen = images.shape[2:], self._chosen(found[0].numel() * HALF, len(some))
                keep = np.isin(np.arange(bar.n, bar.n + len(batch)), chosen)
                large = (found.shape[2] * self.upscale, found.shape[3] * self.upscale)
                normal = torch.from_numpy(batch.label == NORMAL).to(found.device)
                small = counted(batch, found.shape[2:], found.device)
                if normal.any():
                    moments.add(found.permute(0, 2, 3, 1)[normal][small[normal]])
                maps.append(found[keep].clamp(-LARGEST, LARGEST).half().cpu())
                insides.append(counted(batch, large, torch.device("cpu"))[keep])
                targets.append(position_labels(batch, large)[keep])
                labels.append(torch.from_numpy(batch.label[keep].astype(np.int8)))
                bar.update(len(batch))
        return Held(*map(torch.cat, (maps, targets, insides, labels)), *moments.found(), size)

    def _chosen(self, bytes_: int, images: int) -> np.ndarray:
        """Which of all images are held, as places."""
        room = self.cache * 10**6 // bytes_
        if room < 1:
            raise DataError(f"cache must hold the maps of one image, {bytes_ / 1e6:.1f} MB, got {self.cache}")
        if room >= images:
            return np.arange(images)
        logging.getLogger(__name__).warning("cache holds %d of %d images: only these are trained on", room, images)
        return np.sort(np.random.default_rng(self.seed).choice(images, room, replace=False))

    def _drawn(self, held: "Held", rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A step's standardised maps, enlarged, `(n, c, h', w')`, targets, what counts, and labels `(n,)`."""
        good, bad = (np.flatnonzero((held.label == which).numpy()) for which in (NORMAL, ANOMALOUS))
        odd = self.batch // 2 if len(bad) and len(good) else 0
        at = torch.from_numpy(
            np.r_[rng.choice(good, self.batch - odd), rng.choice(bad, odd) if odd else []].astype(int)
        )
        maps = standardised(held.maps[at].float(), held.mean.cpu(), held.spread.cpu())
        return upscaled(maps, self.upscale), held.target[at], held.inside[at], held.label[at]

    def _noise(
        self, target: Tensor, inside: Tensor, channels: int, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Gaussian noise `(n, c, h', w')` in Perlin-shaped spots `(n, h', w')` of what counts and is not anomalous."""
        size = (target.shape[1], target.shape[2])
        shapes = np.stack([perlin.mask(size, FINEST, rng, each) for each in inside.numpy()])
        spots = torch.from_numpy(shapes) & (target != ANOMALOUS)
        sigma = self.noise * self.reach ** torch.rand(len(target), 1, 1, 1, generator=generator)
        noise = sigma * torch.randn((len(target), channels, *size), generator=generator)
        return noise * spots[:, None], spots


@dataclass(frozen=True)
class Held:
    """What a fit holds: maps float16 `(n, c, h', w')`; targets int8 and what counts, at the enlarged size; labels."""

    maps: Tensor
    target: Tensor
    inside: Tensor
    label: Tensor
    mean: Tensor
    spread: Tensor
    size: tuple[int, int]


class Heads(nn.Module):
    """Adapter, segmentation head and classification head over standardised features."""

    def __init__(self, channels: int, hidden: int, width: int) -> None:
        super().__init__()
        self.adapter = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.orthogonal_(self.adapter.weight)
        self.segment = nn.ModuleList(
            [nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.Conv2d(hidden, 1, 1, bias=False)]
        )
        self.classify = nn.ModuleList(
            [nn.Conv2d(channels + 1, width, 5, padding=2), nn.BatchNorm2d(width), nn.Linear(2 * width + 2, 1)]
        )

    def forward(self, maps: Tensor, inside: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Maps `(n, h', w')` and logits `(n,)` of features `(n, c, h', w')`; `noise` goes to the latter half of them,
        before the heads and behind the adapter."""
        clean = torch.zeros_like(noise)
        noise = torch.cat([clean, noise])
        first, norm, last = self.segment
        odd = last(F.leaky_relu(norm(first(self.adapter(maps) + noise)), SLOPE))[:, 0]
        return odd, self._logit(maps + noise, odd.detach(), inside)

    def scored(self, maps: Tensor, inside: Tensor, upscale: int) -> tuple[Tensor, Tensor]:
        """The same without noise, for features not enlarged yet: what is linear comes before the enlarging."""
        first, norm, last = self.segment
        odd = last(F.leaky_relu(upscaled(norm(first(self.adapter(maps))), upscale), SLOPE, inplace=True))[:, 0]
        return odd, self._logit(upscaled(maps, upscale), odd, inside)

    def _logit(self, maps: Tensor, odd: Tensor, inside: Tensor) -> Tensor:
        first, norm, last = self.classify
        inside = inside[:, None]
        seen = torch.cat([maps, odd[:, None].to(maps.dtype)], dim=1) * inside
        found = torch.cat([F.relu(norm(first(seen))), odd[:, None].to(maps.dtype)], dim=1)
        mean = (found * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3))
        return last(torch.cat([found.masked_fill(~inside, -torch.inf).amax(dim=(2, 3)), mean], dim=1))[:, 0]


def upscaled(maps: Tensor, times: int) -> Tensor:
    """`maps` `(n, c, h', w')` enlarged (bilinear)."""
    return maps if times == 1 else F.interpolate(maps, scale_factor=times, mode="bilinear", align_corners=False)


def as_normal(batch: Batch) -> Batch:
    """`batch` with its images of unknown label as normal ones, and so their pixels of unknown label."""
    unknown = batch.label == UNKNOWN
    mask = batch.mask
    if mask is not None:
        mask = np.where(unknown[:, None, None] & (mask == UNKNOWN), NORMAL, mask).astype(np.int8)
    return replace(batch, label=np.where(unknown, NORMAL, batch.label).astype(np.int8), mask=mask)


def position_labels(batch: Batch, size: tuple[int, int]) -> Tensor:
    """Labels of the positions of a map of `size`, int8 `(n, h', w')`; without masks, of all positions of an image."""
    if batch.mask is not None:
        return positions(torch.from_numpy(batch.mask), size)
    known = np.where(batch.label == NORMAL, NORMAL, UNKNOWN).astype(np.int8)
    return torch.from_numpy(known)[:, None, None].expand(-1, *size).clone()
