"""A teacher's head, transformers that learn from it, and the loss by which they do.

Touvron et al. (ICML 2021), "Training data-efficient image transformers & distillation through attention" (DeiT),
https://arxiv.org/abs/2012.12877. Networks take maps per level `(n, c, h', w')`, as a backbone gives them, with what
counts, bool `(n, h', w')`; those that look at pixels take images, from 0 to 255, as the last level.
"""

from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.parts.attention import Block
from pipeline.parts.features import Features, merge
from pipeline.parts.moments import standardised
from pipeline.parts.regions import pooled
from pipeline.parts.tokens import on_grid, tokens

PATCH = 16  # pixels of a token's side
HEADS = 4  # of attention
SPREAD = 0.02  # of first token weights, as in DeiT
Maps = Sequence[Tensor]


def distilled(student: Tensor, teacher: Tensor, temperature: float, targets: Literal["soft", "hard"]) -> Tensor:
    """Mean loss of logits `(n,)` of a student against its teacher's. `soft`: temperature^2 KL(teacher || student) of
    both at that temperature (equation 2, its second term); `hard`: cross entropy with what the teacher decides
    (equation 3)."""
    if targets == "hard":
        return F.binary_cross_entropy_with_logits(student, (teacher > 0).to(student.dtype))
    mine, its = (
        torch.stack([F.logsigmoid(z), F.logsigmoid(-z)]) for z in (student / temperature, teacher / temperature)
    )
    return temperature**2 * (its.exp() * (its - mine)).sum(dim=0).mean()


class Standard(nn.Module):
    """Maps of some levels in standard deviations from their means."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.count = len(channels)
        for i, c in enumerate(channels):
            self.register_buffer(f"mean_{i}", torch.zeros(c))
            self.register_buffer(f"spread_{i}", torch.ones(c))

    def of(self, mean: Maps, spread: Maps) -> Self:
        for i in range(self.count):
            getattr(self, f"mean_{i}").copy_(mean[i])
            getattr(self, f"spread_{i}").copy_(spread[i])
        return self

    def forward(self, levels: Maps) -> list[Tensor]:
        pairs = [(getattr(self, f"mean_{i}"), getattr(self, f"spread_{i}")) for i in range(self.count)]
        return [standardised(m, *pair) for m, pair in zip(levels[: self.count], pairs, strict=True)]


class Teacher(nn.Module):
    """A logit `(n,)` of the mean and of the largest of `hidden` features over the positions that count."""

    def __init__(self, channels: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.standard = Standard(channels)
        self.seen, self.last = nn.Conv2d(sum(channels), hidden, 1), nn.Linear(2 * hidden, 1)

    def forward(self, levels: Maps, inside: Maps) -> Tensor:
        found = F.relu(self.seen(merge(self.standard(levels))))
        most = found.masked_fill(~inside[0][:, None], -torch.inf).amax(dim=(2, 3))
        return self.last(torch.cat([pooled(found, inside[0]), most], dim=1))[:, 0]


class SmallViT(nn.Module):
    """Logits `(n, 2)` of a class and of a distillation token, from scratch. `channels`: of the maps that become tokens,
    all levels at one position together; None for pixels, PATCH x PATCH of them to a token."""

    def __init__(self, channels: Sequence[int] | None, grid: tuple[int, int], width: int, depth: int) -> None:
        super().__init__()
        self.grid = grid
        self.standard = None if channels is None else Standard(channels)
        self.embed = nn.Linear(3 * PATCH**2 if channels is None else sum(channels), HEADS * width)
        self.asked = nn.Parameter(torch.randn(1, 2, HEADS * width) * SPREAD)
        self.place = nn.Parameter(torch.randn(1, grid[0] * grid[1], HEADS * width) * SPREAD)
        self.blocks = nn.ModuleList([Block(HEADS * width, HEADS) for _ in range(depth)])
        self.norm, self.last = nn.LayerNorm(HEADS * width), nn.ModuleList([nn.Linear(HEADS * width, 1) for _ in "cd"])

    def forward(self, levels: Maps, inside: Maps) -> Tensor:
        if self.standard is None:
            size = tuple(PATCH * side for side in self.grid)
            images = F.interpolate(levels[-1], size, mode="bilinear", align_corners=False) / 127.5 - 1
            seen, counts = F.pixel_unshuffle(images, PATCH), inside[-1]
        else:
            seen, counts = torch.cat(on_grid(self.standard(levels), self.grid), dim=1), inside[0]
        share = F.adaptive_avg_pool2d(counts[:, None].float(), self.grid)[:, 0].flatten(1)
        heeded = F.pad(share >= share.amax(dim=1, keepdim=True).clamp(max=0.5), (2, 0), value=True)
        x = self.embed(tokens(seen)) + self.place
        x = torch.cat([self.asked.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x, mask=heeded[:, None, None])
        x = self.norm(x)
        return torch.cat([head(x[:, i]) for i, head in enumerate(self.last)], dim=1)


class FineTuned(nn.Module):
    """Logits `(n, 2)` of a timm vision transformer at its last level: of its class token, and of its second prefix
    token where it has one (as DeiT's distilled models do), else of the mean of its patches."""

    def __init__(self, loaded: Features, width: int) -> None:
        super().__init__()
        self.net = loaded.net.requires_grad_(True)
        self.register_buffer("scale", loaded.scale, persistent=False)
        self.register_buffer("shift", loaded.shift, persistent=False)
        self.last = nn.ModuleList([nn.Linear(width, 1) for _ in "cd"])

    def forward(self, levels: Maps, inside: Maps) -> Tensor:
        images = levels[-1] * inside[-1][:, None] * self.scale + self.shift
        found = self.net(images, output_fmt="NLC", return_prefix_tokens=True)[-1]
        patches, prefix = found if isinstance(found, tuple) else (found, found[:, :0])
        mean = patches.mean(dim=1)
        read = [prefix[:, i] if prefix.shape[1] > i else mean for i in range(2)]
        return torch.cat([head(F.layer_norm(x, x.shape[1:])) for head, x in zip(self.last, read, strict=True)], dim=1)

    def train(self, mode: bool = True) -> Self:
        """The transformer always stands as in scoring: nothing is dropped."""
        super().train(mode)
        self.net.eval()
        return self
