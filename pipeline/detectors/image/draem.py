"""DRAEM: a network that repairs images and one that compares each image with its repair.

Zavrtanik, Kristan and Skočaj (ICCV 2021), "DRAEM: A discriminatively trained reconstruction embedding for surface
anomaly detection", https://arxiv.org/abs/2108.07610. Defaults are for small images on a CPU; the paper trains with
width 128, compare 64, depth 5, shrink 1 and rate 1e-4 for 700 epochs on 256 x 256 pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DataError, ModelError, NotFittedError
from pipeline.parts.device import device, seeded
from pipeline.parts.draws import shuffled
from pipeline.parts.filterbank import blur
from pipeline.parts.images import checked
from pipeline.parts.perlin import blend, foreign, mask
from pipeline.parts.progress import Progress
from pipeline.parts.regions import counted
from pipeline.protocols import ANOMALOUS, Batch, Samples, Scores, State
from pipeline.samples import normals

FINEST = 5  # of the Perlin noise: up to 2**5 cells each way
OPACITY = (0.2, 1.0)  # of the textures; the paper's beta is 1 - opacity
POOL = 21 / 256  # side of the mean filter of equation 5, as a share of the image's shorter side


@dataclass
class Draem:
    """Learns from normals corrupted on the fly, and from labelled anomalies with masks where there are any.

    Half of the normals of each step are corrupted by Perlin-shaped foreign textures (section 3.3). Labelled
    anomalies, real or from an augmenter, have no clean twin: they teach the comparing network only."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = "https://arxiv.org/abs/2108.07610"

    steps: Annotated[int, Ge(1)] = 80
    """Optimiser steps."""
    batch: Annotated[int, Ge(1)] = 8
    """Normal images per step."""
    labelled: Annotated[int, Ge(0)] = 4
    """Labelled anomalies with masks added to each step, where training has any."""
    width: Annotated[int, Ge(1)] = 8
    """Channels of the repairing network's first block; they double with each block up to 8 times."""
    compare: Annotated[int, Ge(1)] = 8
    """Channels of the comparing network's first block."""
    depth: Annotated[int, Ge(1), Le(6)] = 3
    """Halvings of the resolution in both networks."""
    shrink: Annotated[int, Ge(1), Le(8)] = 2
    """Side of the blocks of pixels averaged before the networks look; 2 costs a quarter, and finest defects."""
    rate: Annotated[float, Gt(0), Le(1)] = 2e-3
    """Learning rate of Adam; a fifth of it after 80 %, and again after 90 % of the steps. The paper's is 1e-4."""
    gamma: Annotated[float, Ge(0)] = 2.0
    """Exponent of the focal loss; larger looks more at hard pixels."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the order of the images and the corruptions."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on uint8 images `(n, 3, h, w)`, at least shrink * 2**(depth + 1) pixels high and wide.

        Raises DataError without normals, for images too small or of differing sizes."""
        some = normals(train)
        size = self._size(some)
        where = device()
        with seeded(self.seed):
            net = self._net().to(where, memory_format=torch.channels_last).train()
        rng = np.random.default_rng(self.seed)
        optimiser = torch.optim.Adam(net.parameters(), lr=self.rate)
        cuts = [round(0.8 * self.steps), round(0.9 * self.steps)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, cuts, gamma=0.2)
        history = []
        with Progress(self.steps, "training", "steps") as bar:
            for clean, seen, masks in self._steps(some, train[train.label == ANOMALOUS], size, rng):
                losses = self._losses(net, *(_moved(x, where) for x in (clean, seen, masks)))
                loss = losses["ssim"] + losses["l2"] + losses["focal"]
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                history.append({"step": len(history) + 1, **{name: float(x.detach()) for name, x in losses.items()}})
                bar.update()
        self.net_, self.size_, self.history_ = net.eval().requires_grad_(False), size, history
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)`: the probability of an anomaly, smoothed for the score (equation 5)."""
        self._fitted()
        images = _moved(self._unit(checked(batch, self.size_)), next(self.net_.parameters()).device)
        with torch.inference_mode():
            _, logits = self.net_(images)
            odd = F.interpolate(logits.softmax(dim=1)[:, 1:], self.size_, mode="bilinear", align_corners=False)
            side = max(1, round(POOL * min(self.size_)))
            odd = odd * counted(batch, self.size_, odd.device)[:, None]
            sample = F.avg_pool2d(odd, side, stride=1).amax(dim=(1, 2, 3))
        return Scores(sample.cpu().numpy(), odd[:, 0].cpu().contiguous().numpy())

    def state(self) -> State:
        self._fitted()
        arrays = {name: tensor.cpu().contiguous().numpy() for name, tensor in self.net_.state_dict().items()}
        return State(arrays, {"size": list(self.size_)})

    def from_state(self, state: State) -> Self:
        net = self._net()
        try:
            net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.arrays.items()})
        except RuntimeError as error:
            raise ModelError(f"the stored DRAEM networks do not fit these hyperparameters: {error}") from error
        self.net_ = net.to(device(), memory_format=torch.channels_last).eval().requires_grad_(False)
        self.size_ = tuple(state.meta["size"])
        return self

    def _fitted(self) -> None:
        if not hasattr(self, "net_"):
            raise NotFittedError("Draem must be fitted before it can score or be saved")

    def _size(self, some: Samples) -> tuple[int, int]:
        """Height and width of the first image, if the networks can take it."""
        size = checked(next(iter(some[:1].batches(1)))).shape[2:]
        least = self.shrink * 2 ** (self.depth + 1)
        if min(size) < least:
            raise DataError(
                f"images must be at least shrink * 2**(depth + 1) = {least} pixels high and wide,"
                f" got {size[0]} x {size[1]}"
            )
        return size

    def _net(self) -> "Networks":
        return Networks(self.width, self.compare, self.depth)

    def _steps(
        self, some: Samples, anomalies: Samples, size: tuple[int, int], rng: np.random.Generator
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Per step: clean normals `(n, 3, h, w)`, what the network sees `(n + m, 3, h, w)`, the masks
        `(n + m, h, w)`; the last m are labelled anomalies."""
        order = shuffled(len(some), self.steps * self.batch, rng)
        labelled = None
        if len(anomalies) and self.labelled:
            labelled = anomalies[shuffled(len(anomalies), self.steps * self.labelled, rng)].batches(self.labelled)
        for batch in some[order].batches(self.batch):
            clean = checked(batch, size)
            pairs = [_corrupted(clean, i, rng) for i in range(len(clean))]
            seen, masks = (np.stack(part) for part in zip(*pairs, strict=True))
            if labelled is not None:
                more = next(labelled)
                images = checked(more, size)
                if more.mask is not None:
                    marks = more.mask == ANOMALOUS
                    marked = marks.any(axis=(1, 2))  # an anomaly whose place is unknown teaches nothing here
                    seen, masks = np.concatenate([seen, images[marked]]), np.concatenate([masks, marks[marked]])
            coarse = F.max_pool2d(torch.from_numpy(masks)[:, None].float(), self.shrink, ceil_mode=True)[:, 0] > 0
            yield self._unit(clean), self._unit(seen), coarse

    def _unit(self, images: np.ndarray) -> Tensor:
        """uint8 images `(n, 3, h, w)` to what the networks see: in [0, 1], blocks of `shrink` pixels averaged."""
        return F.avg_pool2d(torch.from_numpy(images).float() / 255, self.shrink, ceil_mode=True)

    def _losses(self, net: "Networks", clean: Tensor, seen: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Equations 1 to 4; the repair counts only where the clean image is known."""
        with torch.autocast(clean.device.type, torch.bfloat16, enabled=clean.device.type == "cuda"):
            repaired, logits = net(seen)
        known = repaired[: len(clean)].float()
        return {
            "ssim": ssim_loss(known, clean),
            "l2": F.mse_loss(known, clean),
            "focal": focal_loss(logits.float(), masks, self.gamma),
        }


class Networks(nn.Module):
    """The repairing network (no skip connections) and the comparing U-Net, section 3.1 and 3.2."""

    def __init__(self, width: int, compare: int, depth: int) -> None:
        super().__init__()
        self.repair = Hourglass(3, 3, width, depth, skips=False)
        self.compare = Hourglass(6, 2, compare, depth, skips=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, 3, h, w)` in [0, 1] to the repair `(n, 3, h, w)` and logits (normal, anomalous) `(n, 2, h, w)`."""
        repaired = self.repair(x)
        return repaired, self.compare(torch.cat([repaired, x], dim=1))


class Hourglass(nn.Module):
    """Encoder and decoder with `depth` halvings; with `skips` a U-Net."""

    def __init__(self, channels: int, out: int, width: int, depth: int, skips: bool) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(depth + 1)]
        self.skips = skips
        self.down = nn.ModuleList(_block(a, b) for a, b in zip([channels, *widths[:-1]], widths, strict=True))
        self.grow = nn.ModuleList(_convolution(b, a) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_block(2 * a if skips else a, a) for a in widths[:-1])
        self.out = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.down[0](x)]
        for block in list(self.down)[1:]:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        x = levels[-1]
        for level in reversed(range(len(self.up))):
            x = F.interpolate(x, levels[level].shape[2:], mode="bilinear", align_corners=False)
            x = self.grow[level](x)
            x = self.up[level](torch.cat([x, levels[level]], dim=1) if self.skips else x)
        return self.out(x)


def _convolution(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def _block(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(_convolution(channels, out), _convolution(out, out))


def focal_loss(logits: Tensor, masks: Tensor, gamma: float) -> Tensor:
    """Mean of -(1 - p)^gamma log p over pixels, p the probability of the true class (Lin et al. 2017).

    `logits` `(n, 2, h, w)`, `masks` bool `(n, h, w)`."""
    log_p = -F.cross_entropy(logits, masks.long(), reduction="none")
    return -((1 - log_p.exp()) ** gamma * log_p).mean()


def ssim_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 minus the mean structural similarity of images `(n, c, h, w)` in [0, 1] (Wang et al. 2004), from 0 to 2.

    Gaussian windows with a sigma of 1.5 pixels."""
    c1, c2 = 0.01**2, 0.03**2
    n = len(a)
    mean_a, mean_b, aa, bb, ab = blur(torch.cat([a, b, a * a, b * b, a * b]), 1.5).split(n)
    variance_a, variance_b, covariance = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return 1 - (top / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))).mean()


def _corrupted(images: np.ndarray, i: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image i as it is or, every second time, with a texture from the batch blended in; and the mask."""
    image = images[i]
    if rng.random() < 0.5:
        return image, np.zeros(image.shape[1:], bool)
    where = mask(image.shape[1:], FINEST, rng)
    texture = foreign(images[rng.integers(len(images))], rng)
    return blend(image, texture, where, float(rng.uniform(*OPACITY))), where


def _moved(x: Tensor, where: torch.device) -> Tensor:
    return x.to(where, memory_format=torch.channels_last if x.ndim == 4 else torch.preserve_format)
