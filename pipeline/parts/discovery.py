"""Novel class discovery: a parametric classifier taught by its own corrected guesses, and what merges regions.

Wen, Zhao and Qi (ICCV 2023), "Parametric Classification for Generalized Category Discovery", https://arxiv.org/abs/
2211.11727, with the pseudo-label correction and the region merging of Huang et al. (CVPR 2025), "AnomalyNCD",
https://arxiv.org/abs/2410.14379.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts import nets
from pipeline.parts.draws import shuffled
from pipeline.parts.moments import Moments, standardised

NOVEL = -1  # the kind of an anomaly of which nothing is known
STUDENT = 0.1  # temperature of the classifier's cosines
SELF = 0.2  # that of the contrast between views (the paper's is 1 on a projection of its own)
WARM = 0.05  # of the first pseudo labels (the paper's 0.07)
SHARP = 0.04  # and of the last
SUPERVISED = 0.07  # that of the supervised contrast


def kinds(odd: pd.DataFrame, base: list[str]) -> np.ndarray:
    """Of each anomaly, manifest rows `odd`, the number of its kind where its category is of `base`, else NOVEL.

    Raises DataError where a base category has no anomaly, or one that does not name its defect."""
    kind = np.full(len(odd), NOVEL)
    if base:
        known = odd["category"].isin(base).to_numpy()
        missing = [name for name in base if not (odd["category"] == name).any()]
        if missing or (odd["defect"][known] == "").any():
            raise DataError(
                f"base must name categories whose anomalies in training each name their defect, got {missing or base}"
            )
        pairs = odd["category"][known] + "/" + odd["defect"][known]
        kind[known] = np.unique(pairs, return_inverse=True)[1]
    return kind


def heights(peaks: Tensor, odd: Tensor) -> Tensor:
    """Peaks of the map in regions, `(r,)`, from 0 at the median of those of normal images to 1 at that of anomalies,
    `odd` `(r,)`, and held there. The paper goes from the least peak to the most, where one outlier makes all others
    look normal."""
    low = peaks[~odd].median() if (~odd).any() else peaks.min()
    return ((peaks - low) / (peaks[odd].median() - low).clamp(min=1e-6)).clamp(0, 1)


def says(area: np.ndarray, whose: np.ndarray, temperature: float) -> np.ndarray:
    """What each region `(r,)` says of its image, `whose`: shares by which `merged` weights them."""
    most = np.zeros(whose.max() + 1)
    np.maximum.at(most, whose, area)
    weight = np.exp((area - most[whose]) / temperature)  # 1 of an image's largest region, so that nothing overflows
    return weight / np.bincount(whose, weight)[whose]


def starts(
    x: Tensor, kind: Tensor, odd: Tensor, weight: Tensor, classes: int, normal: bool, heads: int, seed: int
) -> Tensor:
    """Where prototypes begin, `(heads, known + normal + classes, d)`, among `x` `(r, d)` of unit length: means of known
    kinds; that of regions of normal images, those not `odd` `(r,)`, where a normal class is asked for; and centres of
    k-means of the rest of novel kind, each counted by its `weight` `(r,)`, another draw for each head."""
    rest = (kind == NOVEL) & odd
    fixed = [x[kind == one].mean(dim=0) for one in range(int(kind.max()) + 1)]
    if normal:
        low = (kind == NOVEL) & ~odd
        fixed.append(x[low].mean(dim=0) if low.any() else -x[rest].mean(dim=0))
    found = []
    for head in range(heads):
        means = KMeans(classes, n_init=10, random_state=seed + head)
        means.fit(x[rest].cpu().numpy(), sample_weight=weight[rest].cpu().numpy())
        found.append(torch.stack([*fixed, *torch.from_numpy(means.cluster_centers_).to(x)]))
    return F.normalize(torch.stack(found), dim=2)


class Space(NamedTuple):
    """Principal components `axes` `(d, parts)` of vectors, in standard deviations `spread` from their `mean`."""

    mean: Tensor
    spread: Tensor
    axes: Tensor

    @classmethod
    def of(cls, rows: Tensor, parts: int) -> Self:
        """That of `rows` `(r, d)`, of as many components as asked for, or as there are."""
        moments = Moments()
        moments.add(rows)
        mean, spread = moments.found()
        axes = torch.linalg.svd(standardised(rows, mean, spread), full_matrices=False)[2][:parts].T.contiguous()
        return cls(mean, spread, axes)

    def placed(self, seen: Tensor) -> Tensor:
        """Vectors `(r, views, d)` by their components, `(r, views, parts)`, of unit length."""
        rows = standardised(seen.flatten(0, 1), self.mean, self.spread) @ self.axes
        return F.normalize(rows, dim=1).unflatten(0, seen.shape[:2])


class Heads(nn.Module):
    """An adapter that starts as the identity, and `heads` cosine classifiers on what it gives."""

    def __init__(self, width: int, hidden: int, classes: int, heads: int) -> None:
        super().__init__()
        self.adapter = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        nn.init.zeros_(self.adapter[2].weight)
        nn.init.zeros_(self.adapter[2].bias)
        self.prototypes = nn.Parameter(torch.randn(heads, classes, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of `x` `(n, d)`: what the adapter makes of it, of unit length, and cosines to prototypes `(heads, n,
        classes)`. The paper's contrast sees a projection of the former; here both share one geometry."""
        x = F.normalize(x + self.adapter(x), dim=1)
        return x, x @ F.normalize(self.prototypes, dim=2).mT


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


