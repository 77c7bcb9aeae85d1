"""Pang, Shen, van den Hengel: Deep Anomaly Detection with Deviation Networks. KDD 2019.

Learns from a few labelled anomalies among many rows that are presumed normal, labelled so or not at all. A network is
taught to give normals the mean of a Gaussian prior, and anomalies at least a margin of its deviations more (equations
6-7); half of each mini-batch are anomalies. `focal` is the loss of Lin et al. instead (Focal Loss for Dense Object
Detection, ICCV 2017).

Unlike the paper: several networks, trained beside each other and averaged; values clipped; half-synthetic anomalies
(after Zhang et al.: mixup, ICLR 2018, but an anomaly mixed with a normal counts as an anomaly); and AdamW with one
rise and fall of the rate instead of RMSprop.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le, Lt

from pipeline.errors import DataError
from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.progress import tracked
from pipeline.parts.rows import ROWS, ablation, learned
from pipeline.protocols import ANOMALOUS, Batch, Samples, Scores, State
from pipeline.samples import normals

if TYPE_CHECKING:
    from torch import Generator, Tensor

PRIOR = 5000  # draws of the Gaussian prior (section 4.2)
EDGE = 5.0  # deviations from the mean at which encoded values are clipped
TOLD = 50  # steps that one entry of the history is the mean of


@dataclass
class SemiSupervised:
    """Small networks that learn a few labelled anomalies against all other rows, which are presumed normal.

    With `deviation` the score is in standard deviations of the prior above its mean, with `focal` it is the
    log-odds of an anomaly."""

    # `deviation` of the score from the prior's, the paper's, or `focal`, which looks most at rows on the wrong side.
    loss: Literal["deviation", "focal"] = "deviation"
    # Deviations a by which anomalies shall stand out under `deviation`, above 0.
    margin: Annotated[float, Gt(0)] = 5.0
    # Exponent of `focal`, at least 1; larger looks more at hard rows.
    gamma: Annotated[float, Ge(1)] = 2.0
    # Networks whose outputs are averaged, at least 1; more vary less with the seed.
    networks: Annotated[int, Ge(1), Le(1000)] = 8
    # Units of the hidden layer of each, at least 1; more allow more interplay between columns.
    hidden: Annotated[int, Ge(1), Le(10_000)] = 20
    # Most that a mixed anomaly takes from a normal row, in [0, 1); 0 mixes none.
    mix: Annotated[float, Ge(0), Lt(1)] = 0.5
    # Optimiser steps, at least 1.
    steps: Annotated[int, Ge(1)] = 500
    # Rows per network and step, at least 2, half of them anomalies.
    batch: Annotated[int, Ge(2)] = 128
    # Largest learning rate of AdamW, above 0.
    rate: Annotated[float, Gt(0), Le(1)] = 1e-3
    # Decay of the weights, at least 0; more gives smoother scores.
    decay: Annotated[float, Ge(0)] = 0.01
    # Seed of first weights, prior and mini-batches, at least 0.
    seed: Annotated[int, Ge(0)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = "Pang, Shen, van den Hengel: Deep Anomaly Detection with Deviation Networks. KDD 2019"

    def fit(self, train: Samples) -> Self:
        """Train on the anomalies of `train` against all its other rows, labelled normal or of unknown label.

        Raises DataError when one of the two is absent, or for infinity."""
        normals(train)
        anomalous = train.label == ANOMALOUS
        if not anomalous.any():
            raise DataError(
                "table/semi_supervised learns from labelled anomalies and the training part has none; give it some "
                "with split.anomalies.train, or use a detector that learns from normals"
            )
        self.encoder_, x = learned(train)
        self._train(x.clip(-EDGE, EDGE), anomalous)
        return self

    def _train(self, x: np.ndarray, anomalous: np.ndarray) -> None:
        """Train on encoded rows (n, k) of which some, bool (n,), are anomalies."""
        import torch

        from pipeline.parts.device import device

        where, draw = device(), torch.Generator().manual_seed(self.seed)
        weights = self._first(x.shape[1], draw, where)
        prior = torch.randn(PRIOR, generator=draw)
        mean, deviation = (prior.mean().item(), prior.std().item()) if self.loss == "deviation" else (0.0, 1.0)
        rows = torch.from_numpy(x).to(where)
        odd, good = (torch.from_numpy(np.flatnonzero(which)) for which in (anomalous, ~anomalous))
        half = self.batch // 2
        target = (torch.arange(self.batch, device=where) < half).float().expand(self.networks, -1)
        optimiser = torch.optim.AdamW(weights, lr=self.rate, weight_decay=self.decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.rate, total_steps=max(2, self.steps))
        losses = []
        for _ in tracked(range(self.steps), self.steps, "training", "steps"):
            high = rows[self._drawn(odd, half, draw).to(where)]  # (networks, half, k)
            low = rows[self._drawn(good, self.batch - half, draw).to(where)]
            if self.mix:
                other = rows[self._drawn(good, half, draw).to(where)]
                share = self.mix * torch.rand(self.networks, half, 1, generator=draw).to(where)
                high = (1 - share) * high + share * other
            out = _network(torch.cat([high, low], dim=1), *weights)
            loss = self._loss((out - mean) / deviation, target)
            optimiser.zero_grad()
            (loss * self.networks).backward()  # each network as if it were alone
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        told = torch.stack(losses).cpu().split(TOLD)
        self.history_ = [{"step": min((i + 1) * TOLD, self.steps), "loss": p.mean().item()} for i, p in enumerate(told)]
        first, bias, last, shift = (w.detach().cpu().double().numpy() for w in weights)
        # The mean of networks of h units is one network of networks x h units.
        self.first_ = first.transpose(1, 0, 2).reshape(x.shape[1], -1).astype(np.float32)
        self.bias_ = bias.reshape(-1).astype(np.float32)
        self.last_ = (last.reshape(-1) / self.networks / deviation).astype(np.float32)
        self.shift_ = ((shift.mean(keepdims=True).reshape(1) - mean) / deviation).astype(np.float32)

    def _first(self, k: int, draw: "Generator", where: object) -> list["Tensor"]:
        """Random first weights of all networks: (networks, k, h), (networks, 1, h), (networks, h, 1) and one more."""
        import torch

        n, h = self.networks, self.hidden
        first = torch.randn(n, k, h, generator=draw) * (2 / k) ** 0.5
        last = torch.randn(n, h, 1, generator=draw) * (1 / h) ** 0.5
        weights = [first, torch.zeros(n, 1, h), last, torch.zeros(n, 1, 1)]
        return [w.to(where).requires_grad_() for w in weights]

    def _drawn(self, places: "Tensor", count: int, draw: "Generator") -> "Tensor":
        """`count` of these places for each network, with replacement: (networks, count)."""
        import torch

        return places[torch.randint(len(places), (self.networks, count), generator=draw)]

    def _loss(self, out: "Tensor", target: "Tensor") -> "Tensor":
        """Mean loss of outputs against 0 or 1, both (networks, batch)."""
        import torch

        from pipeline.parts.losses import focal

        if self.loss == "focal":
            return focal(out, target, self.gamma)
        return torch.where(target > 0, torch.relu(self.margin - out), out.abs()).mean()  # equation 7

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 `(n,)`. Raises DataError for other columns or infinity."""
        must_be_fitted(self, "first_")
        return Scores(self._output(batch.x))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """How much lower the score of each row is without each column: float32 `(n, c)`, see `rows.ablation`."""
        must_be_fitted(self, "first_")
        return ablation(self._output, self.encoder_, batch.x)

    def _output(self, frame: pd.DataFrame) -> np.ndarray:
        x = self.encoder_.transform(frame).clip(-EDGE, EDGE)
        parts = (x[start : start + ROWS] @ self.first_ + self.bias_ for start in range(0, max(1, len(x)), ROWS))
        return np.concatenate([np.maximum(part, 0) @ self.last_ + self.shift_ for part in parts])

    def state(self) -> State:
        must_be_fitted(self, "first_")
        arrays = {"first": self.first_, "bias": self.bias_, "last": self.last_, "shift": self.shift_}
        return State(arrays, {"columns": self.encoder_.meta()})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        k, units = len(self.encoder_.features_), self.networks * self.hidden
        for name, shape in {"first": (k, units), "bias": (units,), "last": (units,), "shift": (1,)}.items():
            if state.arrays[name].shape != shape:
                raise DataError(f"{name} must be {shape}, got {state.arrays[name].shape}")
        self.first_, self.bias_ = state.arrays["first"], state.arrays["bias"]
        self.last_, self.shift_ = state.arrays["last"], state.arrays["shift"]
        self.history_: list[dict[str, float]] = []
        return self


def _network(x: "Tensor", first: "Tensor", bias: "Tensor", last: "Tensor", shift: "Tensor") -> "Tensor":
    """Outputs (networks, rows) of the networks for rows of their own, (networks, rows, k)."""
    import torch

    return torch.baddbmm(shift, torch.relu(torch.baddbmm(bias, x, first)), last)[..., 0]
