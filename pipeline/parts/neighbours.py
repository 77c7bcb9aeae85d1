"""Exact nearest neighbours at the speed of matrix products, in memory that does not grow with the queries.

On a CPU faiss searches: on two AMD cores in less time than torch's bare product of the two takes
(`python -m benchmarks.parts nearest`)."""

import faiss
import torch
from torch import Tensor

ROWS = 4096  # queries searched at a time
COLUMNS = 16384  # points of a block of products on a GPU
SPARE = 3  # more candidates where products are in half precision, for the exact distances to choose from


class Bank:
    """Points `(m, d)` to search, prepared once. On a GPU products run in float16, on a CPU in float32; `half` says
    otherwise. Distances are always float32 and exact: they come from differences, not from the products."""

    def __init__(self, points: Tensor, half: bool | None = None) -> None:
        self.points = points
        self._half = points.device.type == "cuda" if half is None else half
        self._centre = points.mean(dim=0)  # nearer to the origin, smaller rounding in the products
        centred = points - self._centre
        if not self._half:
            self._index = faiss.IndexFlatL2(points.shape[1])
            self._index.add(centred.cpu().numpy())
            return
        norms = (centred**2).sum(dim=1)
        self._scale = float(norms.amax().sqrt().clamp(min=1e-12))  # float16 ends at 65504
        self._blocks = [
            ((block / self._scale).T.contiguous().half(), block_norms / self._scale**2)
            for block, block_norms in zip(centred.split(COLUMNS), norms.split(COLUMNS), strict=True)
        ]

    def __len__(self) -> int:
        return len(self.points)

    def nearest(self, queries: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """Euclidean distances and indices, both `(n, count)`, of the `count` nearest points, nearest first, to each of
        `queries` `(n, d)`."""
        distances, indices = [], []
        count = min(count, len(self))
        for some in queries.split(ROWS):
            found = (self._halved if self._half else self._searched)(some - self._centre, count)
            exact = torch.stack([(some - self.points[found[:, k]]).norm(dim=1) for k in range(found.shape[1])], dim=1)
            exact, rank = exact.sort(dim=1, stable=True)
            distances.append(exact[:, :count])
            indices.append(found.gather(1, rank[:, :count]))
        return torch.cat(distances), torch.cat(indices)

    def _searched(self, queries: Tensor, count: int) -> Tensor:
        """Indices `(n, count)` of the nearest points to centred `queries`."""
        _, found = self._index.search(queries.cpu().contiguous().numpy(), count)
        return torch.from_numpy(found).to(queries.device)

    def _halved(self, queries: Tensor, count: int) -> Tensor:
        """The same, and somewhat more, by the least |b|^2 - 2ab: |a|^2 orders nothing."""
        keep = min(len(self), count + SPARE)
        best = found = queries  # of the blocks so far
        start = 0
        queries = (queries / self._scale).half()
        for block, norms in self._blocks:
            order = torch.mm(queries, block).float().mul_(-2).add_(norms)
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
