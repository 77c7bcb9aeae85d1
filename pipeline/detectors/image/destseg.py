"""DeSTSeg: a student that gives the teacher's features of the clean image, and a network that reads the difference.

Zhang, Li, Li, Huang, Shan and Chen (CVPR 2023), "DeSTSeg: Segmentation Guided Denoising Student-Teacher for Anomaly
Detection", https://arxiv.org/abs/2211.11317.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.parts import features, held, nets, perlin
from pipeline.parts.device import seeded
from pipeline.parts.draws import shuffled
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.images import checked
from pipeline.parts.losses import focal
from pipeline.parts.regions import counted, enlarged, pooled, positions, top_mean
from pipeline.parts.tokens import cosine_distance
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN, Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (1, 2, 3)  # of a timm backbone: the first three blocks of the teacher, section 3.2
DILATIONS = (1, 2, 4)  # of the pyramid that reads the maps; the paper's maps are larger, and so are its steps
PRIOR = -2.0  # first bias of a logit: few positions are odd (Lin et al. 2017, on the focal loss)


@dataclass(frozen=True)
class Drawn:
    """Images of a step as the student sees them, uint8 `(n, 3, h, w)`, with what counts, bool `(n, h, w)`, and their
    labels, int8 `(n, h, w)`; what counts at the finest level. Of the clean ones the teacher's maps and what counts."""

    seen: np.ndarray
    counts: Tensor
    mark: Tensor
    finest: Tensor
    maps: list[Tensor]
    inside: list[Tensor]


