"""MuSc: unlabelled images score one another, as what is normal is found again in most of them.

Li, Huang, Xue and Zhou (ICLR 2024), "MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual
Scoring of the Unlabeled Images", https://arxiv.org/abs/2401.16753.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, MinLen
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError, ParamsError
from pipeline.parts import features, mutual
from pipeline.parts.backbones import at_depths
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.images import checked
from pipeline.parts.progress import Progress
from pipeline.parts.regions import counted, enlarged, largest, pooled
from pipeline.protocols import Batch, Samples, Scores, State

LEVELS = (1, 2, 3)  # of a timm CNN
DEPTHS = (1 / 4, 1 / 2, 3 / 4, 1)  # where the looked-at blocks of a ViT end, as in the paper: 5, 11, 17 and 23 of 24
BATCH = 16  # images looked at together during fit
LEAST = 2  # references below which none is scored by another
LARGEST = 65504.0  # of the numbers that float16 holds


@dataclass
class MuSc:
    """Each patch by its distance to the most alike patch of every reference image; those that say least, decide.

    Fit keeps some images of training, whatever their labels: none is looked at, and a few anomalies among them do
    little harm, as an image hears the `share` of the references that find it least odd. So scores do not depend on
    what else is in a batch. With `references` 0 (the paper's zero-shot use) fit keeps nothing, and the images of each
    batch score one another: then scores and thresholds are of that batch alone.

    A scored image that equals a reference in every pixel does not hear that one, unless it equals all of them. In a
    zero-shot batch each image leaves out itself alone, so copies in it find nothing odd about one another.

    Scoring an image against n references of t tokens of d numbers takes O(n t^2 d), a batch of n images against itself
    O(n^2 t^2 d), both for each level and degree. Memory holds the references in half precision, the maps of the batch's
    images, and what `memory` says."""

    learns_from: ClassVar[Literal["normals", "labels", "samples"]] = "samples"
    paper: ClassVar[str] = "https://arxiv.org/abs/2401.16753"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose tokens are compared, each level on its own grid. The paper's is CLIP's ViT-L/14-336 at 518 pixels, with
    blocks 5, 11, 17 and 23."""
    references: Annotated[int, Ge(0)] = 64
    """Images of training to score against, drawn evenly over it; more is steadier and slower in proportion. 0: the
    images of a batch score one another (the paper's, whose batch is the whole test set; the line scores in batches of
    at most 32, each judging itself)."""
    grid: Annotated[int, Ge(2)] = 20
    """Most tokens of a level down or across; maps with more are averaged over squares of so many positions that they
    have no more (the paper's 37). Time grows with its fourth power."""
    degrees: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = field(default_factory=lambda: [1, 3, 5])
    """Odd widths, in tokens, of the neighbourhoods over which tokens are averaged; small ones see small defects, large
    ones see large ones. [1] takes each token alone."""
    share: Annotated[float, Gt(0), Le(1)] = 0.3
    """Share of the references, those nearest to a patch, whose distances are averaged; 1 hears all of them."""
    windows: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = field(default_factory=lambda: [1, 2, 3])
    """Sizes of the neighbourhoods of like images, itself included, over which an image's score is averaged; [1] leaves
    the scores as they are."""
    smooth: Annotated[float, Ge(0), Le(1)] = 0.0
    """Sigma of the blur of the map, as a share of the image's shorter side (the paper has none)."""
    memory: Annotated[int, Ge(1)] = 24
    """MB (10^6 bytes) for the references that are met at a time, and as many again for the images that meet them, of
    which one is held at least; less only takes longer."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []
        even = [degree for degree in self.degrees if degree % 2 == 0]
        if even:
            raise ParamsError(f"degrees must be odd widths in tokens, got {even[0]} (image/musc)")

    def fit(self, train: Samples) -> Self:
        """Keep the tokens of evenly drawn images of `train`, uint8 `(n, 3, h, w)`, and how odd they find one another.

        Raises DataError for images of differing sizes, for fewer than 2 references where there are to be some, and
        when `memory` does not hold the distances between two of them."""
        count = min(self.references, len(train))
        if count < min(self.references, LEAST) or not len(train) or 0 < self.references < LEAST:
            raise DataError(f"musc needs at least {LEAST} images of training to score against, got {count}")
        self._features = features.load(at_depths(self.backbone, DEPTHS), LEVELS)
        chosen = np.linspace(0, len(train) - 1, max(count, 1)).round().astype(int)  # with none, one tells the size
        levels, insides, tops, marks, size = [], [], [], [], None
        with Progress(len(chosen), "references", "images") as bar:
            for batch in train[chosen].batches(BATCH):
                images = checked(batch, size)
                size = images.shape[2:]
                maps, inside, top = self._seen(images, batch)
                levels.append([level.clamp(-LARGEST, LARGEST).half() for level in maps])
                insides.append(inside)
                tops.append(top)
                marks.append(_marks(images))
                bar.update(len(batch))
        of = 0 if self.references == 0 else len(chosen)
        self.levels_ = [torch.cat(each)[:of] for each in zip(*levels, strict=True)]
        self.inside_ = [torch.cat(each)[:of] for each in zip(*insides, strict=True)]
        self.top_, self.marks_ = torch.cat(tops)[:of], np.concatenate(marks)[:of]
        self.size_, self.hash_ = size, self._features.hash
        left_out = _copies(self.marks_, self.marks_).to(self.top_.device)
        self.rated_ = self.top_.new_zeros(of)
        with torch.inference_mode():
            for start in range(0, of, BATCH):
                part = slice(start, start + BATCH)
                own, inside = [level[part].float() for level in self.levels_], [each[part] for each in self.inside_]
                local = self._local(own, inside, self.levels_, self.inside_, left_out[part])
                self.rated_[part] = local.amax(dim=(1, 2))
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)`, distances between unit vectors, at most 2.

        With `references` 0 raises DataError for a batch of which `share` is not even one other image, and when `memory`
        does not hold the distances between two images."""
        must_be_fitted(self, "rated_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            maps, inside, top = self._seen(images, batch)
            if self.references:
                left_out = _copies(_marks(images), self.marks_).to(top.device)
                others, others_inside, others_top = self.levels_, self.inside_, self.top_
            else:
                need = 1 + int(np.ceil(1 / self.share))
                if len(batch) < need:
                    raise DataError(
                        f"musc without references scores the images of a batch by one another and needs at least {need}"
                        f" in a batch, got {len(batch)} (sample {batch.ids[0]})"
                    )
                left_out = torch.eye(len(batch), dtype=torch.bool, device=top.device)
                others, others_inside, others_top = maps, inside, top
            local = self._local(maps, inside, others, others_inside, left_out)
            sample = largest(local, counted(batch, self.size_, local.device))
            rated = self.rated_ if self.references else sample
            sample = mutual.rescored(sample, top, rated, others_top, left_out, self.windows)
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "rated_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "rated_")
        arrays = {f"level.{i}": level.cpu().numpy() for i, level in enumerate(self.levels_)}
        arrays |= {f"inside.{i}": inside.cpu().numpy() for i, inside in enumerate(self.inside_)}
        arrays |= {"top": self.top_.cpu().numpy(), "rated": self.rated_.cpu().numpy(), "marks": self.marks_}
        return State(
            {**arrays, **self._features.arrays()},
            {"size": list(self.size_), "weights_sha256": self.hash_, "levels": len(self.levels_)},
        )

    def from_state(self, state: State) -> Self:
        self._features = features.restore(at_depths(self.backbone, DEPTHS), state.arrays, LEVELS)
        held = {
            name: torch.from_numpy(np.array(array)).to(self._features.device)
            for name, array in state.arrays.items()
            if name != "marks" and not name.startswith(features.PREFIX)
        }
        count = state.meta["levels"]
        self.levels_, self.inside_ = ([held[f"{name}.{i}"] for i in range(count)] for name in ("level", "inside"))
        self.top_, self.rated_, self.marks_ = held["top"], held["rated"], np.array(state.arrays["marks"])
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        return self

    def _seen(self, images: np.ndarray, batch: Batch) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Levelled maps `(n, c, h', w')`, what counts in them, and a feature of each whole image, of unit length: the
        class token of a ViT, of any other backbone the mean of its last map over what counts."""
        found, top = self._features.maps_and_class(images)
        inside = [counted(batch, level.shape[2:], level.device) for level in found]
        if top is None:
            top = pooled(found[-1], inside[-1])
        maps = [mutual.levelled(level, counts) for level, counts in zip(found, inside, strict=True)]
        for i, level in enumerate(maps):
            times = -(-max(level.shape[2:]) // self.grid)
            if times > 1:  # of unit length later, so what does not count, and is 0, is as if not there
                maps[i] = F.adaptive_avg_pool2d(level, tuple(-(-side // times) for side in level.shape[2:]))
                inside[i] = counted(batch, maps[i].shape[2:], level.device)
        return maps, inside, F.normalize(top, dim=1)

    def _local(
        self,
        maps: list[Tensor],
        inside: list[Tensor],
        others: list[Tensor],
        others_inside: list[Tensor],
        left_out: Tensor,
    ) -> Tensor:
        """Maps `(n, h, w)` of what the others say: the mean over the levels, each enlarged."""
        odd = mutual.scored(maps, inside, others, others_inside, left_out, self.degrees, self.share, self.memory)
        each = [enlarged(o, self.size_, self.smooth, i) for o, i in zip(odd, inside, strict=True)]
        return torch.stack(each).mean(dim=0)


def _marks(images: np.ndarray) -> np.ndarray:
    """What tells images apart, uint8 `(n, 32)`: SHA-256 of their pixels."""
    return np.stack([np.frombuffer(hashlib.sha256(image.tobytes()).digest(), np.uint8) for image in images])


def _copies(marks: np.ndarray, others: np.ndarray) -> Tensor:
    """bool `(n, m)`: which of the others equal each image in every pixel; none of them where that would be all."""
    same = torch.from_numpy((marks[:, None] == others[None]).all(axis=2))
    return same & ~same.all(dim=1, keepdim=True)
