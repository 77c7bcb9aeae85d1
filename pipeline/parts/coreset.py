"""k-centre greedy: the few points that leave no other point far away (Gonzalez 1985; Sener & Savarese 2018)."""

import logging
from typing import Self

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import DataError
from pipeline.parts.progress import Progress

BLOCK = 256  # centres per matrix product
ROWS = 4096  # points per matrix product: on a CPU the 4 MB of distances stay in the cache until their minimum is known
ON_GPU = 64  # as many times more
FLOAT = 4  # bytes of a float32
SPARE = 2  # times the centres that are still to be had that a reduced pool keeps


def k_centre_greedy(points: Tensor, count: int, start: int = 0, block: int = BLOCK) -> Tensor:
    """Indices of `count` centres among `points` `(n, d)`, in the order chosen: int64 `(count,)`, all different.

    Starts from `start` and always adds the point farthest from its nearest centre. In blocks: only the
    4 x `block` farthest points are candidates, and the greedy runs among them as long as the best of them is at
    least as far as the nearest one was at the start, since no other point can be farther. So this is the
    exact greedy, with one matrix product per block of centres instead of one pass over all points per centre."""
    points = points.float()
    points = points - points.mean(dim=0)  # nearer to the origin, smaller rounding in the products
    norms = (points**2).sum(dim=1)
    nearest = torch.full_like(norms, torch.inf)  # squared distance of every point to its nearest centre
    _update(nearest, points, norms, torch.tensor([start], device=points.device))
    chosen = [start]
    with Progress(count, "coreset", "centres", done=1) as bar:
        while len(chosen) < count:
            distance, at = nearest.topk(min(4 * block, len(points)))
            fresh = at[_greedy(points[at], norms[at], distance.clone(), min(block, count - len(chosen)))]
            chosen += fresh.tolist()
            if len(chosen) < count:
                _update(nearest, points, norms, fresh)
            bar.update(len(fresh))
    return torch.tensor(chosen, dtype=torch.int64)


def _update(nearest: Tensor, points: Tensor, norms: Tensor, fresh: Tensor) -> None:
    """Lower `nearest` `(n,)` to the squared distances to the new centres, indices `fresh` `(b,)`, if less."""
    centres, centre_norms = (-2 * points[fresh]).T.contiguous(), norms[fresh]
    rows = ROWS * ON_GPU if points.device.type == "cuda" else ROWS
    held = points.new_empty(min(rows, len(points)), len(fresh))
    for at in range(0, len(points), rows):
        part = slice(at, at + rows)
        cells = held[: len(points[part])]
        torch.addmm(centre_norms, points[part], centres, out=cells)
        update = cells.amin(dim=1).add_(norms[part]).clamp_min_(0)
        torch.minimum(nearest[part], update, out=nearest[part])
    nearest[fresh] = -1  # chosen: below every distance


def _greedy(points: Tensor, norms: Tensor, nearest: Tensor, most: int) -> Tensor:
    """The greedy among candidates, while the best is at least as far as the nearest was at the start."""
    edge = nearest.amin()
    mutual = torch.addmm(norms + norms[:, None], points, points.T, alpha=-2).clamp_min_(0)
    picked: list[Tensor] = []
    while len(picked) < most:
        best = nearest.argmax()
        if picked and nearest[best] < edge:
            break
        picked.append(best)
        nearest = torch.minimum(nearest, mutual[best])
        nearest[best] = -1
    return torch.stack(picked)


def project(points: Tensor, dims: int, seed: int) -> Tensor:
    """`points` `(n, d)` under a random Gaussian projection to `(n, dims)`; distances are kept on average
    (Johnson & Lindenstrauss 1984)."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(points.shape[1], dims, generator=generator) / dims**0.5
    return points @ directions.to(points.device)


class Coreset:
    """The coreset of a stream of points, with never more than `room` of them held.

    As long as all points fit into `room`, this is the greedy over all of them. When they do not, the full pool is
    reduced to its own centres, twice as many as the end can ask for, and filled again; every reduction adds at most
    the covering radius of those to that of the end (Guha et al. 2003, "Clustering data streams")."""

    def __init__(self, share: float, expected: int, room: int, dims: int | None = None, seed: int = 0) -> None:
        """`share` of all points seen is kept at the end; of more points than `room`, at most a third of that.
        `expected` is the most points that may come. Centres are chosen in a random projection to `dims`, if given."""
        wished = max(1, round(share * expected))
        most = wished if expected <= room else max(1, min(wished, room // 3))
        if most < wished:
            logging.getLogger(__name__).warning(
                "the memory budget holds %d points: the coreset keeps %d, not the %d that its share asks for",
                *(room, most, wished),
            )
        self.reduced = 0  # times that the pool was reduced
        self.seen = 0
        self._share, self._room, self._most = share, max(room, 3), most
        self._dims, self._seed = dims, seed
        self._rng = np.random.default_rng(seed)
        self._pool: Tensor | None = None
        self._held = 0

    @classmethod
    def within(
        cls, memory: int, share: float, shape: torch.Size, images: int, dims: int | None = 128, seed: int = 0
    ) -> Self:
        """Room for the patches of `images` images with maps of `shape` (n, c, h', w') within `memory` MB (10^6 bytes).

        Raises DataError when these do not hold one image."""
        _, c, h, w = shape
        kept = min(c, dims or c)
        patch = FLOAT * (c + kept + (kept if kept < c else 0))  # it is held as it is, projected and centred
        room = memory * 10**6 // patch
        if room < h * w:
            raise DataError(
                f"memory must hold the patches of one image, {h} x {w} of {c} numbers: at least"
                f" {-(-h * w * patch // 10**6)} MB, got {memory}"
            )
        return cls(share, images * h * w, min(room, images * h * w), dims, seed)

    def add(self, points: Tensor) -> None:
        """Take in `points` `(n, d)`; they are copied."""
        if self._pool is None:
            self._pool = points.new_empty(self._room, points.shape[1])
        self.seen += len(points)
        while len(points):
            if self._held == self._room:
                kept = self._centres(SPARE * self._most)
                self._pool[: len(kept)] = kept
                self._held = len(kept)
                self.reduced += 1
            some = points[: self._room - self._held]
            self._pool[self._held : self._held + len(some)] = some
            self._held += len(some)
            points = points[len(some) :]

    def centres(self) -> Tensor:
        """The coreset `(m, d)` of all points so far, in the order in which they were chosen."""
        return self._centres(max(1, min(round(self._share * self.seen), self._most)))

    def _centres(self, count: int) -> Tensor:
        assert self._pool is not None
        points = self._pool[: self._held]
        if count >= len(points):
            return points.clone()
        searched = points
        if self._dims is not None and self._dims < points.shape[1]:
            searched = project(points, self._dims, self._seed)
        return points[k_centre_greedy(searched, count, int(self._rng.integers(len(points)))).to(points.device)]