@dataclass
class DeSTSeg:
    """Texture is laid over images in Perlin-shaped places; the student sees that, its target is the image without.

    First the student learns, then, with the student frozen, the network that finds those places in the products of the
    two's features. Anomalous images with a mask teach this network too, and those without are left out; the student
    sees normals alone. The paper's student is a ResNet-18 and its mirror; ours is sized by the teacher's maps."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = "https://arxiv.org/abs/2211.11317"

    backbone: BackboneField = field(default_factory=Backbone)
    """The teacher."""
    denoise: bool = True
    """Whether the student sees the corrupted image; without it the clean one: the paper's ablation."""
    segment: bool = True
    """Whether a network reads the products; without it the map is the sum over levels of 1 minus the cosine (the
    paper's ablation multiplies these), labels teach nothing and the second half of the steps falls away."""
    width: Annotated[int, Ge(1)] = 16
    """Channels of the student at its finest, twice as many at each coarser level up to 8 times (the paper's 64); larger
    is slower by its square."""
    hidden: Annotated[int, Ge(1)] = 32
    """Channels of the network that reads the products (the paper's 256)."""
    steps: Annotated[int, Ge(1)] = 150
    """Optimiser steps of each half. The paper trains the student for 1,000, the other for 4,000."""
    batch: Annotated[int, Ge(2)] = 8
    """Images per step (the paper's 32); where there are anomalous ones with a mask, half of the second half's."""
    rate: Annotated[float, Gt(0), Le(1)] = 5e-3
    """Learning rate of AdamW, falling to 0 along half a cosine; the paper has SGD at 0.4, then 0.1 and 0.01."""
    gamma: Annotated[float, Ge(0)] = 4.0
    """Exponent of the focal loss (the paper's); larger looks more at what is hard."""
    chance: Annotated[float, Ge(0), Le(1)] = 1.0
    """Share of normal images of a step that are corrupted (the paper's 1)."""
    top: Annotated[float, Gt(0), Le(1)] = 100 / 256**2
    """Share of the pixels, the oddest, whose mean is the image score (the paper's 100 of 256 x 256)."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of normal images and their teacher's maps held in half precision during fit, and as much
    again of anomalous ones; of more than it holds, as many as it does are drawn."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the images drawn and the corruption."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on uint8 images `(n, 3, h, w)`; images of unknown label are left out.

        Raises DataError without normals, for images of differing sizes, or when `cache` does not hold one."""
        good = normals(train)
        self._features = features.load(self.backbone, LEVELS)
        where, rng = self._features.device, np.random.default_rng(self.seed)
        seen = held.hold(self._features, good, self.cache, self.seed, with_images)
        bad = self._marked(train[train.label == ANOMALOUS], seen.size) if self.segment else None
        self.size_, self.hash_ = seen.size, self._features.hash
        self.shapes_ = [tuple(level.shape[1:]) for level in seen.levels[2:]]
        with seeded(self.seed):
            student, reader = (net.to(where).train() for net in self._nets())
        optimiser = torch.optim.AdamW(student.parameters(), self.rate)
        schedule = nets.warm_cosine(optimiser, self.steps)
        draws = self._drawn(seen, None, self.chance if self.denoise else 0.0, rng)
        first = nets.train(optimiser, draws, self.steps, lambda drawn: self._denoising(student, drawn), schedule)
        self.student_, self.reader_, self.history_ = nets.frozen(student), nets.frozen(reader), first
        if self.segment:
            reader.train().requires_grad_(True)
            optimiser = torch.optim.AdamW(reader.parameters(), self.rate)
            schedule = nets.warm_cosine(optimiser, self.steps)
            draws = self._drawn(seen, bad, self.chance, rng)
            second = nets.train(optimiser, draws, self.steps, lambda drawn: self._segmenting(reader, drawn), schedule)
            nets.frozen(reader)
            self.history_ = first + [{**row, "step": self.steps + row["step"]} for row in second]
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)`, the mean of the oddest pixels that count, and maps `(n, h, w)`: of probabilities or, without
        `segment`, sums over the levels of 1 minus the cosine, each from 0 to 2."""
        must_be_fitted(self, "student_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            counts = counted(batch, self.size_, self._features.device)
            taught, learnt = self._features.maps(images), self.student_(self._normalised(images, counts))
            if self.segment:
                inside = counted(batch, taught[0].shape[2:], taught[0].device)
                odd = self.reader_(products(taught, learnt) * inside[:, None], inside).sigmoid()
                local = enlarged(odd, self.size_, 0.0, inside)
            else:
                pairs = zip(taught, learnt, strict=True)
                local = torch.stack([self._apart(one, other, batch) for one, other in pairs]).sum(dim=0)
            sample = top_mean(local, counts, self.top)
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "student_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "student_")
        meta = {"size": list(self.size_), "shapes": [list(s) for s in self.shapes_], "weights_sha256": self.hash_}
        own = nets.arrays(self.student_, "student.") | nets.arrays(self.reader_, "reader.")
        return State({**own, **self._features.arrays()}, meta)

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        where = self._features.device
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        self.shapes_ = [tuple(shape) for shape in state.meta["shapes"]]
        student, reader = self._nets()
        self.student_ = nets.restored(student, state.arrays, "student.").to(where)
        self.reader_ = nets.restored(reader, state.arrays, "reader.").to(where)
        return self

    def _nets(self) -> tuple["Student", "Reader"]:
        """The student and the network that reads the products, with their first weights."""
        return Student(self.size_, self.shapes_, self.width), Reader(sum(c for c, _, _ in self.shapes_), self.hidden)

    def _normalised(self, images: np.ndarray, counts: Tensor) -> Tensor:
        """Images as the teacher takes them, 0 where nothing counts, bool `(n, h, w)`."""
        x = torch.from_numpy(images).to(self._features.device).float() * self._features.scale + self._features.shift
        return (x * counts.to(x.device)[:, None]).contiguous(memory_format=torch.channels_last)

    def _apart(self, one: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """1 minus the cosine of two levels, at the image's size (equation 3)."""
        return enlarged(cosine_distance(one, other), self.size_, 0.0, counted(batch, one.shape[2:], one.device))

    def _marked(self, some: Samples, size: tuple[int, int]) -> held.Held | None:
        """The anomalous images whose masks say where, or None without any."""
        told = np.zeros(len(some), bool)
        for start, batch in enumerate(some.batches(held.BATCH)):
            checked(batch, size)
            if batch.mask is not None:
                told[start * held.BATCH :][: len(batch)] = (batch.mask == ANOMALOUS).any(axis=(1, 2))
        if not told.all():
            missing = len(told) - int(told.sum())
            logging.getLogger(__name__).warning(
                "%d of %d anomalous images have no mask: they teach nothing", missing, len(told)
            )
        return held.hold(self._features, some[told], self.cache, self.seed, with_images) if told.any() else None

    def _drawn(
        self, good: held.Held, bad: held.Held | None, chance: float, rng: np.random.Generator
    ) -> Iterator[Drawn]:
        """A step's normal images, corrupted, and behind them as many of the anomalous ones, where there are such."""
        cpu, odd = torch.device("cpu"), self.batch // 2 if bad is not None else 0
        order = shuffled(len(good), self.steps * (self.batch - odd), rng)
        for at in order.reshape(self.steps, -1):
            (clean, _, *maps), (counts, _, *inside) = good.of(at, cpu)
            images = clean.numpy().astype(np.uint8)
            known = images * counts.numpy()[:, None]  # no texture of what does not count
            pairs = [perlin.corrupted(known, i, rng, chance, inside=own) for i, own in enumerate(counts.numpy())]
            seen, mark = (np.stack(part) for part in zip(*pairs, strict=True))
            seen = np.where(mark[:, None], seen, images)
            finest = inside[0]
            if bad is not None:
                (more, own, *_), (also, _, first, *_) = bad.of(rng.choice(len(bad), odd), cpu)
                seen = np.concatenate([seen, more.numpy().astype(np.uint8)])
                mark = np.concatenate([mark, own[:, 0].numpy().astype(np.int8)])
                counts, finest = torch.cat([counts, also]), torch.cat([finest, first])
            yield Drawn(seen, counts, torch.from_numpy(mark.astype(np.int8)), finest, maps, inside)

    def _denoising(self, student: "Student", drawn: Drawn) -> dict[str, Tensor]:
        """Equations 2 to 4: the student's features of the corrupted image against the teacher's of the clean one."""
        where = self._features.device
        learnt = student(self._normalised(drawn.seen, drawn.counts))
        triples = zip(learnt, drawn.maps, drawn.inside, strict=True)
        found = [cosine_distance(one.float(), other.to(where))[counts.to(where)] for one, other, counts in triples]
        return {f"level{i}": each.mean() for i, each in enumerate(found)}

    def _segmenting(self, reader: "Reader", drawn: Drawn) -> dict[str, Tensor]:
        """Equations 5 to 7: focal and L1 loss of what the reader finds, the teacher seeing the corrupted image too."""
        where = self._features.device
        with torch.no_grad():
            learnt = self.student_(self._normalised(drawn.seen, drawn.counts))
            found = products(self._features.maps(drawn.seen), learnt)
        counts = drawn.finest.to(where)
        target = positions(drawn.mark, found.shape[2:]).to(where)
        logit = reader(found * counts[:, None], counts).float()
        known = counts & (target != UNKNOWN)
        logit, target = logit[known], target[known]
        return {"focal": focal(logit, target, self.gamma), "l1": (logit.sigmoid() - target.float()).abs().mean()}


class Student(nn.Module):
    """An encoder of images of `size` down to half the resolution of the coarsest of `shapes`, and a decoder from there
    (section 3.2): nothing goes around the code, so what is odd is not carried over."""

    def __init__(self, size: tuple[int, int], shapes: list[nets.Shape], width: int) -> None:
        super().__init__()
        rows, channels = -(-size[0] // 2), width
        stages: list[nn.Module] = [nets.convolution(3, width, stride=2)]
        while rows > -(-shapes[-1][1] // 2):
            wider = min(2 * channels, 8 * width)
            stages.append(nets.Residual(channels, wider, stride=2))
            rows, channels = -(-rows // 2), wider
        self.encode, self.decode = nn.Sequential(*stages), nets.Decoder(channels, shapes, 2 * width)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.decode(self.encode(images))


class Reader(nn.Module):
    """Two residual blocks and an atrous pyramid (section 3.3): products `(n, c, h', w')` to logits `(n, h', w')`."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nets.Residual(channels, hidden), nets.Residual(hidden, hidden))
        self.pyramid = nn.ModuleList([nn.Conv2d(hidden, hidden, 3, padding=d, dilation=d) for d in DILATIONS])
        self.whole = nn.Linear(hidden, hidden)
        self.last = nn.Sequential(nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, 1, 1))
        nn.init.constant_(self.last[-1].bias, PRIOR)

    def forward(self, found: Tensor, inside: Tensor) -> Tensor:
        x = self.blocks(found)
        seen = torch.stack([layer(x) for layer in self.pyramid]).sum(dim=0)
        return self.last(seen + self.whole(pooled(x, inside))[:, :, None, None])[:, 0]


def with_images(maps: list[Tensor], batch: Batch) -> list[Tensor]:
    """Images `(n, 3, h, w)` and marks `(n, 1, h, w)` as levels before the others; half precision holds both as is."""
    where = maps[0].device
    mark = np.full(batch.x[:, 0].shape, NORMAL, np.int8) if batch.mask is None else batch.mask.astype(np.int8)
    return [torch.from_numpy(batch.x).to(where).float(), torch.from_numpy(mark).to(where).float()[:, None], *maps]


def products(taught: list[Tensor], learnt: list[Tensor]) -> Tensor:
    """Products of the two's directions, channel by channel, whose sum is the cosine; all levels at the resolution of
    the finest (equation 2, section 3.3): `(n, sum of c, h', w')`."""
    pairs = zip(taught, learnt, strict=True)
    return features.merge([F.normalize(one, dim=1) * F.normalize(other.float(), dim=1) for one, other in pairs])
