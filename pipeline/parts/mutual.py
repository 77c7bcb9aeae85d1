"""Images that score one another: how far each patch of one lies from the nearest patch of every other.

Li, Huang, Xue and Zhou (ICLR 2024), "MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual
Scoring of the Unlabeled Images", https://arxiv.org/abs/2401.16753. n images of t tokens of d numbers take
O(n^2 t^2 d): each token meets each.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts.features import local_mean

FLOAT = 4  # bytes of a float32
MEGA = 10**6
LEAST = 1e-6  # standard deviation below which an image is flat


def levelled(maps: Tensor, inside: Tensor) -> Tensor:
    """Maps `(n, c, h, w)` of mean 0 and standard deviation 1 over the channels and the positions that count, `inside`
    bool `(n, h, w)`, image by image; 0 elsewhere."""
    weight = inside[:, None].to(maps.dtype)
    count = weight.sum(dim=(1, 2, 3), keepdim=True) * maps.shape[1]
    mean = (maps * weight).sum(dim=(1, 2, 3), keepdim=True) / count
    about = (maps - mean) * weight
    return about / ((about**2).sum(dim=(1, 2, 3), keepdim=True) / count).sqrt().clamp(min=LEAST)


def aggregated(maps: Tensor, degree: int) -> Tensor:
    """Local neighbourhood aggregation: tokens `(n, h w, c)` of unit length, each along the mean over its `degree` x
    `degree` neighbourhood (odd; 1: the token itself) of `maps` `(n, c, h, w)`."""
    around = maps if degree == 1 else local_mean(maps, degree)
    return F.normalize(around.flatten(2).transpose(1, 2), dim=2)


def room(memory: int, tokens: int, width: int) -> int:
    """How many images of `tokens` tokens of `width` numbers meet one image within `memory` MB (10^6 bytes): each holds
    three copies of its tokens while they are aggregated, later two and all products.

    Raises DataError when it is not even one."""
    each = FLOAT * tokens * max(tokens + 2 * width, 3 * width)
    if each > memory * MEGA:
        raise DataError(
            f"memory must hold the distances between two images of {tokens} tokens, {math.ceil(each / MEGA)} MB,"
            f" got {memory}"
        )
    return memory * MEGA // each


def distances(tokens: Tensor, others: Tensor, inside: Tensor) -> Tensor:
    """`(t, m)`: from each of one image's `tokens` `(t, d)` to the nearest token that counts, `inside` bool `(m, s)`, of
    each of m `others` `(m, s, d)`, all of unit length. Products find the nearest, differences measure: a copy lies at
    exactly 0, and rounding is not blown up by a root."""
    alike = (others.reshape(-1, others.shape[2]) @ tokens.T).view(*others.shape[:2], len(tokens))  # (m, s, t)
    if not inside.all():
        alike.masked_fill_(~inside[:, :, None], -torch.inf)
    best = alike.max(dim=1).indices  # (m, t)
    nearest = others[torch.arange(len(others), device=others.device)[:, None], best]  # (m, t, d)
    return nearest.sub_(tokens).norm(dim=2).T


def interval_mean(found: Tensor, share: float) -> Tensor:
    """Mean `(t,)` of the lowest `share`, at least one, of what m images say of t tokens, `found` `(t, m)`."""
    lowest = max(1, int(share * found.shape[1]))
    return found.topk(lowest, dim=1, largest=False).values.mean(dim=1)


def scored(
    maps: Sequence[Tensor],
    insides: Sequence[Tensor],
    others: Sequence[Tensor],
    others_inside: Sequence[Tensor],
    left_out: Tensor,
    degrees: Sequence[int],
    share: float,
    memory: int,
) -> list[Tensor]:
    """Mutual scoring: per level, what the `others` say of n images, mean over the `degrees`, `(n, h, w)`; 0 where
    nothing counts.

    `maps` are levels `(n, c, h, w)`, `others` `(m, c, h, w)`, each with what counts; `left_out`, bool `(n, m)`: these
    have no say. As many of the others as `memory` MB (10^6 bytes) hold are met at a time, by as many images as another
    `memory` MB hold, at least one; that changes nothing but the time.

    Raises DataError when `memory` does not hold the distances between two images."""
    found = []
    for level, inside, other, counts in zip(maps, insides, others, others_inside, strict=True):
        n, width, h, w = level.shape
        size = room(memory, h * w, width)
        each = max(1, memory * MEGA // (FLOAT * h * w * (len(other) + 2 * width)))  # their tokens, and all that is said
        total = level.new_zeros(n, h * w)
        for degree in degrees:
            for first in range(0, n, each):
                group = aggregated(level[first : first + each], degree)
                said = level.new_empty(len(group), h * w, len(other))
                for start in range(0, len(other), size):
                    part = slice(start, start + size)
                    block, block_inside = aggregated(other[part].float(), degree), counts[part].flatten(1)
                    for i, tokens in enumerate(group):
                        said[i, :, part] = distances(tokens, block, block_inside)
                for i, one in enumerate(said, first):
                    total[i] += interval_mean(one[:, ~left_out[i]], share) / len(degrees)
        found.append(total.view(n, h, w) * inside)
    return found


def rescored(
    score: Tensor, feature: Tensor, others: Tensor, others_feature: Tensor, left_out: Tensor, windows: Sequence[int]
) -> Tensor:
    """Scores `(n,)` drawn towards those of the images most alike (re-scoring with a constrained image-level
    neighbourhood): for each window k the mean over the image itself and its k - 1 nearest among m others, weighted by
    the cosine of their features; then the mean over the windows. A window of 1 is the image alone; one that is larger
    than the image has others takes them all.

    `score` `(n,)` and `feature` `(n, d)` are of the images, `others` `(m,)` and `others_feature` `(m, d)` of the
    others; features are of unit length; `left_out`, bool `(n, m)`: these are nobody's neighbours."""
    # the order of cosines, which are coarse near 1
    apart = torch.cdist(feature, others_feature, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart.masked_fill(left_out, torch.inf)
    found = []
    for window in windows:
        near, at = apart.topk(min(window - 1, apart.shape[1]), dim=1, largest=False)
        weight = (1 - near**2 / 2).clamp(min=0)  # the cosine, and 0 for who is left out
        found.append((score + (weight * others[at]).sum(dim=1)) / (1 + weight.sum(dim=1)))
    return torch.stack(found).mean(dim=0)
