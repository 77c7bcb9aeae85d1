"""Networks that make an image of an image: halvings of the resolution, then doublings, with or without skips between.

With skips it is the U-Net of Ronneberger, Fischer and Brox (MICCAI 2015), https://arxiv.org/abs/1505.04597.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST = 8  # times the first block's channels


class Hourglass(nn.Module):
    """Encoder and decoder with `depth` halvings, `width` channels before the first, doubled with each up to MOST times;
    with `skips` the decoder also sees the encoder's maps of each resolution."""

    def __init__(self, channels: int, out: int, width: int, depth: int, skips: bool) -> None:
        super().__init__()
        self.widths = [width * min(2**level, MOST) for level in range(depth + 1)]
        self.skips = skips
        self.down = nn.ModuleList(_block(a, b) for a, b in zip([channels, *self.widths[:-1]], self.widths, strict=True))
        self.grow = nn.ModuleList(_convolution(b, a) for a, b in pairwise(self.widths))
        self.up = nn.ModuleList(_block(2 * a if skips else a, a) for a in self.widths[:-1])
        self.out = nn.Conv2d(width, out, 3, padding=1)

    @property
    def handed(self) -> list[int]:
        """The levels whose maps the encoder hands to the decoder, finest first: with skips all, else the coarsest."""
        return list(range(len(self.widths))) if self.skips else [len(self.widths) - 1]

    def forward(self, x: Tensor, change: Callable[[int, Tensor], Tensor] | None = None) -> Tensor:
        """`(n, channels, h, w)` to `(n, out, h, w)`; `change` makes other maps of those that are handed over."""
        return self.decode(self.encode(x), change)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The encoder's maps by level, finest first: `(n, widths[level], h / 2**level, w / 2**level)`."""
        levels = [self.down[0](x)]
        for block in list(self.down)[1:]:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        return levels

    def decode(self, levels: list[Tensor], change: Callable[[int, Tensor], Tensor] | None = None) -> Tensor:
        """The way back from what `encode` gave."""
        given = {level: levels[level] if change is None else change(level, levels[level]) for level in self.handed}
        x = given[len(levels) - 1]
        for level in reversed(range(len(self.up))):
            x = F.interpolate(x, levels[level].shape[2:], mode="bilinear", align_corners=False)
            x = self.grow[level](x)
            x = self.up[level](torch.cat([x, given[level]], dim=1) if self.skips else x)
        return self.out(x)


def _convolution(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def _block(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(_convolution(channels, out), _convolution(out, out))
