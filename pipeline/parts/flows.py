"""Normalizing flows of affine couplings: invertible networks that give features an exact likelihood.

Dinh, Sohl-Dickstein and Bengio (ICLR 2017), "Density estimation using Real NVP", https://arxiv.org/abs/1605.08803. The
conditions are those of Ardizzone, Lueth, Kruse, Rother and Koethe (2019), "Guided Image Generation with Conditional
Invertible Neural Networks", https://arxiv.org/abs/1907.02392.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOG_2PI = math.log(2 * math.pi)
LEAST = 2  # channels below which there is nothing to couple
BASE = 1e4  # the slowest sinusoid of a position turns once in 2 pi times as many positions

Subnet = Callable[[int, int], nn.Module]  # channels that it sees, channels that it gives


class Coupling(nn.Module):
    """One half of the channels passes unchanged and says how the other half is scaled and shifted; then all channels
    are put into another, fixed order.

    `dim` is the dimension of the channels: 1 of maps, -1 of rows."""

    def __init__(self, channels: int, subnet: Subnet, clamp: float, dim: int) -> None:
        super().__init__()
        self.kept, self.clamp, self.dim = (channels + 1) // 2, clamp, dim
        self.net = subnet(self.kept, 2 * (channels - self.kept))
        self.register_buffer("order", torch.randperm(channels))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`x` changed, and the logarithm of the determinant of its Jacobian, of x's shape without channels."""
        kept, changed = x.split([self.kept, x.shape[self.dim] - self.kept], dim=self.dim)
        scale, shift = self._affine(kept, condition)
        joined = torch.cat([kept, changed * scale.exp() + shift], dim=self.dim)
        return Reordered.apply(joined, self.dim, self.order), scale.sum(dim=self.dim)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        """The `x` that `forward` made into `y`."""
        joined = y.index_select(self.dim, self.order.argsort())
        kept, changed = joined.split([self.kept, y.shape[self.dim] - self.kept], dim=self.dim)
        scale, shift = self._affine(kept, condition)
        return torch.cat([kept, (changed - shift) * (-scale).exp()], dim=self.dim)

    def _affine(self, kept: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logarithms of the scales, within `clamp` of 0 (Dinh et al., section 4.1: by a tanh), and shifts."""
        found = self.net(kept) if condition is None else self.net(kept, condition)
        scale, shift = found.to(kept.dtype).chunk(2, dim=self.dim)
        return self.clamp * (2 * torch.sigmoid(scale) - 1), shift  # tanh(scale / 2), ten times as fast


class Reordered(torch.autograd.Function):
    """`x` with the elements along `dim` in the order of a permutation. The gradient goes back by the inverse: torch
    would add it up element by element, which takes longer than all else in a coupling."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, order: Tensor) -> Tensor:
        ctx.dim, ctx.order = dim, order
        return x.index_select(dim, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(ctx.dim, ctx.order.argsort()), None, None


class Flow(nn.Module):
    """Couplings one after the other, which bring features to a standard normal distribution; `subnets` has one maker
    of subnets per coupling. With subnets that start at 0 a flow starts as a mere change of order."""

    def __init__(self, channels: int, subnets: list[Subnet], clamp: float, dim: int) -> None:
        super().__init__()
        assert channels >= LEAST
        self.dim = dim
        self.couplings = nn.ModuleList(Coupling(channels, subnet, clamp, dim) for subnet in subnets)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z of x's shape, and the logarithm of the Jacobian's determinant, of that shape without channels. Of maps it
        is each position's share of it: they sum to that of the image."""
        total = x.new_zeros(())
        for coupling in self.couplings:
            x, one = coupling(x, condition)
            total = total + one
        return x, total

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """The features that `forward` made into `z`."""
        for coupling in reversed(self.couplings):
            z = coupling.inverse(z, condition)
        return z

    def log_likelihood(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Log-likelihood per channel, in nats, of x's shape without channels."""
        z, determinant = self(x, condition)
        return (gaussian(z, self.dim) + determinant) / x.shape[self.dim]


def gaussian(z: Tensor, dim: int, mean: float = 0.0) -> Tensor:
    """Log-density of `z` under a normal distribution of variance 1 whose mean has this value in every channel."""
    return -0.5 * ((z - mean) ** 2).sum(dim=dim) - 0.5 * z.shape[dim] * LOG_2PI


class Dense(nn.Module):
    """Subnet for rows `(..., c)`: two layers, the last of which starts at 0. A condition `(..., k)` joins before the
    first; where it has fewer dimensions it is shared, and so is its part of the product."""

    def __init__(self, channels: int, out: int, hidden: int, condition: int = 0) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(channels, hidden), nn.Linear(hidden, out)
        self.condition = nn.Linear(condition, hidden, bias=False) if condition else None
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        seen = self.first(x)
        if self.condition is not None:
            seen = seen + self.condition(condition)
        return self.last(F.relu(seen, inplace=True))


class Convolved(nn.Sequential):
    """Subnet for maps `(n, c, h, w)`: two convolutions of one `kernel` (odd), the last of which starts at 0."""

    def __init__(self, channels: int, out: int, hidden: int, kernel: int) -> None:
        last = nn.Conv2d(hidden, out, kernel, padding=kernel // 2)
        super().__init__(nn.Conv2d(channels, hidden, kernel, padding=kernel // 2), nn.ReLU(inplace=True), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


def positions(size: tuple[int, int], width: int) -> Tensor:
    """Sinusoids of every position of a map of `size` (h, w), row by row, float32 `(h w, width)`: half of them of the
    row, half of the column (Vaswani et al. 2017, section 3.5, in two dimensions). `width` is a multiple of 4."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    rates = BASE ** (-torch.arange(width // 4) / (width // 4))
    angles = torch.stack([rows.flatten(), columns.flatten()])[:, :, None] * rates  # (2, h w, width / 4)
    return torch.cat([*angles.sin(), *angles.cos()], dim=1)
