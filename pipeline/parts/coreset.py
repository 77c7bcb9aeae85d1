"""k-centre greedy: the few points that leave no other point far away (Gonzalez 1985; Sener & Savarese 2018)."""

import torch
from torch import Tensor
from tqdm import tqdm

BLOCK = 64  # centres per matrix product


def k_centre_greedy(points: Tensor, count: int, start: int = 0, block: int = BLOCK) -> Tensor:
    """Indices of `count` centres among `points` `(n, d)`, in the order chosen: int64 `(count,)`, all different.

    Starts from `start` and always adds the point farthest from its nearest centre. In blocks: only the
    4 x `block` farthest points are candidates, and the greedy runs among them as long as the best of them is at
    least as far as the nearest one was at the start, since no other point can be farther. So this is the
    exact greedy, with one matrix product per block of centres instead of one pass over all points per centre."""
    points = points.float()
    points = points - points.mean(dim=0)  # nearer to the origin, smaller rounding in the products
    norms = (points**2).sum(dim=1)
    nearest = _squared(points, norms, points[start : start + 1], norms[start : start + 1])[:, 0]
    nearest[start] = -1  # chosen: below every distance
    chosen = [start]
    with tqdm(total=count, initial=1, desc="coreset", unit="centre", mininterval=1.0) as bar:
        while len(chosen) < count:
            distance, at = nearest.topk(min(4 * block, len(points)))
            fresh = _greedy(points[at], norms[at], distance.clone(), min(block, count - len(chosen)))
            fresh = at[fresh]
            update = _squared(points, norms, points[fresh], norms[fresh]).amin(dim=1)
            nearest = torch.minimum(nearest, update)
            nearest[fresh] = -1
            chosen += fresh.tolist()
            bar.update(len(fresh))
    return torch.tensor(chosen, dtype=torch.int64)


def _greedy(points: Tensor, norms: Tensor, nearest: Tensor, most: int) -> Tensor:
    """The greedy among candidates, while the best is at least as far as the nearest was at the start."""
    edge = nearest.amin()
    mutual = _squared(points, norms, points, norms)
    picked: list[Tensor] = []
    while len(picked) < most:
        best = nearest.argmax()
        if picked and nearest[best] < edge:
            break
        picked.append(best)
        nearest = torch.minimum(nearest, mutual[best])
        nearest[best] = -1
    return torch.stack(picked)


def _squared(a: Tensor, a_norms: Tensor, b: Tensor, b_norms: Tensor) -> Tensor:
    """Squared distances `(len(a), len(b))`."""
    return torch.addmm(b_norms + a_norms[:, None], a, b.T, alpha=-2).clamp_min_(0)


def project(points: Tensor, dims: int, seed: int) -> Tensor:
    """`points` `(n, d)` under a random Gaussian projection to `(n, dims)`; distances are kept on average
    (Johnson & Lindenstrauss 1984)."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(points.shape[1], dims, generator=generator) / dims**0.5
    return points @ directions.to(points.device)
