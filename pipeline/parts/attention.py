"""Attention and the blocks of transformers.

Vaswani et al. (NeurIPS 2017), "Attention is all you need"; the linear form after Katharopoulos et al. (ICML 2020),
"Transformers are RNNs", https://arxiv.org/abs/2006.16236.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["softmax", "linear", "relu"]


def linear_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Each query's mean of `v`, weighted by phi(q) . phi(k) with phi = elu + 1, all `(..., t, d)`; the sums over keys
    come first, so time and memory grow with t, not with its square (equations 4 to 7). `mask`, bool, broadcast to
    `(..., 1, s)`: True for the keys that count, the same ones for every query."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    if mask is not None:
        k = k * mask.mT
    total = k.mT @ v  # (..., d, d)
    weight = q @ k.sum(dim=-2, keepdim=True).mT  # (..., t, 1)
    return (q @ total) / weight.clamp(min=1e-6)


def relu_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Each query's sum of `v`, weighted by the positive part of q . k / sqrt(d), all `(..., t, d)`: nothing of keys
    that point elsewhere. `mask` as in `Attention`."""
    weights = F.relu(q @ k.mT / q.shape[-1] ** 0.5)
    return (weights if mask is None else weights * mask) @ v


class Attention(nn.Module):
    """Multi-head attention of tokens to themselves or to a context; `kind` says by which weights."""

    def __init__(self, width: int, heads: int, kind: Kind = "softmax") -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        self.query, self.both = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`x` `(n, t, width)` to the same shape; keys and values are of `context` `(n, s, width)`, or of x itself.

        `mask`, bool, broadcast to `(n, heads, t, s)`: True where a query may look; of the kind linear the same keys for
        every query, `(n, heads, 1, s)`."""
        seen = x if context is None else context
        q = self._apart(self.query(x))
        k, v = map(self._apart, self.both(seen).chunk(2, dim=-1))
        if self.kind == "linear":
            found = linear_attention(q, k, v, mask)
        elif self.kind == "relu":
            found = relu_attention(q, k, v, mask)
        else:
            found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(found.transpose(1, 2).flatten(2))

    def _apart(self, x: Tensor) -> Tensor:
        """`(n, t, width)` to `(n, heads, t, width / heads)`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MLP(nn.Sequential):
    """Two layers with a GELU between; `drop` is the dropout behind each."""

    def __init__(self, width: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(drop), nn.Linear(hidden, width), nn.Dropout(drop)
        )


class Block(nn.Module):
    """A transformer block, norms first: attention to itself or to a context, then an MLP of `ratio` times the width."""

    def __init__(self, width: int, heads: int, kind: Kind = "softmax", ratio: float = 4.0) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads, kind)
        self.after, self.mlp = nn.LayerNorm(width), MLP(width, round(ratio * width))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`x` `(n, t, width)` to the same shape; see `Attention`. The context is taken as it comes."""
        x = x + self.attention(self.norm(x), context, mask)
        return x + self.mlp(self.after(x))


def apart(grid: tuple[int, int], neighbours: int) -> Tensor:
    """bool `(h w, h w)`: True where the second position lies outside the square of `neighbours` positions around the
    first, or of as many as leave some to each; True everywhere for none."""
    reach = min(neighbours // 2, (max(grid) - 2) // 2)
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    down, across = ((x.flatten()[:, None] - x.flatten()).abs() for x in (rows, columns))
    return (down > reach) | (across > reach) if neighbours else torch.ones_like(down, dtype=torch.bool)
