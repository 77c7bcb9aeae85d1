"""The networks of EfficientAD: a patch description network of few layers, and an autoencoder of whole images.

Batzner, Heckler and König (WACV 2024), "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level
Latencies", https://arxiv.org/abs/2303.14535, tables 6 and 8 of its appendix.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.parts.regions import counted
from pipeline.protocols import Batch

LEAST = 32  # pixels of an image's side that five halvings need
STRIDES = 5  # halvings of the encoder before its last convolution
ODD = (1, 0, 1, 0, 1, 1)  # what the paper's decoder sides, 3, 8, 15, 32, 63 and 127, lack of the image's over 2**k
DROPPED = 0.2  # share of the decoder's activations dropped out in training


def describer(width: int, out: int) -> nn.Sequential:
    """The small patch description network, `(n, 3, h, w)` to `(n, out, described(h), described(w))`: each position
    describes the 33 x 33 pixels around it. The paper's `width` is 128."""
    net = nn.Sequential(
        nn.Conv2d(3, width, 4, padding=3),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2, padding=1),
        nn.Conv2d(width, 2 * width, 4, padding=3),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2, padding=1),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(2 * width, out, 4),
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d):  # a few hundred steps are too few to make up for weights too small
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return net


def described(side: int) -> int:
    """Positions of a description along `side` pixels: a quarter, rounded up where it must be."""
    for _ in range(2):
        side = (side + 3) // 2 + 1  # convolution and pooling, padded
    return side - 3


class Autoencoder(nn.Module):
    """Images of one size to a bottleneck of one position, and back to descriptions as large as the describer's: what
    fits through are relations over the whole image. The paper's `width` is 64, its images 256 x 256."""

    def __init__(self, width: int, out: int, size: tuple[int, int]) -> None:
        super().__init__()
        self._described = [described(side) for side in size]
        wide = [width // 2, width // 2, width, width, width]
        steps = zip([3, *wide], wide, strict=False)
        self.encode = nn.ModuleList([nn.Conv2d(before, after, 4, 2, 1) for before, after in steps])
        self.narrow = nn.Conv2d(width, width, (size[0] // 2**STRIDES, size[1] // 2**STRIDES))
        # up to half of the image's side, then back to a quarter of it, as in the paper
        self._sides = [
            [max(1, side // 2**k - odd) for side in size] for k, odd in zip(range(6, 0, -1), ODD, strict=True)
        ]
        self.decode = nn.ModuleList([nn.Conv2d(width, width, 4, padding=2) for _ in self._sides])
        self.last = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, out, 3, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.encode:
            x = F.relu(layer(x), inplace=True)
        x = self.narrow(x)
        for layer, side in zip(self.decode, self._sides, strict=True):
            x = F.relu(layer(_resized(x, side)), inplace=True)
            x = F.dropout(x, DROPPED, self.training)
        x = _resized(x, self._described)
        first, second = self.last
        return second(F.relu(first(x), inplace=True))


def _resized(x: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class Networks(nn.Module):
    """Teacher, student and autoencoder for images of one size, with the scales of their outputs."""

    mean: Tensor
    spread: Tensor
    scale: Tensor

    def __init__(self, width: int, hidden: int, out: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.out, self.size = out, size
        self.teacher, self.student = describer(width, out), describer(width, 2 * out)
        self.autoencoder = Autoencoder(hidden, out, size)
        self.register_buffer("mean", torch.zeros(1, out, 1, 1))
        self.register_buffer("spread", torch.ones(1, out, 1, 1))
        self.register_buffer("scale", torch.zeros(2, 2))  # (student, autoencoder) x (LOW, HIGH)

    def unit(self, images: np.ndarray) -> Tensor:
        """uint8 images `(n, 3, h, w)`, float32 from -2 to 2, on the networks' device."""
        where = self.mean.device
        return torch.from_numpy(images).to(where).to(torch.float32, memory_format=torch.channels_last) / 63.75 - 2

    def autocast(self) -> torch.autocast:
        where = self.mean.device.type
        return torch.autocast(where, torch.bfloat16, enabled=where == "cuda")

    def wanted(self, x: Tensor) -> Tensor:
        """What the teacher says, brought to mean 0 and spread 1."""
        with torch.no_grad(), self.autocast():
            return (self.teacher(x).float() - self.mean) / self.spread

    def forward(self, x: Tensor) -> Tensor:
        """Mean squared differences `(n, 2, h', w')`: of student and teacher, and of student and autoencoder."""
        with self.autocast():
            one, two = self.student(x).float().split(self.out, dim=1)
            back = self.autoencoder(x).float()
        return torch.stack([((self.wanted(x) - one) ** 2).mean(dim=1), ((back - two) ** 2).mean(dim=1)], dim=1)

    def losses(self, x: Tensor, changed: Tensor, other: Tensor | None, hard: float, batch: Batch) -> dict[str, Tensor]:
        """Of the student on `x`, where it counts; of autoencoder, and student against it, on `changed`; the penalty on
        `other` images."""
        n = len(x)
        with self.autocast():
            found = self.student(torch.cat([x, changed] if other is None else [x, changed, other])).float()
            back = self.autoencoder(changed).float()
        inside = counted(batch, found.shape[2:], found.device)
        away = (self.wanted(x) - found[:n, : self.out]) ** 2
        losses = {"student": hardest(away.permute(0, 2, 3, 1)[inside], 1 - hard)}
        if other is not None:
            losses["penalty"] = (found[2 * n :, : self.out] ** 2).mean()
        losses["autoencoder"] = F.mse_loss(back, self.wanted(changed))
        losses["both"] = F.mse_loss(found[n : 2 * n, self.out :], back)
        return losses


def hardest(losses: Tensor, share: float) -> Tensor:
    """Mean of the largest `share` of `losses`, one of them at least: those from their (1 - share) quantile on."""
    flat = losses.flatten()
    return flat.topk(max(1, round(share * len(flat)))).values.mean()


def recoloured(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 images `(n, 3, h, w)`, each with its brightness, contrast or colour times a factor of 0.8 to 1.2."""
    kind, factor = rng.integers(3, size=(len(images), 1, 1, 1)), rng.uniform(0.8, 1.2, (len(images), 1, 1, 1))
    x = images.astype(np.float32)
    grey = np.einsum("nchw,c->nhw", x, np.float32([0.299, 0.587, 0.114]))[:, None]
    about = np.choose(kind, [0, grey.mean(axis=(2, 3), keepdims=True), grey])
    return np.rint(np.clip(about + factor * (x - about), 0, 255)).astype(np.uint8)
