"""Contrastive losses, and the augmented views that they compare.

Chen et al. (ICML 2020), "A simple framework for contrastive learning of visual representations" (SimCLR); the
unilateral form after Wang et al. (ICCV 2023), https://arxiv.org/abs/2308.10155, section 3.2.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

AREA, ASPECT = 0.46, math.log(4 / 3)  # of a random crop at full strength: at least 1 - AREA of the view
JITTER, GREYED, FLIPPED = 0.4, 0.2, 0.5  # of tones at full strength; chances of no colour and of a mirrored view
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def soft_weights(z: Tensor, inlier: Tensor, group: Tensor, temperature: float) -> Tensor:
    """How far each inlier view is to be trusted (equation 7): its similarities exp(z_i . z_j / temperature) to the
    other inlier views of its group, as a share of all such of that group; without gradient.

    `z` `(m, d)` unit vectors, `inlier` bool `(m,)`, `group` `(m,)`; returns `(m,)` with the sum 1 for each group that
    has two inliers or more, 0 for what is no inlier."""
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        near = torch.exp(z.float() @ z.float().T / temperature)
        total = (near * _together(inlier, group)).sum(dim=1)
        weight = torch.zeros_like(total)
        for own in _groups(inlier, group):
            weight += total * own / (total * own).sum().clamp(min=1e-12)
        return weight


def unilateral(
    z: Tensor, source: Tensor, inlier: Tensor, group: Tensor, temperature: float, weight: Tensor | None = None
) -> Tensor:
    """The unilaterally aggregated contrastive loss (equations 4 to 6) of unit vectors `z` `(m, d)`.

    All `inlier` views (bool `(m,)`) of one `group` attract each other; of what is no inlier only the views of one
    `source` do; everything else repels. Without any inlier this is SimCLR's loss.

    `weight` `(m,)` of `soft_weights` lets an inlier view count as much as it is trusted: as one that attracts (w_x' of
    equation 6, taken before the logarithm, inside of which it would have no gradient) and as one that is attracted
    (w_x, which the equation's own normaliser would cancel; as a multiple of the mean of its group)."""
    with torch.autocast(z.device.type, enabled=False):
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        close = (z.float() @ z.float().T / temperature).masked_fill(itself, -torch.inf)
        share = (close - close.logsumexp(dim=1, keepdim=True)).masked_fill(itself, 0)  # log of the fraction
        pair = ((source[:, None] == source) & ~itself | _together(inlier, group)).float()
        anchor = torch.ones_like(share[0])
        if weight is not None and inlier.any():
            trusted = torch.where(inlier, weight, 1.0)
            pair = pair * trusted
            for own in _groups(inlier, group):
                anchor = torch.where(own, weight / weight[own].mean(), anchor)
        return -(anchor * (pair * share).sum(dim=1) / pair.sum(dim=1)).mean()


def views(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Each of float `images` `(n, 3, h, w)`, 0 to 255, cropped, mirrored and recoloured by chance; the more the larger
    `strength` from 0 (not at all) to 1. The changes are SimCLR's in part: at 1 brightness, contrast and saturation
    change by up to 40 %, of every view and not of most; hue does not change, and nothing is blurred. Crops keep at
    least 54 % of the area, as in CSI (Tack et al., NeurIPS 2020)."""
    n, where = len(images), images.device

    def drawn(low: float = -1.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    area, aspect = 1 - strength * AREA * drawn(0), torch.exp(0.5 * strength * ASPECT * drawn())
    tall, wide = (area.sqrt() / aspect).clamp(max=1), (area.sqrt() * aspect).clamp(max=1)
    mirrored = torch.where(drawn(0) < strength * FLIPPED, -1.0, 1.0)
    nothing = torch.zeros(n)
    rows = [wide * mirrored, nothing, (1 - wide) * drawn(), nothing, tall, (1 - tall) * drawn()]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(n, 2, 3).to(where), list(images.shape), align_corners=False)
    x = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gains = [(1 + strength * JITTER * drawn()).to(where).view(n, 1, 1, 1) for _ in range(3)]
    colourless = (drawn(0) < strength * GREYED).to(where).view(n, 1, 1, 1)
    x = x * gains[0]
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * gains[1]
    grey = (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    x = torch.where(colourless, grey.expand_as(x), grey + (x - grey) * gains[2])
    return x.clamp(0, 255)


def _groups(inlier: Tensor, group: Tensor) -> Iterator[Tensor]:
    """The inliers of each group that has any, bool `(m,)`."""
    for one in group[inlier].unique():
        yield inlier & (group == one)


def _together(inlier: Tensor, group: Tensor) -> Tensor:
    """Which pairs of different views attract each other for being inliers of one group, bool `(m, m)`."""
    itself = torch.eye(len(inlier), dtype=torch.bool, device=inlier.device)
    return inlier[:, None] & inlier & (group[:, None] == group) & ~itself


def turned(images: Tensor, times: int) -> Tensor:
    """Square images `(n, c, h, h)` turned by `times` quarters."""
    return torch.rot90(images, times, dims=(2, 3))


def pasted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Float `images` `(n, 3, h, w)`, 0 to 255, each with a rectangle cut from one of them by chance, its tones changed,
    laid over another place (Li et al., CVPR 2021, "CutPaste": 2 to 15 % of the area, sides of 0.3 to 3.3)."""
    n, _, height, width = images.shape
    found = images.clone()
    for i, chance in enumerate(torch.rand(n, 8, generator=generator).tolist()):
        area, aspect = (0.02 + 0.13 * chance[0]) * height * width, math.exp(math.log(3.3) * (2 * chance[1] - 1))
        tall = min(max(round(math.sqrt(area * aspect)), 1), height - 1)
        wide = min(max(round(math.sqrt(area / aspect)), 1), width - 1)
        top, left, to_top, to_left = (
            int(share * (room + 1)) for share, room in zip(chance[2:6], (height - tall, width - wide) * 2, strict=True)
        )
        piece = images[int(chance[6] * n), :, top : top + tall, left : left + wide]
        tone = 1 + JITTER * (2 * chance[7] - 1)
        found[i, :, to_top : to_top + tall, to_left : to_left + wide] = (piece * tone).clamp(0, 255)
    return found
