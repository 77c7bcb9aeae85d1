"""ResAD: what differs from a few normal images of the same category is judged alike in every category.

Yao, Chen, Gao, Zhai and Zhang (NeurIPS 2024), "ResAD: A Simple Framework for Class Generalizable Anomaly Detection",
https://arxiv.org/abs/2410.20047, and Yao, Shi, Zhao, Zhai and Zhang (IJCV 2026), "ResAD++: Towards Class Agnostic
Anomaly Detection via Residual Feature Learning", https://arxiv.org/abs/2509.23741.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from pipeline.errors import DataError
from pipeline.parts import features, nets, perlin
from pipeline.parts.device import seeded
from pipeline.parts.draws import shuffled
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.flows import LEAST
from pipeline.parts.held import Held, hold
from pipeline.parts.held_images import shrunk
from pipeline.parts.images import checked
from pipeline.parts.moments import standardised
from pipeline.parts.neighbours import Bank
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.parts.residuals import Networks, anomalous, residuals
from pipeline.parts.tokens import tokens
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN, Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (1, 2, 3)  # of a timm backbone, as in the papers
BATCH = 16  # images looked at together


@dataclass
class ResAD:
    """Residuals, each feature less the nearest one of a few normal references of its category, are matched to a code
    book of normal residuals, drawn into one hypersphere, and weighed by a flow.

    Only the references belong to a category. So categories that the networks have not learned from need no more than
    references: of `train`, or given later to `refer`, which changes no network."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = "https://arxiv.org/abs/2509.23741"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose feature maps are compared, level by level."""
    shots: Annotated[int, Ge(1)] = 4
    """Normal images of each category that it is compared with (the paper's 2, 4 or 8), drawn from its normals; more
    leave less of what is normal, and are slower to score."""
    learn: list[str] | None = None
    """Categories that the networks learn from; the others of training only give references. null is all."""
    residual: bool = True
    """Whether references are subtracted (the paper's idea); without, the networks see the features themselves."""
    codes: Annotated[int, Ge(1)] = 128
    """Vectors of a level's code book of normal residuals (the paper's 1536); more tell finer kinds of them apart."""
    match: Annotated[float, Ge(0), Le(1)] = 0.3
    """How far an image's residuals are moved to the distribution of their nearest codes, channel by channel; 0 leaves
    them, 1 takes that distribution over."""
    constrain: Annotated[float, Ge(0)] = 1.0
    """Weight of the losses that draw normal residuals into the hypersphere and leave anomalous ones; at 0 all stay."""
    radius: Annotated[float, Gt(0)] = 0.1
    """Of the hypersphere: sqrt(x^2 + 1) - 1 where x is a residual's root mean square in standard deviations of the
    features (0.1: 0.46 of them; the paper's 0.4 is of the norm, and shrinks below the nearest anomaly). Smaller draws
    normals closer together and pushes fewer anomalies out."""
    couplings: Annotated[int, Ge(1)] = 6
    """Couplings of each flow; more fit closer and cost more."""
    ratio: Annotated[float, Gt(0)] = 4.0
    """Hidden width of a coupling's network, as a share of the channels that it sees."""
    steps: Annotated[int, Ge(1)] = 300
    """Optimiser steps. More fit closer, in proportionally more time (the authors' repository: about 60 epochs)."""
    batch: Annotated[int, Ge(2)] = 8
    """Images per step, half of them normal and half anomalous (the paper's 32); more are steadier and slower."""
    rate: Annotated[float, Gt(0), Le(1)] = 5e-3
    """Learning rate of Adam, which falls along half a cosine to 0; larger learns faster and less steadily."""
    cache: Annotated[int, Ge(2)] = 1000
    """Most MB (10^6 bytes) of maps held in half precision during fit, half of them normal, and as many again of their
    residuals; of more images than it holds, as many as it does are drawn."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side (the paper's 4 of 224 pixels)."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the references and images drawn, and the synthetic anomalies."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on uint8 images `(n, 3, h, w)` of the categories `learn`: on normal ones, and on anomalous ones with
        masks; where there is none of the latter, on normal ones with synthetic anomalies.

        Raises DataError without normals, for a category of `learn` without any, for images of differing sizes, or when
        `cache` does not hold one."""
        some = normals(train)
        names = [str(name) for name in some.rows["category"].unique()]
        unknown = [name for name in self.learn or [] if name not in names]
        if unknown or self.learn == []:
            raise DataError(
                f"learn must name categories with normal images in training, {', '.join(map(repr, names))},"
                f" got {', '.join(map(repr, unknown)) or 'none'}"
            )
        taught = names if self.learn is None else self.learn
        self._features = features.load(self.backbone, LEVELS)
        good, labelled = (
            these[these.rows["category"].isin(taught).to_numpy()] for these in (some, train[train.label == ANOMALOUS])
        )
        rest, label, count = self._compared(good, self._anomalies(good, labelled))
        networks = self._made([level.shape[1] for level in rest])
        for i, (level, own) in enumerate(zip(rest, label, strict=True)):
            networks.begin(i, level[:count].permute(0, 2, 3, 1)[own[:count] == NORMAL].float())
        networks.to(self._features.device).train()

        def losses(drawn: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
            each = [networks.losses(i, *level, self.radius, self.constrain) for i, level in enumerate(drawn)]
            return {name: torch.stack([level[name] for level in each]).sum() for name in each[0]}

        optimiser = torch.optim.Adam(networks.parameters(), lr=self.rate)
        schedule = nets.warm_cosine(optimiser, self.steps)
        self.history_ = nets.train(optimiser, self._drawn(rest, label, count), self.steps, losses, schedule)
        self.networks_, self.hash_ = nets.frozen(networks), self._features.hash
        self.references_: dict[str, list[Tensor]] = {}
        return self.refer(some)

    def refer(self, samples: Samples) -> Self:
        """Take the references of each category of `samples` from its normal images, `shots` of them where there are
        more; they replace what it had. The networks stay as they are.

        Raises DataError without normals, or for images of another size than in training."""
        must_be_fitted(self, "networks_")
        some = normals(samples)
        names = some.rows["category"].astype(str).to_numpy()
        found = {}
        for name in dict.fromkeys(names.tolist()):
            own = np.flatnonzero(names == name)
            rng = np.random.default_rng([self.seed, *name.encode()])
            chosen = np.sort(rng.choice(own, min(self.shots, len(own)), replace=False))
            rows: list[list[Tensor]] = [[] for _ in self.scales_]
            for batch in some[chosen].batches(BATCH):
                for i, maps in enumerate(self._maps(checked(batch, self.size_))):
                    rows[i].append(maps.permute(0, 2, 3, 1)[counted(batch, maps.shape[2:], maps.device)])
            found[name] = [torch.cat(level) for level in rows]
        self.references_ = {**self.references_, **found}
        self._banks = {name: [Bank(rows) for rows in levels] for name, levels in self.references_.items()}
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)` in nats per channel: the negative log-likelihood of the residuals, mean of
        the levels; the score is the largest of the map before the blur.

        Raises DataError for a category without references."""
        must_be_fitted(self, "networks_")
        images = checked(batch, self.size_)
        names = np.array(batch.category if batch.category is not None else [""] * len(batch), dtype=object)
        for name in names:
            if name not in self._banks:
                known = ", ".join(map(repr, self._banks))
                raise DataError(f"category {name!r} has no references, only {known} have: give it some with refer")
        with torch.inference_mode():
            levels = self._maps(images)
            found = [torch.empty_like(maps[:, :1]) for maps in levels]
            for name in dict.fromkeys(names):
                own = torch.from_numpy(np.flatnonzero(names == name)).to(levels[0].device)
                for i, (maps, bank) in enumerate(zip(levels, self._banks[name], strict=True)):
                    rest = residuals(maps[own], bank) if self.residual else maps[own]
                    inside = counted(batch, maps.shape[2:], maps.device)[own]
                    found[i][own] = -self.networks_.log_likelihood(i, rest, inside, self.match)[:, None]
            odd = features.merge(found).mean(dim=1)  # (n, h', w')
            inside = counted(batch, odd.shape[1:], odd.device)
            sample = largest(odd, inside)
            local = enlarged(odd, self.size_, self.smooth, inside)
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "networks_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "networks_")
        arrays = {**nets.arrays(self.networks_), **self._features.arrays()}
        for i, (mean, spread) in enumerate(self.scales_):
            arrays |= {f"mean.{i}": mean.cpu().numpy(), f"spread.{i}": spread.cpu().numpy()}
        for k, levels in enumerate(self.references_.values()):
            arrays |= {f"reference.{k}.{i}": rows.cpu().numpy() for i, rows in enumerate(levels)}
        meta = {"levels": len(self.scales_), "categories": list(self.references_), "size": list(self.size_)}
        return State(arrays, {**meta, "weights_sha256": self.hash_})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        where, levels = self._features.device, range(state.meta["levels"])
        given = {name: torch.from_numpy(np.array(array)).to(where) for name, array in state.arrays.items()}
        self.scales_ = [(given[f"mean.{i}"], given[f"spread.{i}"]) for i in levels]
        self.references_ = {
            name: [given[f"reference.{k}.{i}"] for i in levels] for k, name in enumerate(state.meta["categories"])
        }
        self._banks = {name: [Bank(rows) for rows in held] for name, held in self.references_.items()}
        self.networks_ = nets.restored(self._made([len(mean) for mean, _ in self.scales_]), state.arrays).to(where)
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        return self

    def _maps(self, images: np.ndarray) -> list[Tensor]:
        return [
            standardised(maps, *scale) for maps, scale in zip(self._features.maps(images), self.scales_, strict=True)
        ]

    def _made(self, channels: list[int]) -> Networks:
        if min(channels) < LEAST:
            raise DataError(f"every level needs at least {LEAST} channels for a flow, got {channels}")
        with seeded(self.seed):
            return Networks(channels, self.codes, self.couplings, self.ratio)

    def _anomalies(self, good: Samples, labelled: Samples) -> "Samples | Corrupted":
        """The anomalous images with masks; where there is none, normal ones with synthetic anomalies."""
        masked = [shrunk(batch)[1].any(axis=(1, 2)) for batch in labelled.batches(BATCH)]
        keep = np.concatenate([np.zeros(0, bool), *masked])
        if not keep.all():
            logging.getLogger(__name__).warning(
                "%d of %d anomalous images have no mask that counts: the networks learn from %s",
                *((~keep).sum(), len(keep), "the others" if keep.any() else "synthetic anomalies"),
            )
        return labelled[keep] if keep.any() else Corrupted(good, self.seed)

    def _compared(self, good: Samples, odd: "Samples | Corrupted") -> tuple[list[Tensor], list[Tensor], int]:
        """Residuals of normal, then of anomalous images, per level float16 `(n, c, h', w')`, each against other normals
        of its category; labels of their positions, int8 `(n, h', w')`, UNKNOWN where these do not count; and how many
        of the images are normal. Sets the size and the scales of the features."""
        targets: list[list[Tensor]] = []

        def noting(maps: list[Tensor], batch: Batch) -> list[Tensor]:
            targets.append([anomalous(batch, (level.shape[2], level.shape[3])) for level in maps])
            return maps

        calm = hold(self._features, good, self.cache // 2, self.seed)
        wild = hold(self._features, odd, self.cache // 2, self.seed, noting)
        self.scales_, self.size_ = list(zip(calm.mean, calm.spread, strict=True)), calm.size
        count = len(calm)
        rest = [level.new_empty(count + len(wild), *level.shape[1:]) for level in calm.levels]
        rng, of = np.random.default_rng(self.seed), np.array(calm.category)
        for held, same, first in ((calm, True, 0), (wild, isinstance(odd, Corrupted), count)):
            for k, name in enumerate(held.category):
                others = np.flatnonzero(of == name)
                if not len(others):
                    raise DataError(f"cache must hold a normal image of each category, it held none of {name!r}")
                if same and len(others) > 1:  # an image is no reference of its own
                    others = others[others != k]
                chosen = rng.choice(others, min(self.shots, len(others)), replace=False)
                for i, found in enumerate(self._residual(held, calm, k, chosen)):
                    rest[i][first + k] = found[0]
        label = []
        for i, target in enumerate(zip(*targets, strict=True)):
            known = torch.cat([torch.full_like(calm.inside[i], NORMAL, dtype=torch.int8), torch.cat(target)[wild.at]])
            label.append(known.masked_fill(~torch.cat([calm.inside[i], wild.inside[i]]), UNKNOWN))
        return rest, label, count

    def _residual(self, held: Held, calm: Held, k: int, chosen: np.ndarray) -> Iterator[Tensor]:
        """Of image k of `held`, per level `(1, c, h', w')`, with the images `chosen` of `calm` as references."""
        where = self._features.device
        (maps, _), (others, insides) = held.of(np.array([k]), where), calm.of(chosen, where)
        for one, other, inside, scale in zip(maps, others, insides, self.scales_, strict=True):
            one = standardised(one, *scale)
            bank = Bank(standardised(other, *scale).permute(0, 2, 3, 1)[inside]) if self.residual else None
            yield one if bank is None else residuals(one, bank)

    def _drawn(self, rest: list[Tensor], label: list[Tensor], count: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """For each step and level residuals `(m, c)` and their labels `(m,)`, of normal and of anomalous images."""
        rng, odd = np.random.default_rng(self.seed), self.batch // 2
        calm = shuffled(count, self.steps * (self.batch - odd), rng).reshape(self.steps, -1)
        wild = shuffled(len(rest[0]) - count, self.steps * odd, rng).reshape(self.steps, -1) + count
        where = self._features.device
        for at in np.concatenate([calm, wild], axis=1):
            yield [
                (tokens(level[at].to(where).float()).flatten(0, 1), own[at].to(where).flatten())
                for level, own in zip(rest, label, strict=True)
            ]


@dataclass(frozen=True)
class Corrupted:
    """Normal images, each with a synthetic anomaly within what counts, made of what counts, and its mask."""

    some: Samples
    seed: int

    def __len__(self) -> int:
        return len(self.some)

    def batches(self, size: int) -> Iterator[Batch]:
        """As `Samples` gives them."""
        rng = np.random.default_rng(self.seed)
        for batch in self.some.batches(size):
            images, (seen, _, inside) = checked(batch), shrunk(batch)
            pairs = [perlin.corrupted(seen, i, rng, chance=1.0, inside=inside[i]) for i in range(len(batch))]
            x, mask = (np.stack(each) for each in zip(*pairs, strict=True))
            x = np.where(mask[:, None], x, images)  # outside the anomaly as the normals: not black where nothing counts
            yield replace(batch, x=x, mask=mask.astype(np.int8), label=np.full_like(batch.label, ANOMALOUS))
