"""Residual features, and the networks of ResAD that judge them (see pipeline/detectors/image/resad.py).

Yao et al., https://arxiv.org/abs/2410.20047 (ResAD) and https://arxiv.org/abs/2509.23741 (ResAD++)."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.parts.flows import Dense, Flow
from pipeline.parts.neighbours import Bank, nearest
from pipeline.parts.tokens import laid_out, tokens
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN, Batch

CLAMP = 1.9  # largest logarithm of the factor by which a coupling of the flow scales
COVERED = 0.3  # share of a position's pixels from which it is anomalous
SHELL = 0.99  # inner radius of the shell that normals are drawn into, as a share of the outer one
MARGIN = 0.1  # by which anomalies are held off: from the outer radius, and from the likelihood of normals
BETA = 0.05  # share of the normals that lies below the likelihood from which anomalies are held off
FAR = 1e30  # beyond every feature


def residuals(maps: Tensor, bank: Bank) -> Tensor:
    """`maps` `(n, c, h, w)` less the nearest of the reference features `bank`, position by position."""
    rows = tokens(maps)
    _, at = bank.nearest(rows.flatten(0, 1))
    return laid_out(rows - bank.points[at[:, 0]].view_as(rows), (maps.shape[2], maps.shape[3]))


def matched(maps: Tensor, other: Tensor, inside: Tensor, share: float) -> Tensor:
    """`maps` `(n, c, h, w)` moved by `share` of the way to the distribution that `other` has, channel by channel and
    image by image: the k-th largest value goes towards the k-th largest. Only what counts is looked at, `inside` bool
    `(n, h, w)`; the rest becomes 0."""
    outside = ~inside.flatten(1)[:, None]  # (n, 1, h w)
    ordered, at = maps.flatten(2).masked_fill(outside, FAR).sort(dim=2, stable=True)
    wanted = other.flatten(2).masked_fill(outside, FAR).sort(dim=2).values
    moved = torch.empty_like(ordered).scatter_(2, at, ordered + share * (wanted - ordered))
    return moved.masked_fill(outside, 0).view_as(maps)


def distance(rows: Tensor) -> Tensor:
    """From the centre of the hypersphere, which is 0, of rows `(m, c)`, `(m,)`: sqrt(x^2 + 1) - 1 (pseudo-Huber) of
    their root mean square x, where the papers take the norm, so that it does not grow with the channels."""
    return (rows.square().mean(dim=1) + 1).sqrt() - 1


def barrier(excess: Tensor, weighted: bool = True) -> Tensor:
    """Mean of the logarithmic barrier -log sigmoid(-excess) over the positive ones of `excess` `(m,)`, 0 where none is;
    weighted by exp(excess), so that what lies farthest off is drawn hardest."""
    beyond = excess > 0
    loss = F.softplus(excess)
    if weighted:
        loss = loss * excess.detach().clamp(max=5).exp()
    return (loss * beyond).sum() / beyond.sum().clamp(min=1)


def contraction(normal: Tensor, odd: Tensor, radius: float) -> Tensor:
    """The bidirectional contraction: distances of normals `(m,)` are drawn into the shell below `radius`, from outside
    and from inside, those of anomalies `(k,)` out beyond a margin."""
    return barrier(normal - radius) + barrier(SHELL * radius - normal) + barrier(radius + MARGIN - odd)


def invariance(rows: Tensor, before: Tensor) -> Tensor:
    """How far anomalous `rows` `(k, c)` have left what they were `before`: mean square and cosine distance."""
    if not len(rows):
        return rows.sum()
    return F.mse_loss(rows, before) + (1 - F.cosine_similarity(rows, before, dim=1)).mean()


def anomalous(batch: Batch, size: tuple[int, int]) -> Tensor:
    """Labels of the positions of a map of `size`, int8 `(n, h', w')`: anomalous where enough of their pixels are, of
    the fullest positions at least; unknown where fewer are, or where any is unknown. Pixels that do not count are taken
    for normal."""
    mask = torch.from_numpy(batch.mask if batch.region is None else np.where(batch.region, batch.mask, NORMAL))
    share = F.adaptive_avg_pool2d((mask == ANOMALOUS).float()[:, None], size)[:, 0]
    odd = (share > 0) & (share >= share.amax(dim=(1, 2), keepdim=True).clamp(max=COVERED))
    doubtful = F.adaptive_max_pool2d((mask == UNKNOWN).float()[:, None], size)[:, 0] > 0
    labels = torch.full(share.shape, NORMAL, dtype=torch.int8)
    return labels.masked_fill((share > 0) | doubtful, UNKNOWN).masked_fill(odd, ANOMALOUS)


class Networks(nn.Module):
    """Per level a code book of normal residuals, a constraintor and a flow. The constraintor adds to a residual what
    two layers make of it, and starts by adding nothing."""

    def __init__(self, channels: list[int], codes: int, couplings: int, ratio: float) -> None:
        super().__init__()
        self.codes = nn.ParameterList(torch.zeros(codes, count) for count in channels)
        self.constraintors, self.flows = nn.ModuleList(), nn.ModuleList()
        for count in channels:
            self.constraintors.append(Dense(count, count, 2 * count))
            subnet = partial(Dense, hidden=max(1, int((count + 1) // 2 * ratio)))
            self.flows.append(Flow(count, [subnet] * couplings, CLAMP, dim=-1))

    @torch.no_grad()
    def begin(self, i: int, rows: Tensor) -> None:
        """Start the code book of level i from evenly chosen `rows` `(m, c)` of normal residuals."""
        chosen = torch.linspace(0, len(rows) - 1, len(self.codes[i])).round().long()
        self.codes[i].copy_(rows[chosen])

    def losses(self, i: int, rows: Tensor, label: Tensor, radius: float, constrain: float) -> dict[str, Tensor]:
        """Losses of level i, of residuals `(m, c)` with their labels `(m,)`; each reaches one kind of network only."""
        rows, label = rows[label != UNKNOWN], label[label != UNKNOWN]
        normal, odd = label == NORMAL, label == ANOMALOUS
        with torch.no_grad():
            _, at = nearest(rows[normal], self.codes[i])
        found = {"codes": F.mse_loss(self.codes[i][at[:, 0]], rows[normal])}
        held = rows + self.constraintors[i](rows)
        apart = distance(held)
        found["contraction"] = constrain * contraction(apart[normal], apart[odd], radius)
        found["invariance"] = constrain * invariance(held[odd], rows[odd])
        likely = self.flows[i].log_likelihood(held.detach())
        edge = torch.quantile(likely[normal].detach(), BETA)  # boundary-guided semi-push-pull
        found["likelihood"] = -likely[normal].mean()
        found["boundary"] = barrier(edge - likely[normal], False) + barrier(likely[odd] - edge + MARGIN, False)
        return found

    def log_likelihood(self, i: int, maps: Tensor, inside: Tensor, match: float) -> Tensor:
        """Of the residuals `maps` `(n, c, h', w')` of level i, per channel, `(n, h', w')`; what does not count,
        `inside` `(n, h', w')`, is taken for a residual of 0."""
        grid, maps = (maps.shape[2], maps.shape[3]), maps * inside[:, None]
        if match > 0:
            _, at = nearest(tokens(maps).flatten(0, 1), self.codes[i])
            known = laid_out(self.codes[i][at[:, 0]].view(len(maps), -1, maps.shape[1]), grid)
            maps = matched(maps, known, inside, match)
        rows = tokens(maps)
        return self.flows[i].log_likelihood(rows + self.constraintors[i](rows)).unflatten(1, grid)
