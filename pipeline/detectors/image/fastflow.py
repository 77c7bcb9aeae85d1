"""FastFlow: a flow of convolutions brings each feature map to a normal distribution; unlikely positions are odd.

Yu, Zheng, Wang, Li, Wu, Zhao and Wu (2021), "FastFlow: Unsupervised Anomaly Detection and Localization via 2D
Normalizing Flows", https://arxiv.org/abs/2111.07677.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.parts import features, nets
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.flows import LEAST, Convolved, Flow
from pipeline.parts.held import hold
from pipeline.parts.images import checked
from pipeline.parts.moments import standardised
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (1, 2, 3)  # of a timm backbone, as in the paper


@dataclass
class FastFlow:
    """A flow per level over standardised feature maps; convolutions of 3 x 3 and of 1 x 1 take turns in it.

    What does not count is set to the mean before a flow sees it, and its own likelihood is passed over."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "https://arxiv.org/abs/2111.07677"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose feature maps the flows learn, one flow per level."""
    couplings: Annotated[int, Ge(1)] = 8
    """Couplings of each flow (the paper's 8 for ResNets, 20 for transformers); more fit closer and cost more."""
    kernels: Literal["alternating", "3x3", "1x1"] = "alternating"
    """Convolutions of the couplings: 3 x 3 and 1 x 1 in turn (the paper's, but for ResNet-18, which has 3 x 3), or one
    of them; with 1 x 1 alone a position knows nothing of its neighbours."""
    ratio: Annotated[float, Gt(0)] = 1.0
    """Hidden channels of a coupling's network, as a share of those that it sees (reimplementations have 1.0, with
    transformers 0.16)."""
    clamp: Annotated[float, Gt(0)] = 2.0
    """Largest logarithm of the factor by which a coupling scales; larger fits closer, and training may diverge."""
    steps: Annotated[int, Ge(1)] = 300
    """Optimiser steps. The paper trains for 500 epochs."""
    batch: Annotated[int, Ge(1)] = 16
    """Images per step (the paper's 32)."""
    rate: Annotated[float, Gt(0), Le(1)] = 3e-3
    """Learning rate of Adam, which falls along half a cosine to 0 (the paper's is 1e-3)."""
    decay: Annotated[float, Ge(0), Le(1)] = 1e-5
    """Weight decay of Adam (the paper's)."""
    combine: Literal["likelihoods", "logarithms"] = "likelihoods"
    """How the levels are combined: by the mean of their likelihoods (the paper's), or of the logarithms of these, in
    which one level can make a position odd alone."""
    cache: Annotated[int, Ge(1)] = 512
    """Most MB (10^6 bytes) of feature maps held in half precision during fit; of more images than it holds, as many as
    it does are drawn."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side; the paper tells of none."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the orders of the channels and the images drawn."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on the normal images of `train`, uint8 `(n, 3, h, w)`.

        Raises DataError without normals, for images of differing sizes, when `cache` does not hold one, for a backbone
        with levels of fewer than two channels, or when training diverges."""
        some = normals(train)
        self._features = features.load(self.backbone, LEVELS)
        where, rng = self._features.device, np.random.default_rng(self.seed)
        held = hold(self._features, some, self.cache, self.seed)
        scales = list(zip(held.mean, held.spread, strict=True))
        flows = self._made([len(mean) for mean, _ in scales]).to(where).train()
        optimiser = torch.optim.Adam(flows.parameters(), lr=self.rate, weight_decay=self.decay)
        schedule = nets.warm_cosine(optimiser, self.steps)

        def losses(drawn: tuple[list[Tensor], list[Tensor]]) -> dict[str, Tensor]:
            found = {}
            for i, (flow, maps, inside) in enumerate(zip(flows, *drawn, strict=True)):
                given = standardised(maps, *scales[i]) * inside[:, None]
                found[f"level{i}"] = -flow.log_likelihood(given)[inside].mean()
            return found

        batches = held.draws(self.steps, self.batch, rng, where)
        self.history_ = nets.train(optimiser, batches, self.steps, losses, schedule)
        self.flows_, self.scales_ = nets.frozen(flows), scales
        self.size_, self.hash_ = held.size, self._features.hash
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)` in nats per channel: the negative logarithm of the sum of the likelihoods
        of the levels, which orders as their negative mean does but never saturates, or, by `combine`, the negative
        mean of their logarithms; the score is the largest of the map before the blur."""
        must_be_fitted(self, "flows_")
        images = checked(batch, self.size_)
        with torch.inference_mode():
            found = []
            for flow, scale, maps in zip(self.flows_, self.scales_, self._features.maps(images), strict=True):
                inside = counted(batch, maps.shape[2:], maps.device)
                found.append(flow.log_likelihood(standardised(maps, *scale) * inside[:, None])[:, None])
            levels = features.merge(found)  # (n, levels, h', w')
            mean = torch.logsumexp(levels, dim=1) if self.combine == "likelihoods" else levels.mean(dim=1)
            inside = counted(batch, mean.shape[1:], mean.device)
            sample = largest(-mean, inside)
            local = enlarged(-mean, self.size_, self.smooth, inside)
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "flows_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "flows_")
        arrays = {**nets.arrays(self.flows_), **self._features.arrays()}
        for i, (mean, spread) in enumerate(self.scales_):
            arrays |= {f"mean.{i}": mean.cpu().numpy(), f"spread.{i}": spread.cpu().numpy()}
        meta = {"levels": len(self.scales_), "size": list(self.size_), "weights_sha256": self.hash_}
        return State(arrays, meta)

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        where = self._features.device
        self.scales_ = [
            tuple(torch.from_numpy(np.array(state.arrays[f"{name}.{i}"])).to(where) for name in ("mean", "spread"))
            for i in range(state.meta["levels"])
        ]
        self.flows_ = nets.restored(self._made([len(mean) for mean, _ in self.scales_]), state.arrays).to(where)
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        return self

    def _made(self, channels: list[int]) -> nn.ModuleList:
        """Flows for levels of so many channels."""
        if min(channels) < LEAST:
            raise DataError(f"every level needs at least {LEAST} channels for a flow, got {channels}")
        taken = {"alternating": (3, 1), "3x3": (3,), "1x1": (1,)}[self.kernels]
        with seeded(self.seed):
            flows = []
            for count in channels:
                hidden = max(1, int((count + 1) // 2 * self.ratio))
                subnets = [
                    partial(Convolved, hidden=hidden, kernel=taken[i % len(taken)]) for i in range(self.couplings)
                ]
                flows.append(Flow(count, subnets, self.clamp, dim=1))
        return nn.ModuleList(flows)
