"""Exact nearest neighbours at the speed of matrix products, in memory that does not grow with the queries."""

import torch
from torch import Tensor

ROWS, COLUMNS = 512, 2048  # of a block of distances on a CPU: its 4 MB stay in the cache until their minimum is known
ON_GPU = 8  # as many times more of both
SPARE = 3  # more candidates where products are in half precision, for the exact distances to choose from


class Bank:
    """Points `(m, d)` to search, prepared once. On a GPU the products run in float16, on a CPU in float32; `half`
    says otherwise. Distances are always float32 and exact: they come from differences, not from the products."""

    def __init__(self, points: Tensor, half: bool | None = None) -> None:
        self.points = points
        gpu = points.device.type == "cuda"
        self._half = gpu if half is None else half
        self._rows, columns = (ROWS * ON_GPU, COLUMNS * ON_GPU) if gpu else (ROWS, COLUMNS)
        self._centre = points.mean(dim=0)  # nearer to the origin, smaller rounding in the products
        centred = points - self._centre
        norms = (centred**2).sum(dim=1)
        self._scale = float(norms.amax().sqrt().clamp(min=1e-12)) if self._half else 1.0  # float16 ends at 65504
        precision = torch.float16 if self._half else torch.float32
        self._blocks = [
            ((block / self._scale).T.contiguous().to(precision), block_norms / self._scale**2)
            for block, block_norms in zip(centred.split(columns), norms.split(columns), strict=True)
        ]

    def __len__(self) -> int:
        return len(self.points)

    def nearest(self, queries: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """Euclidean distances and indices, both `(n, count)`, of the `count` nearest points, nearest first, to each of
        `queries` `(n, d)`."""
        distances, indices = [], []
        for some in queries.split(self._rows):
            found = self._candidates((some - self._centre) / self._scale, count)
            exact = torch.stack([(some - self.points[found[:, k]]).norm(dim=1) for k in range(found.shape[1])], dim=1)
            exact, rank = exact.sort(dim=1, stable=True)
            distances.append(exact[:, :count])
            indices.append(found.gather(1, rank[:, :count]))
        return torch.cat(distances), torch.cat(indices)

    def _candidates(self, queries: Tensor, count: int) -> Tensor:
        """Indices `(n, count or somewhat more)` of the points with the least |b|^2 - 2ab: |a|^2 orders nothing."""
        keep = min(len(self), count + SPARE) if self._half else count
        best = found = queries  # of the blocks so far
        start = 0
        queries = queries.to(torch.float16 if self._half else torch.float32)
        for block, norms in self._blocks:
            if self._half:
                order = torch.mm(queries, block).float().mul_(-2).add_(norms)
            else:
                order = torch.addmm(norms, queries, block, alpha=-2)
            if keep == 1:  # several times faster than topk
                least, at = order.min(dim=1, keepdim=True)
            else:
                least, at = order.topk(min(keep, len(norms)), largest=False)
            at = at + start
            start += len(norms)
            if start > len(norms):
                least, at = torch.cat([best, least], dim=1), torch.cat([found, at], dim=1)
                least, rank = least.topk(min(keep, least.shape[1]), largest=False)
                at = at.gather(1, rank)
            best, found = least, at
        return found


def nearest(queries: Tensor, points: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """`Bank(points).nearest(queries, count)`, for a single search."""
    return Bank(points).nearest(queries, count)
