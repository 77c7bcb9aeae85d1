"""Exact nearest neighbours in blocks of matrix products: memory does not grow with the number of queries."""

import torch
from torch import Tensor

CELLS = 2**23  # distances held at a time (32 MB)


def nearest(queries: Tensor, bank: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """Euclidean distances and indices of the `count` nearest rows of `bank` `(m, d)`, nearest first.

    Both are `(n, count)` for `queries` `(n, d)`. Neighbours are found through |a|^2 + |b|^2 - 2ab and their distances
    then taken from the differences, so rounding in the products never reaches a distance."""
    centre = bank.mean(dim=0)
    centred = bank - centre
    norms = (centred**2).sum(dim=1)
    block = max(1, CELLS // len(bank))
    distances, indices = [], []
    for some in queries.split(block):
        # |a|^2 is the same for the whole row and does not change the order
        order = torch.addmm(norms, some - centre, centred.T, alpha=-2)
        found = order.argmin(dim=1, keepdim=True) if count == 1 else order.topk(count, dim=1, largest=False).indices
        exact = torch.stack([(some - bank[found[:, k]]).norm(dim=1) for k in range(count)], dim=1)
        exact, rank = exact.sort(dim=1, stable=True)
        distances.append(exact)
        indices.append(found.gather(1, rank))
    return torch.cat(distances), torch.cat(indices)
