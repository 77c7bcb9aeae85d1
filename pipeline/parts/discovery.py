"""Novel class discovery: a parametric classifier taught by its own corrected guesses, and what merges regions.

Wen, Zhao and Qi (ICCV 2023), "Parametric Classification for Generalized Category Discovery", https://arxiv.org/abs/
2211.11727, with the pseudo-label correction and the region merging of Huang et al. (CVPR 2025), "AnomalyNCD",
https://arxiv.org/abs/2410.14379.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STUDENT = 0.1  # temperature of the classifier's cosines
SUPERVISED = 0.07  # that of the supervised contrast


class Heads(nn.Module):
    """An adapter that starts as the identity, a projection for the contrast, and `heads` cosine classifiers."""

    def __init__(self, width: int, hidden: int, classes: int, heads: int) -> None:
        super().__init__()
        self.adapter = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        nn.init.zeros_(self.adapter[2].weight)
        nn.init.zeros_(self.adapter[2].bias)
        self.project = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.prototypes = nn.Parameter(torch.randn(heads, classes, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of `x` `(n, d)`: projections of unit length `(n, hidden)`, cosines to prototypes `(heads, n, classes)`."""
        x = x + self.adapter(x)
        cosines = F.normalize(x, dim=1) @ F.normalize(self.prototypes, dim=2).mT
        return F.normalize(self.project(x), dim=1), cosines


def contrast(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """InfoNCE: of two views of n things, `(n, d)` each of unit length, each is to find its other among all 2n - 1."""
    both = torch.cat([a, b])
    alike = (both @ both.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(alike, torch.arange(len(both), device=a.device).roll(len(a)))


def supervised_contrast(z: Tensor, label: Tensor) -> Tensor:
    """Supervised contrast (Khosla et al. 2020) of `z` `(n, d)` of unit length: each finds all others of its label."""
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    alike = (z @ z.T / SUPERVISED).masked_fill(itself, -torch.inf)
    same = (label[:, None] == label[None]) & ~itself
    logs = F.log_softmax(alike, dim=1).masked_fill(~same, 0)
    return -(logs.sum(dim=1) / same.sum(dim=1).clamp(min=1)).mean()


def corrected(guess: Tensor, score: Tensor, least: float) -> Tensor:
    """Pseudo labels `guess` `(..., n, classes)` drawn to the first class, the normal one, where the detector sees
    little: by w = max(`least` - score, 0), `score` `(n,)` in [0, 1]."""
    weight = (least - score).clamp(min=0)[:, None]
    normal = F.one_hot(torch.zeros(len(score), dtype=torch.int64, device=guess.device), guess.shape[-1])
    return weight * normal + (1 - weight) * guess


def guessed(cosines: Tensor, first: int, temperature: float) -> Tensor:
    """Pseudo labels of the classes from `first` on, `(heads, n, classes - first)`: sharp, and without a gradient."""
    return (cosines.detach()[..., first:] / temperature).softmax(dim=-1)


def cross_entropy(cosines: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy `(heads,)` of `cosines` `(heads, n, classes)` against soft targets of their shape."""
    return -(target * F.log_softmax(cosines / STUDENT, dim=-1)).sum(dim=-1).mean(dim=-1)


def evenness(cosines: Tensor) -> Tensor:
    """What the mean prediction of each head `(heads, n, classes)` lacks of being even: log classes less its entropy."""
    mean = (cosines / STUDENT).softmax(dim=-1).mean(dim=1)
    return (math.log(mean.shape[-1]) + (mean * mean.clamp(min=1e-9).log()).sum(dim=-1)).mean()


def merged(share: Tensor, area: Tensor, temperature: float) -> Tensor:
    """Probabilities of an image, `(classes,)`, of those of its regions `(r, classes)`, weighted by softmax(`area` /
    `temperature`): small false regions have little say."""
    return (area / temperature).softmax(dim=0) @ share
