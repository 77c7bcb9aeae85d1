"""Attenuation: two small layers behind any network of encoder and decoder that keep defects from being copied.

Park et al., "Feature Attenuation of Defective Representation Can Resolve Incomplete Masking on Anomaly Detection"
(CVPR workshops 2025), https://arxiv.org/abs/2407.04597. The network stays as it was trained.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.parts.hourglass import Hourglass

LEAST = 1e-3  # error of a patch below which there is nothing to tell
OPEN = 3.0  # logit at which the layers start: nearly all is let through


class Attenuation(nn.Module):
    """The two layers of each level that `host` hands over: how much of a position's features goes on, from 0 to 1."""

    def __init__(self, host: Hourglass, hidden: int) -> None:
        super().__init__()
        self.levels = nn.ModuleDict(
            {
                str(level): nn.Sequential(nn.Conv2d(host.widths[level], hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 1, 1))
                for level in host.handed
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

    def learned(
        self, host: Hourglass, seen: Tensor, clean: Tensor, due: Tensor, tolerated: float
    ) -> tuple[Tensor, Tensor]:
        """What the layers learn from `seen` `(n, c, h, w)`, the host's input with defects in it: the mean cross-entropy
        of their shares and those asked for, and the error `(n, h, w)` that is left when they weaken.

        The clean target `clean` is `(n, c', h, w)`, and `due` `(n, h, w)` the host's error where nothing is wrong."""
        with torch.no_grad():
            maps = host.encode(seen)
            wrong = error(host.decode(maps), clean)
        parts = []
        for level in host.handed:
            patches = (F.adaptive_avg_pool2d(x[:, None], maps[level].shape[2:])[:, 0] for x in (wrong, due))
            logit = self(level, maps[level]).float()
            parts.append(F.binary_cross_entropy_with_logits(logit, signal(*patches, tolerated)))
        return torch.stack(parts).mean(), error(host.decode(maps, self.weaken), clean)


def error(made: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of `(n, c, h, w)` over the channels, `(n, h, w)`."""
    return ((made.float() - target) ** 2).mean(dim=1)


def signal(wrong: Tensor, due: Tensor, tolerated: float) -> Tensor:
    """The share of a patch's features that should go on: all where its error is at most `tolerated` times what is due,
    inversely less where it is larger."""
    most = tolerated * due.clamp(min=LEAST)
    return most / torch.maximum(wrong, most)
