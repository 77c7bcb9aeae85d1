"""Maps of any backbone as tokens on one grid, and back."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts.regions import pooled

FAINT = 0.2  # of the usual length of a token: what is much shorter points nowhere
LEAST = 2  # positions down and across below which there is nothing to attend to


def on_grid(levels: Sequence[Tensor], grid: tuple[int, int] | None = None) -> list[Tensor]:
    """Every level `(n, c, h', w')` at the resolution `grid`, of the coarsest level if None: means of the values behind
    a position where it has more, bilinear where it has fewer.

    Raises DataError when the grid has fewer than LEAST x LEAST positions: such a backbone gives no tokens."""
    height, width = grid or min((level.shape[2:] for level in levels), key=lambda size: size[0] * size[1])
    if min(height, width) < LEAST:
        raise DataError(
            f"the backbone gives {height} x {width} tokens of an image, at least {LEAST} x {LEAST} are needed:"
            " take finer levels or larger images"
        )
    found = []
    for level in levels:
        if level.shape[2] > height or level.shape[3] > width:
            found.append(F.adaptive_avg_pool2d(level, (height, width)))
        elif level.shape[2:] == (height, width):
            found.append(level)
        else:
            found.append(F.interpolate(level, (height, width), mode="bilinear", align_corners=False))
    return found


def tokens(maps: Tensor) -> Tensor:
    """`(n, c, h, w)` as `(n, h w, c)`, row by row."""
    return maps.flatten(2).transpose(1, 2)


def laid_out(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """`(n, h w, c)` as `(n, c, h, w)`: the way back."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def cosine_distance(a: Tensor, b: Tensor, dim: int = 1) -> Tensor:
    """1 minus the cosine of the angle between `a` and `b` along `dim`: 0 for the same direction, at most 2."""
    return 1 - F.cosine_similarity(a, b, dim=dim)


def apart(a: Tensor, b: Tensor, inside: Tensor, faint: float = FAINT) -> Tensor:
    """Cosine distance of the tokens of `a` and `b` `(n, c, h, w)`, `(n, h, w)`, each with one more value alike in both:
    `faint` times the root mean square length of its image's tokens `inside`, bool `(n, h, w)`.

    So two tokens of which next to nothing is seen, black ones, are alike, where their angle alone would be noise."""
    first, second = (faint**2 * pooled((x**2).sum(dim=1, keepdim=True), inside)[:, :, None] for x in (a, b))
    product = (a * b).sum(dim=1) + (first * second).sqrt()
    lengths = ((a**2).sum(dim=1) + first) * ((b**2).sum(dim=1) + second)
    return 1 - product / lengths.clamp(min=1e-12).sqrt()


def runs(length: int, count: int) -> list[range]:
    """`count` runs of neighbours that share 0 to `length` - 1 as evenly as they can; where there are fewer than
    `count`, some are in several runs."""
    starts = [i * length // count for i in range(count + 1)]
    return [range(start, max(end, start + 1)) for start, end in pairwise(starts)]


def grouped(levels: Sequence[Tensor], count: int) -> list[Tensor]:
    """Levels of one shape, the blocks of a ViT, as the means of `count` runs of them at most, first to last; levels of
    differing shapes, the maps of a CNN, as they are."""
    if len({level.shape for level in levels}) > 1:
        return list(levels)
    return [mean_of(levels, run) for run in runs(len(levels), min(count, len(levels)))]


def patched(levels: Sequence[Tensor], count: int, size: tuple[int, int], patch: int) -> list[Tensor]:
    """`grouped` on one grid, of images of `size` (h, w): that of the groups where all share it, else of tokens of
    `patch` pixels, at most as fine as the first group."""
    found = grouped(levels, count)
    if len({group.shape[2:] for group in found}) == 1:
        return on_grid(found)
    finest = zip(size, found[0].shape[2:], strict=True)
    return on_grid(found, tuple(min(round(side / patch), most) for side, most in finest))


def scaled(maps: Sequence[Tensor], scales: Sequence[Tensor]) -> list[Tensor]:
    """Each of `maps` `(n, c, h, w)` divided by its scale `(c,)`, channel by channel."""
    return [level / scale[:, None, None] for level, scale in zip(maps, scales, strict=True)]


def mean_of(tensors: Sequence[Tensor], run: range) -> Tensor:
    """Mean of those of `tensors`, all of one shape, whose places are in `run`."""
    return torch.stack([tensors[i] for i in run]).mean(dim=0)


def flat_cosine(a: Tensor, b: Tensor, inside: Tensor) -> Tensor:
    """1 minus the cosine of the angle between `a` and `b` `(n, c, h, w)`, each image one long vector of what counts,
    `inside` bool `(n, h, w)`; mean over the images."""
    weight = inside[:, None].to(a.dtype)
    return cosine_distance((a * weight).flatten(1), (b * weight).flatten(1)).mean()


def with_gradient(x: Tensor, factor: Tensor) -> Tensor:
    """`x` itself, its gradient multiplied by `factor`, which is broadcast to its shape."""
    return x.detach() + (x - x.detach()) * factor
