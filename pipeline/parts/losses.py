"""Losses for few anomalous among many normal positions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.protocols import ANOMALOUS, NORMAL

MARGIN = 0.5  # th of the truncated L1 loss: outputs beyond it are good enough


def truncated_l1(odd: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Truncated L1 loss of SuperSimpleNet: mean of max(0, MARGIN - m) over anomalous and of max(0, MARGIN + m) over
    normal positions that count; `odd`, `target`, `inside` of one shape, anything but these labels is passed over."""
    high, low = (odd[inside & (target == which)] for which in (ANOMALOUS, NORMAL))
    losses = [F.relu(MARGIN + sign * part).mean() for part, sign in ((high, -1), (low, 1)) if len(part)]
    return torch.stack(losses).sum() if losses else odd.sum() * 0


def focal(logit: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Mean focal loss (Lin et al. 2017) of `logit` against 0 or 1, same shape."""
    target = target.to(logit.dtype)
    loss = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
    missed = 1 - torch.exp(-loss)  # 1 - p of the true class
    return (missed**gamma * loss).mean() if len(loss) else logit.sum() * 0


def dice(logit: Tensor, target: Tensor) -> Tensor:
    """1 minus the Dice coefficient of the sigmoid of `logit` and `target` in [0, 1], both `(n, h, w)`, mean over the
    images; squares below, and 1 added above and below (Milletari et al. 2016)."""
    p = logit.sigmoid()
    both = 2 * (p * target).sum(dim=(1, 2)) + 1
    return 1 - (both / ((p**2).sum(dim=(1, 2)) + (target**2).sum(dim=(1, 2)) + 1)).mean()
