"""An encoder that is trained: a small residual net from scratch, or a timm model with its weights."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.parts.backbones import FILTERBANK
from pipeline.parts.features import Features


class Encoder(nn.Module):
    """Images, float `(n, 3, h, w)` from 0 to 255, to one map per stage: a timm model's levels, or, in place of the
    filter bank, which has nothing to train, three residual stages from scratch."""

    def __init__(self, loaded: Features, width: int) -> None:
        super().__init__()
        self.own, self.half = loaded.name == FILTERBANK, loaded.half
        self.register_buffer("scale", loaded.scale, persistent=False)
        self.register_buffer("shift", loaded.shift, persistent=False)
        self.net = Stages(width) if self.own else loaded.net.requires_grad_(True)
        self.to(loaded.device)

    def forward(self, x: Tensor, depth: int | None = None) -> list[Tensor]:
        """The maps of all stages, or of the first `depth`, shallowest first."""
        x = x * self.scale + self.shift
        if self.own:
            return self.net(x, depth)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            return self.net(x)[:depth]

    def train(self, mode: bool = True) -> Self:
        """A timm model always stands as in scoring: batch norms do not move, nothing is dropped."""
        super().train(mode)
        if not self.own:
            self.net.eval()
        return self

    @torch.no_grad()
    def channels(self, side: int) -> list[int]:
        """Of the maps of each stage."""
        return [m.shape[1] for m in self.eval()(torch.zeros(1, 3, side, side, device=self.scale.device))]


class Stages(nn.Module):
    """The stem of a ResNet, then a residual stage at strides of 4, 8 and 16 each, twice as wide as the one before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        shapes = ((width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2))
        self.stages = nn.ModuleList([Residual(*shape) for shape in shapes])

    def forward(self, x: Tensor, depth: int | None = None) -> list[Tensor]:
        """The maps of the first `depth` stages, or of all."""
        x, found = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1), []
        for stage in self.stages[:depth]:
            x = stage(x)
            found.append(x)
        return found


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(before, after, 1, stride, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(after) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        found = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        return F.relu(found + self.norms[2](self.short(x)))


class Projection(nn.Sequential):
    """The head g of a stage (section 3.3): the mean of a map to a unit vector; left behind after training."""

    def __init__(self, channels: int, out: int = 128) -> None:
        super().__init__(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, out))

    def forward(self, maps: Tensor) -> Tensor:
        return F.normalize(super().forward(maps.mean(dim=(2, 3))).float(), dim=1)
