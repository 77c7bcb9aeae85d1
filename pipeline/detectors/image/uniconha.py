"""UniCon-HA: normal views drawn into one cluster, virtual outliers scattered, the more boldly the deeper the network.

Wang, Wang, Qin, Zhang, Bao and Huang (ICCV 2023), "Unilaterally Aggregated Contrastive Learning with Hierarchical
Augmentation for Anomaly Detection", https://arxiv.org/abs/2308.10155.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, MultipleOf
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts import features, nets
from pipeline.parts.backbones import Tokens
from pipeline.parts.contrastive import pasted, soft_weights, turned, unilateral, views
from pipeline.parts.device import seeded
from pipeline.parts.draws import shuffled
from pipeline.parts.encoder import Encoder, Projection
from pipeline.parts.features import Backbone, BackboneField, Features
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.held_images import Images, hold_images, shrunk
from pipeline.parts.images import checked
from pipeline.parts.neighbours import Bank
from pipeline.parts.progress import Progress
from pipeline.parts.regions import enlarged, largest
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (2, 3, 4)  # of a timm backbone: stages 2 to 4, which table 6 aggregates
TURNS = (1, 2, 3)  # quarters, each a virtual outlier of its own (section 4.1)
TUNED = 0.1  # of the rate, for what comes with weights
BATCH = 8  # images looked at together outside of training

Drawn = tuple[list[Tensor], Tensor, Tensor]  # views per stage (2m, 3, p, p); their groups; which are inliers


@dataclass
class UniConHA:
    """An encoder trained until views of normal patches lie together and shifted patches lie apart from these and from
    each other; a patch is as odd as it is unlike the nearest normal one (equation 10).

    As on MVTec AD in the paper, patches are learned, not whole images (`patch: 1` for these). Normals of one category
    form one cluster each where there are categories (section 3.2, labelled multi-class)."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2308.10155"

    backbone: BackboneField = field(default_factory=Backbone)
    """What is trained: a timm model is fine-tuned, its batch norms as they are; `filterbank`, which has nothing to
    train, stands for a small residual net from scratch (the paper's is a ResNet-18)."""
    width: Annotated[int, Ge(2), MultipleOf(2)] = 32
    """Channels of the first residual stage, doubled by each of the next two (the paper's second stage has 128); only
    for `filterbank`. Time grows with its square."""
    patch: Annotated[float, Gt(0), Le(1)] = 0.125
    """Side of a patch, as a share of the image's shorter side (the paper: whole images for objects, 32 x 32 pixels for
    defects); a larger one shows arrangements, a smaller one details."""
    view: Annotated[int, Ge(16)] = 32
    """Side in pixels at which the encoder sees a patch; images are scored at the same scale. Time
    grows with its square."""
    shift: Literal["rotation", "cutpaste"] = "cutpaste"
    """How virtual outliers are made: turned by 90, 180 and 270 degrees (the paper's, for what has an upright), or with
    a piece of another patch pasted in (defects, and what looks alike when turned)."""
    strength: Annotated[float, Ge(0), Le(1)] = 1.0
    """Strength of the views' augmentation at the last stage: 0 is none; 1 crops as the paper does and changes the tones
    of every view, though neither hue nor sharpness. Each stage before has an equal step less."""
    shallow: Annotated[float, Ge(0)] = 1.0
    """Weight (lambda of equation 9) of the losses at all stages but the last; 0 is without hierarchical
    augmentation."""
    aggregate: bool = True
    """Whether normal views attract each other; without that the loss is SimCLR's over normals and virtual outliers."""
    soft: bool = True
    """Whether normal views count at the last stage as they resemble the others (equations 6 and 7)."""
    temperature: Annotated[float, Gt(0)] = 0.5
    """Of all similarities, tau and tau_omega (the paper's 0.5); smaller heeds near ones more."""
    images: Annotated[int, Ge(2)] = 16
    """Normal patches per step; each comes with three virtual outliers, and all in two views. More give each view more
    to differ from, and take time in proportion."""
    steps: Annotated[int, Ge(1)] = 150
    """Optimiser steps (the paper trains for 2,048 epochs); more fit closer, in proportionally more time."""
    rate: Annotated[float, Gt(0), Le(1)] = 1e-3
    """First learning rate of AdamW, along half a cosine to 0; a tenth of it for what comes with weights (the paper:
    0.01, SGD). Larger learns faster and less steadily."""
    kept: Annotated[int, Ge(1)] = 10000
    """Normal patches to compare with, drawn evenly; larger is slower to score."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of images held during fit; of more images than it holds, as many as it does are drawn."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the patches drawn and their changes."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError without normals, for images of differing sizes, smaller than a patch or of a scaled size that
        the backbone cannot take, or when `cache` does not hold one."""
        some = normals(train)
        held = hold_images(some, self.cache, self.seed)
        loaded = features.load(self.backbone, LEVELS)
        self._scaled(held.size, loaded)
        with seeded(self.seed):
            encoder = Encoder(loaded, self.width)
            heads = nn.ModuleList([Projection(c) for c in encoder.channels(self.view)]).to(loaded.device)
        groups = [
            {"params": list(heads.parameters()), "lr": self.rate},
            {"params": list(encoder.parameters()), "lr": self.rate * (1.0 if encoder.own else TUNED)},
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=1e-4)
        encoder.train()
        drawn = self._drawn(held, len(heads), loaded.device)

        def losses(step: Drawn) -> dict[str, Tensor]:
            seen, group, inlier = step
            source = torch.arange(len(inlier) // 2, device=inlier.device).repeat(2)
            found = {}
            for stage, (head, x) in enumerate(zip(heads, seen, strict=True), start=1):
                last = stage == len(heads)
                if not last and not self.shallow:
                    continue
                z = head(encoder(x, stage)[-1])  # equation 8
                weight = None
                if last and self.soft and self.aggregate:  # section 4.1: at the last stage alone
                    weight = soft_weights(z, inlier, group, self.temperature)
                attracted = inlier if self.aggregate else torch.zeros_like(inlier)
                loss = unilateral(z, source, attracted, group, self.temperature, weight)
                found[f"stage_{stage}"] = (1.0 if last else self.shallow) * loss / len(heads)  # equation 9
            return found

        history = nets.train(optimiser, drawn, self.steps, losses, nets.warm_cosine(optimiser, self.steps))
        self.encoder_, self.size_, self.hash_ = nets.frozen(encoder), held.size, loaded.hash
        self.history_ = history
        self._kept(self._filled(some))
        return self

    def score(self, batch: Batch) -> Scores:
        """1 minus the cosine to the nearest normal patch, `(n, h, w)`, None where a patch is the whole image; scores
        `(n,)`, the largest of all patches."""
        must_be_fitted(self, "encoder_")
        z, inside = self._patches(batch)
        n, rows, columns, _ = z.shape
        distance, _ = self._bank.nearest(z.flatten(0, 2))
        odd = (distance[:, 0] ** 2 / 2).view(n, rows, columns)  # of unit vectors: 1 - cosine
        sample = largest(odd, inside).cpu().numpy()
        if rows * columns == 1:
            return Scores(sample)
        share, total = (self._spread(each) for each in (inside.float(), odd * inside))
        whole = total / share.clamp(min=1e-6)  # a pixel's score: the mean of all patches that show it
        return Scores(sample, enlarged(whole, self.size_, self.smooth, share > 0).cpu().numpy())

    def state(self) -> State:
        must_be_fitted(self, "encoder_")
        arrays = {**nets.arrays(self.encoder_), "bank": self.bank_.cpu().numpy()}
        return State(arrays, {"size": list(self.size_), "weights_sha256": self.hash_})

    def from_state(self, state: State) -> Self:
        loaded = features.load(replace(self.backbone, weights="none"), LEVELS)  # its weights come with the state
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        self._scaled(self.size_, loaded)
        with seeded(self.seed):
            encoder = Encoder(loaded, self.width)
        self.encoder_ = nets.restored(encoder, state.arrays)
        self._kept(torch.from_numpy(np.array(state.arrays["bank"])).to(loaded.device))
        return self

    def _kept(self, bank: Tensor) -> None:
        self.bank_, self._bank = bank, Bank(bank)

    def _scaled(self, size: tuple[int, int], loaded: Features) -> None:
        """Set the side of a patch in an image's pixels and the size at which images of `size` (h, w) are scored."""
        self._side = round(self.patch * min(size))
        if self._side < 2:
            raise DataError(f"a patch must have 2 pixels a side, got {self._side} of images of {size[0]} x {size[1]}")
        self._seen = tuple(round(side * self.view / self._side) for side in size)
        if isinstance(loaded.net, Tokens):
            for seen in ((self.view, self.view), self._seen):
                why = loaded.net.refusal(seen)
                if why:
                    raise DataError(f"images for the backbone {loaded.name} {why}, got {seen[0]} x {seen[1]}")

    def _drawn(self, held: Images, stages: int, where: torch.device) -> Iterator[Drawn]:
        """Normal patches, three virtual outliers of each and, per stage, two views of all, as strong as it is deep."""
        rng = np.random.default_rng(self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        category = np.unique(held.category, return_inverse=True)[1]
        order = shuffled(len(held), self.steps * self.images, rng)
        inlier = (torch.arange(len(TURNS) + 1).repeat_interleave(self.images) == 0).repeat(2).to(where)
        for start in range(0, len(order), self.images):
            at = order[start : start + self.images]
            x = self._cut(held, at, rng).to(where)
            if self.shift == "rotation":
                shifted = [turned(x, times) for times in TURNS]
            else:
                shifted = [pasted(x, generator) for _ in TURNS]
            x = torch.cat([x, *shifted])
            seen = [
                torch.cat([views(x, self.strength * (stage + 1) / stages, generator) for _ in range(2)])
                for stage in range(stages)
            ]
            group = torch.from_numpy(np.tile(category[at], 2 * (len(TURNS) + 1))).to(where)
            yield seen, group, inlier

    def _cut(self, held: Images, at: np.ndarray, rng: np.random.Generator) -> Tensor:
        """A patch by chance of each image at some positions, around a pixel that counts: float `(m, 3, view, view)`."""
        (height, width), side = held.size, self._side
        found = []
        for i in at.tolist():
            top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
            if not held.inside[i].all():
                spots = np.flatnonzero(held.inside[i])
                row, column = divmod(int(rng.choice(spots)), width) if len(spots) else (top, left)
                top = min(max(row - side // 2, 0), height - side)
                left = min(max(column - side // 2, 0), width - side)
            found.append(held.x[i, :, top : top + side, left : left + side])
        return resized(torch.from_numpy(np.stack(found)).float(), (self.view, self.view))

    def _spread(self, found: Tensor) -> Tensor:
        """What was found of patches `(n, rows, columns)`, summed over all that hold a cell of the map `(n, h', w')`."""
        down, across = self._reach
        padded = F.pad(found[:, None], (across - 1, across - 1, down - 1, down - 1))
        return F.avg_pool2d(padded, self._reach, stride=1)[:, 0]

    @torch.inference_mode()
    def _patches(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit vectors `(n, rows, columns, c)` of all patches that lie within the images, and which count."""
        checked(batch, self.size_)
        images = torch.from_numpy(shrunk(batch)[0]).to(self.encoder_.scale.device)
        x = resized(images.float(), self._seen)
        maps = self.encoder_(x)[-1].float()
        seen, grid = self._seen, maps.shape[2:]
        self._reach = tuple(
            max(1, min(round(self.view * cells / side), cells)) for cells, side in zip(grid, seen, strict=True)
        )
        z = F.normalize(F.avg_pool2d(maps, self._reach, stride=1), dim=1).permute(0, 2, 3, 1)
        if batch.region is None:
            return z, torch.ones(z.shape[:3], dtype=torch.bool, device=z.device)
        region = torch.from_numpy(batch.region).to(z.device).float()[:, None]
        share = F.avg_pool2d(F.adaptive_avg_pool2d(region, grid), self._reach, stride=1)[:, 0]
        return z, share >= share.amax(dim=(1, 2), keepdim=True).clamp(max=0.5)  # as regions.counted

    def _filled(self, some: Samples) -> Tensor:
        """Unit vectors `(m, c)` of normal patches that count, drawn evenly from the images."""
        rng, found = np.random.default_rng(self.seed), []
        each = -(-self.kept // len(some))
        with Progress(len(some), "bank", "images") as bar:
            for batch in some.batches(BATCH):
                z, inside = self._patches(batch)
                for image, counts in zip(z, inside, strict=True):
                    mine = image[counts]
                    at = rng.permutation(len(mine))[:each]
                    found.append(mine[torch.from_numpy(at).to(mine.device)])
                bar.update(len(batch))
        bank = torch.cat(found)
        keep = np.sort(rng.permutation(len(bank))[: self.kept])
        return bank[torch.from_numpy(keep).to(bank.device)].clone()


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Float images `(n, 3, h, w)` at `size`, bilinear."""
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
