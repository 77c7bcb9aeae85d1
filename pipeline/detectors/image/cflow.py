"""CFLOW-AD: how likely a feature vector is, given its position, under a conditional flow per level.

Gudovskiy, Ishizaka and Kozuka (WACV 2022), "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization via
Conditional Normalizing Flows", https://arxiv.org/abs/2107.12571.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from pipeline.errors import DataError, ParamsError
from pipeline.parts import features, nets
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.flows import LEAST, Dense, Flow, positions
from pipeline.parts.held import Held, hold
from pipeline.parts.images import checked
from pipeline.parts.moments import standardised
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.parts.tokens import tokens
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (2, 3, 4)  # of a timm backbone: the last three, as in the authors' repository
BATCH = 16  # images whose likelihoods are taken together at the end of a fit
LOOKED_AT = 64  # images at most that say how likely the likeliest is


@dataclass
class CFlow:
    """A flow per level over single feature vectors, conditioned on sinusoids of where they stand.

    The likelihoods of a level are measured by the largest that training saw; the paper takes the largest of the test
    images instead, so that there a score depends on the images beside it."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2107.12571"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose feature maps give the vectors, one flow per level."""
    couplings: Annotated[int, Ge(1)] = 8
    """Couplings of each flow (the paper's 8); more fit closer and cost more."""
    condition: Annotated[int, Ge(0)] = 128
    """Sinusoids that tell a flow the position, a multiple of 4 (the paper's 128); 0 tells it nothing."""
    ratio: Annotated[float, Gt(0)] = 2.0
    """Hidden width of a coupling's network, as a share of what it sees, features and sinusoids (repository: 2)."""
    clamp: Annotated[float, Gt(0)] = 1.9
    """Largest logarithm of the factor by which a coupling scales (as in the repository)."""
    steps: Annotated[int, Ge(1)] = 300
    """Optimiser steps. The repository trains for 25 times 8 epochs over all vectors."""
    batch: Annotated[int, Ge(1)] = 1024
    """Vectors of each level per step, drawn from all images and positions (256 in the repository)."""
    rate: Annotated[float, Gt(0), Le(1)] = 3e-3
    """Learning rate of Adam, which rises over the first twentieth of the steps and falls along half a cosine
    (2e-4 in the repository)."""
    cache: Annotated[int, Ge(1)] = 512
    """Most MB (10^6 bytes) of feature maps held in half precision during fit; of more images than it holds, as many as
    it does are drawn."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side (the repository has none)."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the orders of the channels and the vectors drawn."""

    def __post_init__(self) -> None:
        if self.condition % 4:
            raise ParamsError(
                f"condition must be a multiple of 4, sines and cosines of row and column, got {self.condition}"
            )
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError without normals, for images of differing sizes, when `cache` does not hold one, for a backbone
        with levels of fewer than two channels, or when training diverges."""
        some = normals(train)
        self._features = features.load(self.backbone, LEVELS)
        where = self._features.device
        held = hold(self._features, some, self.cache, self.seed)
        scales = list(zip(held.mean, held.spread, strict=True))
        flows = self._made([len(mean) for mean, _ in scales]).to(where).train()
        optimiser = torch.optim.Adam(flows.parameters(), lr=self.rate)
        schedule = nets.warm_cosine(optimiser, self.steps, self.steps // 20)

        def losses(drawn: list[tuple[Tensor, Tensor | None]]) -> dict[str, Tensor]:
            return {
                f"level{i}": -flow.log_likelihood(standardised(rows, *scales[i]), condition).mean()
                for i, (flow, (rows, condition)) in enumerate(zip(flows, drawn, strict=True))  # section 4.2
            }

        self.history_ = nets.train(optimiser, self._drawn(held, where), self.steps, losses, schedule)
        self.flows_, self.scales_ = nets.frozen(flows), scales
        self.likeliest_ = self._likeliest(held, where)
        self.size_, self.hash_ = held.size, self._features.hash
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)` in nats per channel: the negative logarithm of the sum over levels of the
        likelihoods, each as a share of the largest in training. It orders as the paper's score does, the
        negative of that sum, but never saturates; the score is the largest of the map before the blur."""
        must_be_fitted(self, "likeliest_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            shares = []
            for i, maps in enumerate(self._features.maps(images)):
                inside = counted(batch, maps.shape[2:], maps.device)
                shares.append((self._log_likelihood(i, maps, inside) - self.likeliest_[i])[:, None])
            odd = -torch.logsumexp(features.merge(shares), dim=1)  # (n, h', w')
            inside = counted(batch, odd.shape[1:], odd.device)
            sample = largest(odd, inside)
            local = enlarged(odd, self.size_, self.smooth, inside)
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "likeliest_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "likeliest_")
        arrays = {**nets.arrays(self.flows_), **self._features.arrays(), "likeliest": self.likeliest_.cpu().numpy()}
        for i, (mean, spread) in enumerate(self.scales_):
            arrays |= {f"mean.{i}": mean.cpu().numpy(), f"spread.{i}": spread.cpu().numpy()}
        return State(arrays, {"size": list(self.size_), "weights_sha256": self.hash_})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        where = self._features.device
        given = {name: torch.from_numpy(np.array(array)).to(where) for name, array in state.arrays.items()}
        self.likeliest_ = given["likeliest"]
        self.scales_ = [(given[f"mean.{i}"], given[f"spread.{i}"]) for i in range(len(self.likeliest_))]
        self.flows_ = nets.restored(self._made([len(mean) for mean, _ in self.scales_]), state.arrays).to(where)
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        return self

    def _made(self, channels: list[int]) -> nn.ModuleList:
        """Flows for levels of so many channels (figure 2)."""
        if min(channels) < LEAST:
            raise DataError(f"every level needs at least {LEAST} channels for a flow, got {channels}")
        with seeded(self.seed):
            flows = []
            for count in channels:
                hidden = max(1, int(((count + 1) // 2 + self.condition) * self.ratio))
                subnet = partial(Dense, hidden=hidden, condition=self.condition)
                flows.append(Flow(count, [subnet] * self.couplings, self.clamp, dim=-1))
        return nn.ModuleList(flows)

    def _told(self, grid: tuple[int, int], where: torch.device) -> Tensor | None:
        """What the flows are told of each position of a grid, `(h' w', condition)`."""
        return positions(grid, self.condition).to(where) if self.condition else None

    def _drawn(self, held: Held, where: torch.device) -> Iterator[list[tuple[Tensor, Tensor | None]]]:
        """For each step the vectors `(batch, c)` of each level, with what is told of their positions."""
        rng = np.random.default_rng(self.seed)
        told = [self._told(level.shape[2:], torch.device("cpu")) for level in held.levels]
        places = [inside.flatten().nonzero()[:, 0] for inside in held.inside]  # that count, over all images
        for _ in range(self.steps):
            step = []
            for level, sinusoids, counts in zip(held.levels, told, places, strict=True):
                chosen = counts[torch.from_numpy(rng.integers(len(counts), size=self.batch))]
                area = level.shape[2] * level.shape[3]
                rows = level.flatten(2)[chosen // area, :, chosen % area].to(where).float()
                step.append((rows, None if sinusoids is None else sinusoids[chosen % area].to(where)))
            yield step

    def _log_likelihood(self, i: int, maps: Tensor, inside: Tensor) -> Tensor:
        """Of each position of the maps `(n, c, h', w')` of level i, per channel, `(n, h', w')` (equation 4); what does
        not count, `inside` `(n, h', w')`, is taken for the mean."""
        rows = standardised(maps, *self.scales_[i]) * inside[:, None]
        grid = (maps.shape[2], maps.shape[3])
        found = self.flows_[i].log_likelihood(tokens(rows), self._told(grid, maps.device))  # (n, h' w')
        return found.unflatten(1, grid)

    def _likeliest(self, held: Held, where: torch.device) -> Tensor:
        """The largest log-likelihood of each level over the held images, `(levels,)`."""
        chosen = np.unique(np.linspace(0, len(held) - 1, LOOKED_AT).round().astype(int))
        best = torch.full((len(held.levels),), -torch.inf)
        with torch.inference_mode():
            for start in range(0, len(chosen), BATCH):
                for i, (maps, inside) in enumerate(zip(*held.of(chosen[start : start + BATCH], where), strict=True)):
                    best[i] = max(best[i], self._log_likelihood(i, maps, inside)[inside].max().cpu())
        return best.to(where)
