"""Which positions of a feature map count: those that lie in the region of their image."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.protocols import Batch


def counted(batch: Batch, size: tuple[int, int], where: torch.device) -> Tensor:
    """bool `(n, h', w')` on the device `where` for a map of `size` (h', w'): True where at least half of the pixels
    behind a position are in `batch.region`. Every image has one True at least: its fullest positions."""
    n = len(batch)
    if batch.region is None:
        return torch.ones((n, *size), dtype=torch.bool, device=where)
    share = F.adaptive_avg_pool2d(torch.from_numpy(batch.region).to(where, torch.float32)[:, None], size)[:, 0]
    fullest = share.amax(dim=(1, 2), keepdim=True)
    return share >= fullest.clamp(max=0.5)


def pooled(maps: Tensor, inside: Tensor) -> Tensor:
    """Mean of `maps` `(n, c, h', w')` over the positions that count, `inside` bool `(n, h', w')`: `(n, c)`."""
    weight = inside[:, None].to(maps.dtype)
    return (maps * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
