"""An encoder that is trained: residual stages over the filter bank, or a timm model with its weights."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.parts.backbones import FILTERBANK
from pipeline.parts.features import Features


class Encoder(nn.Module):
    """Images, float `(n, 3, h, w)` from 0 to 255, to one map per stage: a timm model's levels, or residual stages over
    the filter bank's finest maps."""

    def __init__(self, loaded: Features, width: int) -> None:
        super().__init__()
        self.own = loaded.name == FILTERBANK
        self.net, self.half = loaded.net, loaded.half
        self.register_buffer("scale", loaded.scale, persistent=False)
        self.register_buffer("shift", loaded.shift, persistent=False)
        self.stages = nn.ModuleList()
        self.to(loaded.device)
        if not self.own:
            self.net.requires_grad_(True)
            return
        widths = [self.channels(64)[0], width, 2 * width, 4 * width]
        pairs = zip(widths[:-1], widths[1:], (1, 2, 2), strict=True)
        self.stages.extend(Residual(before, after, stride) for before, after, stride in pairs)
        self.to(loaded.device)

    def forward(self, x: Tensor, depth: int | None = None) -> list[Tensor]:
        """The maps of all stages, or of the first `depth`, shallowest first."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            found = self.net(x * self.scale + self.shift)
        if not self.own or not len(self.stages):
            return found[:depth]
        maps, found = found[0], []
        for stage in self.stages[:depth]:
            maps = stage(maps)
            found.append(maps)
        return found

    def train(self, mode: bool = True) -> Self:
        """The backbone always stands as in scoring: batch norms do not move, nothing is dropped."""
        super().train(mode)
        self.net.eval()
        return self

    @torch.no_grad()
    def channels(self, side: int) -> list[int]:
        """Of the maps of each stage."""
        return [m.shape[1] for m in self(torch.zeros(1, 3, side, side, device=self.scale.device))]


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