def agreement(a: Tensor, b: Tensor, score: Tensor, first: int, temperature: float, least: float) -> Tensor:
    """Loss of each head, `(heads,)`: of two views `(heads, n, outputs)` each is to say what the other does, corrected
    by the detector's `score` `(n,)` where `least` is above 0. The outputs before `first` are of known kinds."""
    total = a.new_zeros(len(a))
    for taught, teacher in ((a, b), (b, a)):
        target = guessed(teacher, first, temperature)
        if least:
            target = corrected(target, score, least)
        total = total + cross_entropy(taught, F.pad(target, (first, 0)))
    return total / 2


class Weights(NamedTuple):
    """Of evenness and of what is known; and `least` of the correction."""

    even: float
    known: float
    correction: float


def losses(
    one: tuple[Tensor, Tensor],
    two: tuple[Tensor, Tensor],
    kind: Tensor,
    score: Tensor,
    first: int,
    temperature: float,
    weights: Weights,
) -> dict[str, Tensor]:
    """What two views of n regions, as `Heads` gives them, are to get right: of novel kinds what each view says of the
    other, of all others their kind, of which there are `first`."""
    new, rest = kind == NOVEL, 1 - weights.known
    a, b = one[1][:, new], two[1][:, new]
    guess = agreement(a, b, score[new], first, temperature, weights.correction)
    found = {
        "contrast": rest * contrast(one[0], two[0], SELF),
        "guess": rest * guess.mean(),
        "even": rest * weights.even * evenness(torch.cat([a, b], dim=1)),
    }
    if first:
        both, label = torch.cat([one[1][:, ~new], two[1][:, ~new]], dim=1), kind[~new].repeat(2)
        target = F.one_hot(label, both.shape[2]).to(both.dtype)
        found["known"] = weights.known * cross_entropy(both, target.expand_as(both)).mean()
        alike = supervised_contrast(torch.cat([one[0][~new], two[0][~new]]), label)
        found["known_contrast"] = weights.known * alike
    return found


def draws(
    kind: np.ndarray, views: int, steps: int, batch: int, temperatures: tuple[float, float], seed: int
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Per step positions `(n,)` in `kind` `(r,)`, half of them of known kinds where there are, two views of
    each, `(n, 2)`, and the temperature of pseudo labels: from the first to the last over four fifths of the steps."""
    rng = np.random.default_rng(seed)
    groups = [group for group in (np.flatnonzero(kind == NOVEL), np.flatnonzero(kind != NOVEL)) if len(group)]
    each = [min(batch // len(groups), len(group)) for group in groups]
    orders = [shuffled(len(group), steps * count, rng) for group, count in zip(groups, each, strict=True)]
    warm, sharp = temperatures
    for step in range(steps):
        at = [g[o[step * n : (step + 1) * n]] for g, o, n in zip(groups, orders, each, strict=True)]
        which = rng.random((sum(each), views)).argsort(axis=1)[:, :2]
        temperature = warm + (sharp - warm) * min(step / (0.8 * steps), 1)
        yield torch.from_numpy(np.concatenate(at)), torch.from_numpy(which), temperature


class Plan(NamedTuple):
    """Of training: optimiser steps, regions per step, learning rate and seed."""

    steps: int
    batch: int
    rate: float
    seed: int


def taught(
    net: Heads, x: Tensor, kind: Tensor, score: Tensor, first: int, weights: Weights, plan: Plan
) -> list[dict[str, float]]:
    """The losses by step of `net`, trained on regions in several views, `(r, views, d)`, of `kind` `(r,)`, with the
    heights `score` `(r,)` of their maps; the head that agrees best with itself is kept."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=plan.rate, weight_decay=5e-5)

    def lacking(drawn: tuple[Tensor, Tensor, float]) -> dict[str, Tensor]:
        at, which, temperature = drawn
        one, two = (net(x[at, which[:, view]]) for view in (0, 1))
        return losses(one, two, kind[at], score[at], first, temperature, weights)

    drawn = draws(kind.cpu().numpy(), x.shape[1], plan.steps, plan.batch, (WARM, SHARP), plan.seed)
    schedule = nets.warm_cosine(optimiser, plan.steps, least=1e-3)
    history = nets.train(optimiser, drawn, plan.steps, lacking, schedule)
    nets.frozen(net)
    new = kind == NOVEL
    (_, a), (_, b) = net(x[new, 0]), net(x[new, 1])
    best = int(agreement(a, b, score[new], first, SHARP, weights.correction).argmin())
    net.prototypes = nn.Parameter(net.prototypes[best : best + 1].clone(), requires_grad=False)
    return history


def evenness(cosines: Tensor) -> Tensor:
    """What the mean prediction of each head `(heads, n, classes)` lacks of being even: log classes less its entropy."""
    mean = (cosines / STUDENT).softmax(dim=-1).mean(dim=1)
    return (math.log(mean.shape[-1]) + (mean * mean.clamp(min=1e-9).log()).sum(dim=-1)).mean()


def merged(share: Tensor, area: Tensor, temperature: float) -> Tensor:
    """Probabilities of an image, `(classes,)`, of those of its regions `(r, classes)`, weighted by softmax(`area` /
    `temperature`): small false regions have little say."""
    return (area / temperature).softmax(dim=0) @ share
