"""Mean and spread of features, taken in batch by batch."""

import torch
from torch import Tensor

CUT = 5.0  # standard deviations: beyond them lies nothing that a head could have been trained on
FLAT = 1e-3  # share of the largest standard deviation below which a feature is not stretched further


class Covariance:
    """Mean and covariance of rows `(m, c)`, about the mean of the first, so that squares do not cancel."""

    def __init__(self) -> None:
        self._seen = 0
        self._guess: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        if self._guess is None:
            self._guess = rows.mean(dim=0)
            self._total = torch.zeros_like(self._guess, dtype=torch.float64)
            self._squares = torch.zeros_like(self._squared(rows), dtype=torch.float64)
        about = rows - self._guess
        self._seen += len(rows)
        self._total += about.sum(dim=0, dtype=torch.float64)
        self._squares += self._squared(about)

    def _squared(self, about: Tensor) -> Tensor:
        return (about.T @ about).double()

    def found(self) -> tuple[Tensor, Tensor]:
        """Mean `(c,)` and covariance `(c, c)`, float64."""
        assert self._guess is not None
        mean = self._total / self._seen
        return self._guess + mean, self._squares / self._seen - mean[:, None] * mean


class Moments(Covariance):
    """The same for the standard deviations alone."""

    def _squared(self, about: Tensor) -> Tensor:
        return (about.double() ** 2).sum(dim=0)

    def found(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, float32 `(c,)`; the latter at least FLAT of the largest, and never 0."""
        assert self._guess is not None
        mean = self._total / self._seen
        spread = (self._squares / self._seen - mean**2).clamp(min=0).sqrt().float()
        return self._guess + mean.float(), spread.clamp(min=FLAT * float(spread.max()) or 1.0)


def standardised(maps: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Features `(n, c, h', w')`, or rows `(m, c)`, in standard deviations from the mean, cut at CUT of them."""
    if maps.ndim == 4:
        mean, spread = mean[:, None, None], spread[:, None, None]
    return ((maps - mean) / spread).clamp_(-CUT, CUT)
