"""Breunig, Kriegel, Ng, Sander: LOF: Identifying Density-Based Local Outliers. SIGMOD 2000.

A row is anomalous when it lies in a thinner place than the normal rows nearest to it do. Near 1 is normal; the
score of a new row is taken against the training rows alone, so it does not depend on its batch.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge

from pipeline.errors import DataError
from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.nearest import Nearest, others
from pipeline.parts.rows import ablation, drawn, learned
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

LEAST = 1e-10  # of a mean reachability distance: k equal rows would have no finite density


@dataclass
class LOF:
    """Local outlier factor: how much denser the neighbourhood's rows lie than the row itself."""

    # Number k of neighbours (MinPts), at least 1; fewer normals than k + 1 use all there are.
    neighbours: Annotated[int, Ge(1)] = 20
    # Normals kept, at least 2, drawn at random from more; memory and time grow with it.
    rows: Annotated[int, Ge(2)] = 50_000
    # Seed of that draw, at least 0.
    seed: Annotated[int, Ge(0)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "Breunig, Kriegel, Ng, Sander: LOF: Identifying Density-Based Local Outliers. SIGMOD 2000"

    def fit(self, train: Samples) -> Self:
        """Keep the normals of `train` and their densities. Raises DataError for fewer than 2, or for infinity."""
        self.encoder_, x = learned(normals(train))
        bank = drawn(x, self.rows, self.seed)
        if len(bank) < 2:
            raise DataError(f"table/lof needs at least 2 normal rows, got {len(bank)}")
        self._nearest = Nearest(bank)
        k = min(self.neighbours, len(bank) - 1)
        distance, place = others(*self._nearest.of(bank, k + 1))
        self.reach_ = distance[:, -1]  # k-distance (definition 3)
        self.density_ = self._density(distance, place)
        self._keep(bank)
        return self

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 factors `(n,)`. Raises DataError for other columns or infinity."""
        must_be_fitted(self, "bank_")
        return Scores(self._factor(batch.x))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """How much lower the factor is with one column at its median, `(n, c)` (see `ablation`)."""
        must_be_fitted(self, "bank_")
        return ablation(self._factor, self.encoder_, batch.x)

    def _factor(self, frame: pd.DataFrame) -> np.ndarray:
        """Definition 7, the normal rows as the neighbourhood."""
        k = min(self.neighbours, len(self.bank_) - 1)
        distance, place = self._nearest.of(self.encoder_.transform(frame), k)
        return (self.density_[place].mean(axis=1) / self._density(distance, place)).astype(np.float32)

    def _density(self, distance: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The local reachability density, definition 6, of rows with these neighbours `(n, k)`: float64 `(n,)`."""
        reachability = np.maximum(distance, self.reach_[place])  # definition 5
        return 1 / (reachability.mean(axis=1) + LEAST)

    def state(self) -> State:
        must_be_fitted(self, "bank_")
        arrays = {"bank": self.bank_, "reach": self.reach_, "density": self.density_}
        return State(arrays, {"columns": self.encoder_.meta()})

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        bank, reach, density = (state.arrays[name] for name in ("bank", "reach", "density"))
        if (
            bank.ndim != 2
            or bank.shape[1] != len(self.encoder_.features_)
            or not len(bank) == len(reach) == len(density)
        ):
            raise DataError(f"bank must be (m, {len(self.encoder_.features_)}) with m densities, got {bank.shape}")
        self.reach_, self.density_ = reach, density
        self._nearest = Nearest(bank)
        self._keep(bank)
        return self

    def _keep(self, bank: np.ndarray) -> None:
        self.bank_ = bank
        self.history_: list[dict[str, float]] = []
