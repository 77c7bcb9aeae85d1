"""EfficientAD: a student and an autoencoder that fail to predict a small teacher where an image is anomalous.

Batzner, Heckler and König (WACV 2024), "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level
Latencies", https://arxiv.org/abs/2303.14535.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError, ModelError
from pipeline.parts import features, perlin
from pipeline.parts.device import device, seeded
from pipeline.parts.draws import shuffled
from pipeline.parts.features import Backbone, BackboneField, Features
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.image_folder import Folder
from pipeline.parts.images import checked
from pipeline.parts.moments import Moments, standardised
from pipeline.parts.pdn import LEAST, Networks, recoloured
from pipeline.parts.progress import tracked
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (2, 3)  # of a timm backbone, as in the paper's appendix
BATCH = 8  # images looked at together outside of training
RARE = 4  # of more changed images, with their large features, the teacher would learn little else
FINEST = 5  # of the Perlin noise: up to 2**5 cells each way
DECAY = 1e-5  # of the weights
LOOKED_AT = 500  # images at most for means, spreads and quantiles
LOW, HIGH = 0.9, 0.995  # quantiles of the maps of held out normals that become 0 and 0.1 (section 3.4)


@dataclass
class EfficientAD:
    """A patch description network (teacher) learns a backbone's features; a student of twice its outputs learns to
    predict the teacher, and an autoencoder, on normal images. Where they disagree is an anomaly: the student shows odd
    patches, the autoencoder odd arrangements. The backbone is needed for training only.

    The paper's teacher learns on ImageNet for 60,000 steps. Here it learns on `pretraining`, or, without one, on the
    normal images, some of them with foreign textures in Perlin-shaped places."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2303.14535"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose features the teacher learns."""
    upscale: Annotated[int, Ge(1), Le(4)] = 1
    """Times that images are enlarged for the backbone (the paper's 2): finer features, slower by its square."""
    pretraining: str | None = None
    """A folder of photographs of anything, such as ImageNet's: what the teacher learns on, and what the student must
    not predict (the penalty of section 3.2); null for neither."""
    width: Annotated[int, Ge(1)] = 32
    """Channels of teacher and student after their first layer (the paper's 128); time grows with its square."""
    dims: Annotated[int, Ge(1)] = 384
    """Most channels that the teacher gives; more of the backbone's are averaged in groups."""
    hidden: Annotated[int, Ge(2)] = 32
    """Width of the autoencoder (the paper's 64)."""
    teacher_steps: Annotated[int, Ge(1)] = 500
    """Steps that the teacher learns for (the paper's 60,000)."""
    steps: Annotated[int, Ge(1)] = 1000
    """Steps that student and autoencoder learn for (the paper's 70,000)."""
    teacher_batch: Annotated[int, Ge(1)] = 4
    """Images per step of the teacher (the paper's 16)."""
    batch: Annotated[int, Ge(1)] = 1
    """Images per step of student and autoencoder."""
    rate: Annotated[float, Gt(0), Le(1)] = 1e-3
    """Learning rate of Adam, for student and autoencoder a tenth of it after 95 % of the steps. The paper's is 1e-4."""
    hard: Annotated[float, Ge(0), Lt(1)] = 0.999
    """The student learns from the differences above this quantile of them; 0 takes all."""
    held_out: Annotated[float, Gt(0), Lt(1)] = 0.1
    """Share of the normal images that the two maps are brought to one scale on, and that are not trained on."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the order of the images and their changes."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on the normal images of `train`, uint8 `(n, 3, h, w)`; of a single one the scale is taken on itself.

        Raises DataError without normals, for images below 32 pixels or of differing sizes, or where `pretraining` holds
        no images."""
        some = normals(train)
        size = checked(next(iter(some[:1].batches(1)))).shape[2:]
        if min(size) < LEAST:
            raise DataError(f"images must be at least {LEAST} pixels high and wide, got {size[0]} x {size[1]}")
        folder = None if self.pretraining is None else Folder(self.pretraining, size)
        rng, history = np.random.default_rng(self.seed), []
        order, kept = rng.permutation(len(some)), max(1, round(len(some) * self.held_out))
        held, rest = some[order[:kept]], some[order[kept if len(some) > 1 else 0 :]]
        backbone = features.load(self.backbone, LEVELS)
        mean, spread = self._known(backbone, rest, size)
        with seeded(self.seed):
            nets = (
                Networks(self.width, self.hidden, len(mean), size)
                .to(device(), memory_format=torch.channels_last)
                .train()
            )
        self._distill(
            nets, lambda x: standardised(self._described(backbone, x), mean, spread), rest, folder, rng, history
        )
        self._normalise(nets, rest, size)
        self._imitate(nets, rest, folder, size, rng, history)
        self.nets_, self.size_, self.history_ = nets.eval().requires_grad_(False), size, history
        nets.scale.copy_(torch.tensor(self._quantiles(held)))
        return self

    def score(self, batch: Batch) -> Scores:
        """Maps `(n, h, w)`: the mean of the student's and the autoencoder's, each 0 at the 0.9 and 0.1 at the 0.995
        quantile of its values on held out normals; scores `(n,)`, their largest value that counts."""
        must_be_fitted(self, "nets_")
        maps = self._maps(batch, normalised=True).mean(dim=1)
        local = enlarged(maps, self.size_, 0.0, counted(batch, maps.shape[1:], maps.device))
        sample = largest(local, counted(batch, self.size_, local.device))
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def state(self) -> State:
        must_be_fitted(self, "nets_")
        arrays = {name: tensor.cpu().contiguous().numpy() for name, tensor in self.nets_.state_dict().items()}
        return State(arrays, {"size": list(self.size_), "out": self.nets_.out})

    def from_state(self, state: State) -> Self:
        size = tuple(state.meta["size"])
        nets = Networks(self.width, self.hidden, state.meta["out"], size)
        try:
            nets.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.arrays.items()})
        except RuntimeError as error:
            raise ModelError(f"the stored EfficientAD networks do not fit these hyperparameters: {error}") from error
        self.nets_ = nets.to(device(), memory_format=torch.channels_last).eval().requires_grad_(False)
        self.size_ = size
        return self

    def _described(self, backbone: Features, images: np.ndarray) -> Tensor:
        """Patch features `(n, c, h', w')` of uint8 images `(n, 3, h, w)`, at most `dims` of them."""
        if self.upscale > 1:
            large = F.interpolate(torch.from_numpy(images).float(), scale_factor=self.upscale, mode="bilinear")
            images = large.round().byte().numpy()
        maps = features.merge([features.local_mean(level) for level in backbone.maps(images)])
        if maps.shape[1] > self.dims:
            maps = (
                F.adaptive_avg_pool1d(maps.flatten(2).transpose(1, 2), self.dims)
                .transpose(1, 2)
                .view(len(maps), self.dims, *maps.shape[2:])
            )
        return maps.clone()  # not an inference tensor any more

    def _known(self, backbone: Features, rest: Samples, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Mean and spread of the features over normal images, `(c,)`."""
        moments = Moments()
        for batch in rest[:LOOKED_AT].batches(BATCH):
            moments.add(self._described(backbone, checked(batch, size)).permute(0, 2, 3, 1).flatten(0, 2))
        return moments.found()

    def _distill(
        self,
        nets: Networks,
        target: Callable[[np.ndarray], Tensor],
        rest: Samples,
        folder: Folder | None,
        rng: np.random.Generator,
        history: list[dict[str, float]],
    ) -> None:
        """Teach the teacher the standardised features of the backbone (algorithm 3)."""
        optimiser = torch.optim.Adam(nets.teacher.parameters(), lr=self.rate, weight_decay=DECAY)
        drawn = rest[shuffled(len(rest), self.teacher_steps * self.teacher_batch, rng)]
        for batch in tracked(drawn.batches(self.teacher_batch), self.teacher_steps, "teacher", "steps"):
            images = folder.drawn(len(batch), rng) if folder else strange(checked(batch, nets.size), rng)
            with nets.autocast():
                found = nets.teacher(nets.unit(images)).float()
            wanted = F.interpolate(target(images), found.shape[2:], mode="bilinear", align_corners=False)
            loss = F.mse_loss(found, wanted)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            history.append({"step": len(history) + 1, "teacher": float(loss.detach())})
        nets.teacher.eval().requires_grad_(False)

    def _normalise(self, nets: Networks, rest: Samples, size: tuple[int, int]) -> None:
        """Mean and spread of the teacher's own outputs on normal images (algorithm 1)."""
        moments = Moments()
        with torch.inference_mode():
            for batch in rest[:LOOKED_AT].batches(BATCH):
                found = nets.teacher(nets.unit(checked(batch, size))).permute(0, 2, 3, 1)
                moments.add(found[counted(batch, found.shape[1:3], found.device)])
        mean, spread = moments.found()
        nets.mean.copy_(mean.view(1, -1, 1, 1))
        nets.spread.copy_(spread.view(1, -1, 1, 1))

    def _imitate(
        self,
        nets: Networks,
        rest: Samples,
        folder: Folder | None,
        size: tuple[int, int],
        rng: np.random.Generator,
        history: list[dict[str, float]],
    ) -> None:
        """Train student and autoencoder (algorithm 1)."""
        learning = [*nets.student.parameters(), *nets.autoencoder.parameters()]
        optimiser = torch.optim.Adam(learning, lr=self.rate, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [round(0.95 * self.steps)], gamma=0.1)
        with seeded(self.seed):  # of the dropout
            drawn = rest[shuffled(len(rest), self.steps * self.batch, rng)]
            for batch in tracked(drawn.batches(self.batch), self.steps, "training", "steps"):
                images = checked(batch, size)
                other = nets.unit(folder.drawn(len(images), rng)) if folder else None
                changed = nets.unit(recoloured(images, rng))
                parts = nets.losses(nets.unit(images), changed, other, self.hard, batch)
                optimiser.zero_grad(set_to_none=True)
                torch.stack(list(parts.values())).sum().backward()
                optimiser.step()
                schedule.step()
                history.append(
                    {"step": len(history) + 1, **{name: float(loss.detach()) for name, loss in parts.items()}}
                )

    def _maps(self, batch: Batch, normalised: bool) -> Tensor:
        """The student's and the autoencoder's map `(n, 2, h', w')`."""
        images = checked(batch, self.size_)
        with torch.inference_mode():
            maps = self.nets_(self.nets_.unit(images))
            low, high = self.nets_.scale.view(1, 2, 2, 1, 1).unbind(dim=2)
            return 0.1 * (maps - low) / (high - low).clamp(min=1e-12) if normalised else maps

    def _quantiles(self, held: Samples) -> list[list[float]]:
        """The LOW and HIGH quantile of either map's values that count."""
        values: list[list[np.ndarray]] = [[], []]
        for batch in held[:LOOKED_AT].batches(BATCH):
            maps = self._maps(batch, normalised=False)
            inside = counted(batch, maps.shape[2:], maps.device)
            for kind in range(2):
                values[kind].append(maps[:, kind][inside].cpu().numpy())
        return [[float(q) for q in np.quantile(np.concatenate(each), (LOW, HIGH))] for each in values]


def strange(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 images `(n, 3, h, w)`, one in RARE with a foreign texture in a Perlin-shaped place."""
    made = images.copy()
    for i in np.flatnonzero(rng.random(len(made)) < 1 / RARE):
        texture = perlin.foreign(images[rng.integers(len(images))], rng)
        made[i] = perlin.blend(made[i], texture, perlin.mask(made.shape[2:], FINEST, rng), rng.uniform(0.3, 1.0))
    return made
