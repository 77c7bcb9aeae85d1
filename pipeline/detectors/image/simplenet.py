"""SimpleNet: a small network tells features of normal patches from the same features with noise.

Liu, Zhou, Xu and Wang (CVPR 2023), "SimpleNet: A Simple Network for Image Anomaly Detection and Localization",
https://arxiv.org/abs/2303.15140.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.parts import features
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.images import checked
from pipeline.parts.moments import Moments, standardised
from pipeline.parts.progress import Progress, tracked
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (2, 3)  # of a timm backbone, as in the paper, section 4.3
BATCH = 16  # images looked at together when features are taken
SLOPE = 0.2  # of the LeakyReLU below zero
MARGIN = 0.5  # th+ and -th- (section 3.5): outputs beyond them are good enough
HALF = 2  # bytes of a float16
LARGEST = 65504.0  # of the numbers that float16 holds


@dataclass
class SimpleNet:
    """A linear adapter and a discriminator of two layers over frozen features.

    Before the adapter each feature is brought to mean 0 and standard deviation 1 over the training patches and cut at
    five of these, so that nothing lies far from all that was trained on; the adapter starts as a rotation. So `noise`
    is in units of the features' spread whatever the backbone; the paper's 0.015 is in those of its own, of 1,536
    dimensions. Each noisy patch has a noise of its own strength: one small noise says nothing about what lies far
    from the normals."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2303.15140"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose feature maps make the patches."""
    noise: Annotated[float, Gt(0)] = 0.25
    """Least standard deviation of the noise that makes anomalous features, in those of the features; smaller draws
    the border closer around the normals, until nothing is learned any more."""
    reach: Annotated[float, Ge(1)] = 20.0
    """Most noise is `reach` times the least, with even weight on every octave between; 1 is the paper's one noise."""
    hidden: Annotated[int, Ge(1)] = 128
    """Width of the discriminator's first layer."""
    steps: Annotated[int, Ge(1)] = 1500
    """Optimiser steps."""
    batch: Annotated[int, Ge(1)] = 2048
    """Normal patches per step, drawn from all images, and as many with noise. The paper takes all patches of 4 images
    for 160 epochs."""
    rate: Annotated[float, Gt(0), Le(1)] = 2e-4
    """Learning rate of Adam for the discriminator."""
    adapter_rate: Annotated[float, Gt(0), Le(1)] = 1e-4
    """Learning rate of Adam for the adapter."""
    decay: Annotated[float, Ge(0), Le(1)] = 1e-5
    """Weight decay of Adam; larger holds the weights smaller."""
    cache: Annotated[int, Ge(1)] = 512
    """Most MB (10^6 bytes) of patches held in half precision during fit, drawn evenly over the images; more images
    give fewer patches each."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side (the paper's 4 of 224 pixels)."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the patches drawn and the noise."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError without normals or for images of differing sizes."""
        some = normals(train)
        self._features = features.load(self.backbone, LEVELS)
        pool, mean, scale, size = self._pool(some)
        where, generator = mean.device, torch.Generator().manual_seed(self.seed)
        with seeded(self.seed):
            net = Head(len(mean), self.hidden).to(where).train()
        groups = [{"params": net.adapter.parameters(), "lr": self.adapter_rate}]
        groups.append({"params": net.discriminator.parameters(), "lr": self.rate})
        optimiser = torch.optim.Adam(groups, weight_decay=self.decay)
        losses = []
        for _ in tracked(range(self.steps), self.steps, "training", "steps"):
            drawn = torch.randint(len(pool), (min(self.batch, len(pool)),), generator=generator)
            patches = standardised(pool[drawn].to(where).float(), mean, scale)
            # float32 also on a GPU: noise may be finer than bfloat16, and the layers are small
            sigma = self.noise * self.reach ** torch.rand(len(patches), 1, generator=generator)
            noise = (sigma * torch.randn(patches.shape, generator=generator)).to(where)
            loss = net.loss(patches, noise)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        self.head_ = (mean, scale, *net.eval().folded())
        self.history_ = [{"step": i, "loss": loss} for i, loss in enumerate(torch.stack(losses).tolist(), 1)]
        self.size_, self.hash_ = size, self._features.hash
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)`: the negative of the discriminator's output (section 3.6), above
        -0.5 and below 0.5 where it is in doubt; the score is the oddest position that counts."""
        must_be_fitted(self, "head_")
        images = checked(batch, self.size_)
        mean, scale, weight, bias, out, offset = self.head_
        with torch.inference_mode():
            maps = standardised(features.patches(self._features.maps(images), batch), mean, scale)
            hidden = F.conv2d(maps, weight[:, :, None, None], bias)
            odd = F.conv2d(F.leaky_relu(hidden, SLOPE, inplace=True), -out[None, :, None, None], -offset)  # (n,1,h',w')
            inside = counted(batch, odd.shape[2:], odd.device)
            sample = largest(odd[:, 0], inside)
            local = enlarged(odd[:, 0], self.size_, self.smooth, inside)
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def state(self) -> State:
        must_be_fitted(self, "head_")
        arrays = {f"head.{i}": tensor.cpu().numpy() for i, tensor in enumerate(self.head_)}
        return State({**arrays, **self._features.arrays()}, {"size": list(self.size_), "weights_sha256": self.hash_})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        where = self._features.device
        self.head_ = tuple(torch.from_numpy(np.array(state.arrays[f"head.{i}"])).to(where) for i in range(6))
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        return self

    def _pool(self, some: Samples) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        """Patches that count, float16 `(m, c)` on the CPU, drawn evenly within `cache`; mean and standard deviation
        `(c,)` of all that count; height and width of the images."""
        rng = np.random.default_rng(self.seed)
        pool, size, moments = [], None, Moments()
        with Progress(len(some), "features", "images") as bar:
            for batch in some.batches(BATCH):
                images = checked(batch, size)
                size = images.shape[2:]
                maps = features.patches(self._features.maps(images), batch)
                inside = counted(batch, maps.shape[2:], maps.device)
                share = max(1, self.cache * 10**6 // (maps.shape[1] * HALF * len(some)))
                for patches, counts in zip(maps.permute(0, 2, 3, 1), inside, strict=True):
                    patches = patches[counts]  # (m, c)
                    moments.add(patches)
                    if share < len(patches):
                        chosen = np.sort(rng.choice(len(patches), share, replace=False))
                        patches = patches[torch.from_numpy(chosen).to(patches.device)]
                    pool.append(patches.clamp(-LARGEST, LARGEST).half().cpu())
                bar.update(len(batch))
        return torch.cat(pool), *moments.found(), size


class Head(nn.Module):
    """Adapter (section 3.2) and discriminator (section 3.4); section 3.3 is the noise between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.adapter = nn.Linear(channels, channels, bias=False)
        nn.init.orthogonal_(self.adapter.weight)
        self.discriminator = nn.Sequential(
            nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, 1)
        )

    def loss(self, patches: Tensor, noise: Tensor) -> Tensor:
        """Mean truncated L1 loss (section 3.5) of standardised `patches` `(m, c)` and of them with `noise`."""
        adapted = self.adapter(patches)
        normal, anomalous = self.discriminator(torch.cat([adapted, adapted + noise]))[:, 0].chunk(2)
        return (F.relu(MARGIN - normal) + F.relu(MARGIN + anomalous)).mean()

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All up to the LeakyReLU as one weight `(hidden, c)` and bias `(hidden,)`; and the last layer's weight
        `(hidden,)` and bias `(1,)`. Batch norm with its running mean and variance."""
        first, norm, _, last = (module.double() for module in self.double().discriminator)
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight = gain[:, None] * first.weight @ self.adapter.weight
        bias = gain * (first.bias - norm.running_mean) + norm.bias
        return weight.float(), bias.float(), last.weight[0].float(), last.bias.float()
