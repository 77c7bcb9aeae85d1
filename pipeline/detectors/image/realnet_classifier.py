"""A small ViT distilled from a larger teacher, both taught under the imbalance of real life: nine normals per anomaly.

Hashemi, Safari and Dadashzade Taromi (2024), "Realism in Action: Anomaly-Aware Diagnosis of Brain Tumors from Medical
Images Using YOLOv8 and DeiT", https://arxiv.org/abs/2401.03302; the distillation is that of Touvron et al. (ICML 2021),
"Training data-efficient image transformers & distillation through attention" (DeiT), https://arxiv.org/abs/2012.12877.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from pipeline.errors import DataError, ParamsError
from pipeline.parts import features, nets
from pipeline.parts.backbones import Tokens
from pipeline.parts.device import seeded
from pipeline.parts.distillation import PATCH, FineTuned, SmallViT, Teacher, distilled
from pipeline.parts.draws import shuffled
from pipeline.parts.features import Backbone, BackboneField, Features
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.held import Held, hold
from pipeline.parts.held_images import shrunk
from pipeline.parts.images import checked
from pipeline.parts.losses import focal
from pipeline.parts.regions import counted
from pipeline.protocols import ANOMALOUS, Batch, Samples, Scores, State
from pipeline.samples import teaching

LEVELS = (2, 3, 4)  # of a timm backbone as the teacher
LEAST = 2  # anomalous images: one does not tell what anomalies have in common
DECAY = 0.05  # of the weights, as in DeiT

Drawn = tuple[list[Tensor], list[Tensor], Tensor]  # maps per level, what counts, labels


@dataclass
class RealnetClassifier:
    """A supervised classifier of whole images: a head on a frozen backbone is the teacher, a small vision transformer
    with a class and a distillation token the student, whose logit is the score. For lines with labelled anomalies.

    Each step draws `normals_per_anomaly` normals per anomalous image. Masks are not looked at: an image's label is all
    that it learns from, and there are no local scores. Patients, charges and other groups are judged from the samples'
    scores by the line (`group_metrics`), after the paper's patient-to-patient view."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = "https://arxiv.org/abs/2401.03302"

    backbone: BackboneField = field(default_factory=Backbone)
    """The teacher's, frozen; a head on its maps is trained (the paper fine-tunes a ResNet-152)."""
    student: BackboneField | None = None
    """A timm vision transformer that is fine-tuned, cut behind its last level; null for a small one from scratch."""
    stem: Literal["maps", "pixels"] = "maps"
    """What the small transformer's tokens are made of: the backbone's maps (a hybrid in the words of the ViT paper), or
    16 x 16 pixels, which is faster at scoring and needs many more images. Without meaning for a timm student."""
    grid: Annotated[int, Ge(2)] = 7
    """Most tokens down and across that maps are averaged to (DeiT's 14 of 224 pixels); time grows with its square."""
    width: Annotated[int, Ge(1)] = 16
    """Numbers per head of the small transformer's four heads (DeiT-Ti has 3 heads of 64)."""
    depth: Annotated[int, Ge(1)] = 3
    """Blocks of the small transformer (DeiT's 12)."""
    hidden: Annotated[int, Ge(1)] = 64
    """Width of the teacher's head."""
    distillation: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the teacher in the student's loss (lambda of DeiT's equation 2); 0 is without a teacher."""
    temperature: Annotated[float, Gt(0)] = 3.0
    """Divides all logits before the student is compared with the teacher (DeiT's 3); larger softens."""
    targets: Literal["soft", "hard"] = "soft"
    """Whether the student learns the teacher's probabilities (equation 2) or its decisions (equation 3)."""
    judge: Literal["student", "teacher"] = "student"
    """Whose logit is the score; with `teacher` no student is trained."""
    normals_per_anomaly: Annotated[float, Gt(0)] = 9.0
    """Normal images drawn per anomalous one (the paper's 9)."""
    weighted: bool = True
    """Whether both classes weigh the same in the loss, however rare; otherwise each image does."""
    gamma: Annotated[float, Ge(0)] = 2.0
    """Exponent of the focal loss; larger looks more at what is hard, 0 is cross entropy."""
    batch: Annotated[int, Ge(2)] = 20
    """Images per step."""
    steps: Annotated[int, Ge(1)] = 300
    """Optimiser steps of the student, and of the teacher's head (the paper: 20 epochs)."""
    rate: Annotated[float, Gt(0), Le(1)] = 5e-4
    """Largest learning rate of AdamW for the student, along half a cosine to 0 (DeiT: 5e-4 at 512 images)."""
    teacher_rate: Annotated[float, Gt(0), Le(1)] = 3e-3
    """The same for the teacher's head."""
    mirror: bool = True
    """Whether each step is mirrored by chance, across and down, all its images by one draw; false where that changes
    their meaning. What is flipped are images where the student looks at pixels, else, and for the teacher, the frozen
    backbone's maps of images as they are."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of maps and images held in half precision during fit; of more images than it holds, as many
    as it does are drawn."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights and the images drawn."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on uint8 images `(n, 3, h, w)`, labelled anomalous and normal.

        Raises DataError without normals, with fewer than LEAST anomalous images, for images of differing sizes or of
        one that the student cannot take; ParamsError for a student that is no vision transformer."""
        some = teaching(train)
        if (found := int((train.label == ANOMALOUS).sum())) < LEAST:
            raise DataError(
                f"image/realnet_classifier needs at least {LEAST} anomalous images (label 1) to learn from,"
                f" got {found} among {len(train)} samples"
            )
        vit = self._vit(self.student)
        self._features = features.load(self.backbone, LEVELS)
        held = hold(self._features, some, self.cache, self.seed, self._with_pixels)
        odd = some.label[held.at] == ANOMALOUS
        if odd.sum() < LEAST or odd.all():
            raise DataError(f"cache must hold {LEAST} anomalous images and a normal one, got {self.cache} MB")
        self.size_, self.hash_, self.meta_ = held.size, self._features.hash, self._shapes(held, vit)
        where, history, teacher = self._features.device, [], None
        if self.distillation or self.judge == "teacher":
            with seeded(self.seed):
                teacher = self._built("teacher", vit).to(where).train()
            teacher.standard.of(held.mean, held.spread)

            def lessons(drawn: Drawn) -> dict[str, Tensor]:
                maps, inside, label = drawn
                return {"teacher": self._classified(teacher(maps, inside).float(), label)}

            history = self._trained(teacher, self.teacher_rate, lessons, held, odd)
            self.net_ = nets.frozen(teacher)
        if self.judge == "student":
            with seeded(self.seed):
                student = self._built("student", vit).to(where).train()
            if getattr(student, "standard", None) is not None:
                student.standard.of(held.mean, held.spread)

            def losses(drawn: Drawn) -> dict[str, Tensor]:
                maps, inside, label = drawn
                logits = student(maps, inside).float()
                parts = {"label": (1 - self.distillation) * self._classified(logits[:, 0], label)}
                if teacher is not None:
                    told = teacher(maps, inside).detach().float()
                    loss = distilled(logits[:, 1], told, self.temperature, self.targets)
                    parts["distilled"] = self.distillation * loss
                return parts

            rows = self._trained(student, self.rate, losses, held, odd)
            history += [{**row, "step": row["step"] + len(history)} for row in rows]
            self.net_ = nets.frozen(student)
        self.history_ = history
        return self

    def score(self, batch: Batch) -> Scores:
        """Logits `(n,)` of being anomalous; the student's is the mean of both its heads, as in DeiT, or that of the
        one that was taught. There are no local scores."""
        must_be_fitted(self, "net_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            if self._pixels and self.judge == "student":
                levels = self._with_pixels([], batch)
            else:
                levels = self._features.maps(images)
            where = self._features.device
            levels = [level.to(where) for level in levels]
            logits = self.net_(levels, [counted(batch, level.shape[2:], where) for level in levels])
            if logits.ndim == 2:
                taught = [i for i, share in enumerate((1 - self.distillation, self.distillation)) if share]
                logits = logits[:, taught].mean(dim=1)
        return Scores(logits.float().cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """The teacher's maps of `batch`, averaged over what counts: float32 `(n, c)`."""
        must_be_fitted(self, "net_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "net_")
        arrays = {**nets.arrays(self.net_), **self._features.arrays()}
        return State(arrays, {**self.meta_, "size": list(self.size_), "weights_sha256": self.hash_})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        self.meta_ = {name: state.meta[name] for name in ("channels", "grid", "tokens")}
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        vit = self._vit(None if self.student is None else replace(self.student, weights="none"))
        self.net_ = nets.restored(self._built(self.judge, vit), state.arrays).to(self._features.device)
        return self

    @property
    def _pixels(self) -> bool:
        return self.student is not None or self.stem == "pixels"

    def _with_pixels(self, maps: list[Tensor], batch: Batch) -> list[Tensor]:
        """The maps and, where the student looks at them, the images as one more level."""
        return [*maps, torch.from_numpy(shrunk(batch)[0]).float()] if self._pixels else maps

    def _vit(self, student: Backbone | None) -> Features | None:
        if student is None or self.judge == "teacher":
            return None
        if student.precision != "float32":
            raise ParamsError(f"student.precision must be float32, as it is trained, got {student.precision}")
        loaded = features.load(student)
        if not isinstance(loaded.net, Tokens):
            raise ParamsError(f"student must be a vision transformer of timm, got {student.name!r}: it has no tokens")
        return loaded

    def _shapes(self, held: Held, vit: Features | None) -> dict[str, Any]:
        """What the networks are built for, as JSON."""
        count = len(held.levels) - self._pixels
        grid = [max(1, -(-side // PATCH)) for side in held.size]
        if not self._pixels:
            grid = [min(self.grid, side) for side in held.levels[0].shape[2:]]
        tokens = 0
        if vit is not None:
            if why := vit.net.refusal(held.size):
                raise DataError(f"images for the student {vit.name} {why}, got {held.size[0]} x {held.size[1]}")
            tokens = vit.tokens(np.zeros((1, 3, *held.size), np.uint8))[-1].shape[2]
        return {"channels": [level.shape[1] for level in held.levels[:count]], "grid": grid, "tokens": tokens}

    def _built(self, who: str, vit: Features | None) -> nn.Module:
        channels, grid = self.meta_["channels"], tuple(self.meta_["grid"])
        if who == "teacher":
            return Teacher(channels, self.hidden)
        if vit is not None:
            return FineTuned(vit, self.meta_["tokens"])
        return SmallViT(None if self._pixels else channels, grid, self.width, self.depth)

    def _trained(
        self, net: nn.Module, rate: float, losses: Callable[[Drawn], dict[str, Tensor]], held: Held, odd: np.ndarray
    ) -> list[dict[str, float]]:
        optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=DECAY)
        schedule = nets.warm_cosine(optimiser, self.steps, self.steps // 20)
        drawn = self._drawn(held, odd, np.random.default_rng(self.seed))
        return nets.train(optimiser, drawn, self.steps, losses, schedule, clip=1.0)

    def _drawn(self, held: Held, odd: np.ndarray, rng: np.random.Generator) -> Iterator[Drawn]:
        """Per step maps, what counts and labels of images in the proportion asked for, mirrored by chance."""
        where = self._features.device
        for at in proportioned(odd, self.batch, self.normals_per_anomaly, self.steps, rng):
            maps, inside = held.of(at, where)
            axes = [axis for axis in (-2, -1) if self.mirror and rng.random() < 0.5]
            maps, inside = ([each.flip(axes) for each in group] for group in (maps, inside))
            yield maps, inside, torch.from_numpy(odd[at].astype(np.int64)).to(where)

    def _classified(self, logit: Tensor, label: Tensor) -> Tensor:
        """The focal loss of logits `(n,)`, by class and their mean where classes weigh the same."""
        if not self.weighted:
            return focal(logit, label, self.gamma)
        return torch.stack([focal(logit[label == which], label[label == which], self.gamma) for which in (0, 1)]).mean()


def proportioned(
    odd: np.ndarray, batch: int, normals_per_anomaly: float, steps: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Positions `(batch,)` per step among images that are anomalous where `odd`, bool `(n,)`: one shuffled round after
    the other, at least one image of each kind."""
    rare = min(max(round(batch / (1 + normals_per_anomaly)), 1), batch - 1)
    bad, good = np.flatnonzero(odd), np.flatnonzero(~odd)
    of_bad, of_good = shuffled(len(bad), steps * rare, rng), shuffled(len(good), steps * (batch - rare), rng)
    for step in range(steps):
        some = of_bad[step * rare : (step + 1) * rare], of_good[step * (batch - rare) : (step + 1) * (batch - rare)]
        yield np.r_[bad[some[0]], good[some[1]]]
