"""Borghesi, Bartolini, Lombardi, Milano, Benini: Anomaly Detection using Autoencoders in High Performance Computing
Systems. AAAI (IAAI) 2019.

A network with one hidden layer, wider than the row and kept sparse by an L1 penalty on what it puts out, learns to
give healthy rows back; what it gives back badly is odd. The paper trains one for each machine: `per_category: true`
with the machine's name as `dataset.category` does.

Unlike the paper: columns are standardised, mini-batches are drawn with replacement, and the learning rate rises and
falls once.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le

from pipeline.errors import DataError
from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.progress import tracked
from pipeline.parts.rows import by_column, learned
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 22  # values of the hidden layer held at a time (32 MB)
TOLD = 50  # steps that one entry of the history is the mean of
MOST = float(np.finfo(np.float32).max)


@dataclass
class Autoencoder:
    """How badly a sparse network that has learned the normals gives a row back.

    The score is the mean absolute error over the encoded columns, in their standard deviations."""

    # Hidden units per encoded column, above 0; the paper's 10 make it overcomplete.
    width: Annotated[float, Gt(0)] = 10.0
    # Most hidden units, at least 1, however many columns there are; memory and time grow with it.
    units: Annotated[int, Ge(1), Le(65_536)] = 1024
    # Weight of the L1 penalty on hidden outputs (their sum per encoded column), at least 0; more makes them sparser.
    sparsity: Annotated[float, Ge(0)] = 1e-3
    # Optimiser steps, at least 1.
    steps: Annotated[int, Ge(1)] = 2000
    # Rows per step, at least 1, at most as many as there are normals.
    batch: Annotated[int, Ge(1)] = 128
    # Largest learning rate of Adam, above 0.
    rate: Annotated[float, Gt(0), Le(1)] = 1e-3
    # Seed of first weights and mini-batches, at least 0.
    seed: Annotated[int, Ge(0)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "Borghesi et al.: Anomaly Detection using Autoencoders in HPC Systems. AAAI (IAAI) 2019"

    def fit(self, train: Samples) -> Self:
        """Train on the normals of `train`. Raises DataError when there are none, or for infinity."""
        import torch

        from pipeline.parts.device import device

        self.encoder_, x = learned(normals(train))
        where, draw = device(), torch.Generator().manual_seed(self.seed)
        k, h = x.shape[1], self._hidden(x.shape[1])
        encode = torch.randn(k, h, generator=draw) * (1 / k) ** 0.5
        decode = torch.randn(h, k, generator=draw) * (1 / h) ** 0.5
        weights = [w.to(where).requires_grad_() for w in (encode, torch.zeros(h), decode, torch.zeros(k))]
        rows = torch.from_numpy(x).to(where)
        optimiser = torch.optim.Adam(weights, lr=self.rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.rate, total_steps=max(2, self.steps))
        losses = []
        for _ in tracked(range(self.steps), self.steps, "training", "steps"):
            some = rows[torch.randint(len(x), (min(self.batch, len(x)),), generator=draw).to(where)]
            loss = self._loss(some, weights)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        told = torch.stack(losses).cpu().split(TOLD)
        self.history_ = [{"step": min((i + 1) * TOLD, self.steps), "loss": p.mean().item()} for i, p in enumerate(told)]
        self.encode_, self.bias_, self.decode_, self.shift_ = (w.detach().cpu().numpy() for w in weights)
        return self

    def _hidden(self, k: int) -> int:
        """Units of the hidden layer for k encoded columns."""
        return max(1, min(self.units, round(self.width * k)))

    def _loss(self, x: "Tensor", weights: list["Tensor"]) -> "Tensor":
        """Mean absolute error of rows (b, k), and the penalty."""
        import torch

        encode, bias, decode, shift = weights
        active = torch.relu(x @ encode + bias)  # (b, h)
        return (active @ decode + shift - x).abs().mean() + self.sparsity * active.sum() / x.numel()

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 mean absolute errors `(n,)`. Raises DataError for other columns or infinity."""
        must_be_fitted(self, "encode_")
        return Scores(self._parts(batch.x).sum(axis=1).clip(0, MOST).astype(np.float32))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """What each column adds to each score: float32 `(n, c)`. Exact: a row's values add up to its score."""
        must_be_fitted(self, "encode_")
        return by_column(self.encoder_, self._parts(batch.x).clip(0, MOST), batch.x)

    def _parts(self, frame: pd.DataFrame) -> np.ndarray:
        """The absolute error of each encoded column, over their number k: float64 `(n, k)`."""
        x = self.encoder_.transform(frame).astype(np.float64)
        step = max(1, BLOCK // len(self.bias_))
        encode, decode = self.encode_.astype(np.float64), self.decode_.astype(np.float64)
        for start in range(0, len(x), step):
            active = np.maximum(x[start : start + step] @ encode + self.bias_, 0)
            x[start : start + step] -= active @ decode + self.shift_
        return np.abs(x) / x.shape[1]

    def state(self) -> State:
        must_be_fitted(self, "encode_")
        arrays = {"encode": self.encode_, "bias": self.bias_, "decode": self.decode_, "shift": self.shift_}
        return State(arrays, {"columns": self.encoder_.meta()})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        k = len(self.encoder_.features_)
        h = self._hidden(k)
        for name, shape in {"encode": (k, h), "bias": (h,), "decode": (h, k), "shift": (k,)}.items():
            if state.arrays[name].shape != shape:
                raise DataError(f"{name} must be {shape}, got {state.arrays[name].shape}")
        self.encode_, self.bias_ = state.arrays["encode"], state.arrays["bias"]
        self.decode_, self.shift_ = state.arrays["decode"], state.arrays["shift"]
        self.history_: list[dict[str, float]] = []
        return self
