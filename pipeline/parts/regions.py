"""Maps with a region: which positions count, their mean, and their way back to the pixels."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.parts.filterbank import gaussian
from pipeline.protocols import ANOMALOUS, UNKNOWN, Batch


def counted(batch: Batch, size: tuple[int, int], where: torch.device) -> Tensor:
    """bool `(n, h', w')` on the device `where` for a map of `size` (h', w'): True where at least half of the pixels
    behind a position are in `batch.region`. Every image has one True at least: its fullest positions."""
    if batch.region is None:
        return torch.ones((len(batch), *size), dtype=torch.bool, device=where)
    return covered(torch.from_numpy(batch.region).to(where), size)


def covered(region: Tensor, size: tuple[int, int]) -> Tensor:
    """`counted` for a region of pixels, bool `(n, h, w)`; all is True of an image in which no pixel counts."""
    share = F.adaptive_avg_pool2d(region.float()[:, None], size)[:, 0]
    fullest = share.amax(dim=(1, 2), keepdim=True)
    return share >= fullest.clamp(max=0.5)


def positions(mark: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels of the positions of a map of `size` (h', w') of those of pixels, int8 `(n, h, w)`: anomalous where any
    pixel is, else unknown where any is."""
    anomalous, unknown = (
        F.adaptive_max_pool2d((mark == which).float()[:, None], size)[:, 0] > 0 for which in (ANOMALOUS, UNKNOWN)
    )
    return anomalous.to(torch.int8).masked_fill(unknown & ~anomalous, UNKNOWN)


def pooled(maps: Tensor, inside: Tensor) -> Tensor:
    """Mean of `maps` `(n, c, h', w')` over the positions that count, `inside` bool `(n, h', w')`: `(n, c)`."""
    weight = inside[:, None].to(maps.dtype)
    return (maps * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))


def largest(maps: Tensor, inside: Tensor) -> Tensor:
    """Largest value `(n,)` of `maps` `(n, h', w')` over the positions that count."""
    return maps.masked_fill(~inside, -torch.inf).amax(dim=(1, 2))


def top_mean(maps: Tensor, inside: Tensor, share: float) -> Tensor:
    """Mean `(n,)` of the largest `share` of the values of `maps` `(n, h', w')` that count, of one at least."""
    counts = inside.flatten(1).sum(dim=1)
    wanted = (counts * share).ceil().clamp(min=1)
    ordered = maps.masked_fill(~inside, -torch.inf).flatten(1).sort(dim=1, descending=True).values
    first = torch.arange(ordered.shape[1], device=maps.device)[None] < wanted[:, None]
    return ordered.masked_fill(~first, 0).sum(dim=1) / wanted


def enlarged(maps: Tensor, size: tuple[int, int], smooth: float, inside: Tensor) -> Tensor:
    """`maps` `(n, h', w')` at the image's `size` (h, w): bilinear, then a Gaussian blur whose sigma is the share
    `smooth` of the shorter side, edges reflected. Positions that do not count lend nothing to their neighbours."""
    sigma = smooth * min(size)
    rows = _enlarging(maps.shape[1], size[0], sigma).to(maps.device)
    columns = _enlarging(maps.shape[2], size[1], sigma).to(maps.device)
    if inside.all():
        return rows @ maps @ columns.T
    weight = inside.to(maps.dtype)
    held = rows @ weight @ columns.T
    return (rows @ (maps * weight) @ columns.T) / held.clamp(min=1e-6)  # 0 far from all that counts


@lru_cache(maxsize=64)
def _enlarging(short: int, long: int, sigma: float) -> Tensor:
    """Enlarging and blurring along one axis, both linear, as one matrix `(long, short)`."""
    steps = F.interpolate(torch.eye(short)[None], long, mode="linear", align_corners=False)  # (1, short, long)
    if sigma > 0:
        kernel = gaussian(sigma)
        radius = len(kernel) // 2
        padded = F.pad(steps, (radius, radius), mode="reflect" if radius < long else "replicate")
        steps = F.conv1d(padded.transpose(0, 1), kernel.view(1, 1, -1)).transpose(0, 1)
    return steps[0].T.contiguous()
