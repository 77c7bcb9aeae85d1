"""Schölkopf, Platt, Shawe-Taylor, Smola, Williamson: Estimating the Support of a High-Dimensional Distribution. Neural
Computation 2001.

The smoothest function of a Gaussian kernel that is at least rho on most normals (equations 3.5, 3.6 in the primal).
The kernel is approximated from a few landmarks (Williams, Seeger: Using the Nyström Method to Speed Up Kernel Machines,
NIPS 2001), so that time grows with the rows and not with their square.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le

from pipeline.errors import DataError
from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.rows import ablation, drawn, learned
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals

BLOCK = 1 << 22  # kernel values held at a time (32 MB)
STEPS = 500_000  # of stochastic gradient descent at least, over all epochs
FLAT = 1e-10  # share of the landmarks' largest eigenvalue below which a feature is rounding, and left out


@dataclass
class OneClassSVM:
    """How far a row lies outside the boundary that holds most normals.

    Encoded columns; all sums in float64. Features of the landmarks, scikit-learn's SGDOneClassSVM on them."""

    # Share of the normals that may lie outside, in (0, 1]: at most so many do, at least so many carry the boundary.
    nu: Annotated[float, Gt(0), Le(1)] = 0.5
    # Width of the kernel exp(-gamma |x - y|^2), above 0; `scale` is 1 / (k v) for k encoded columns of variance v over
    # all their values, as in scikit-learn.
    gamma: Annotated[float, Gt(0)] | Literal["scale"] = "scale"
    # Landmarks, at least 1, drawn from the normals; more come closer to the exact kernel and take longer.
    components: Annotated[int, Ge(1)] = 256
    # Normals learned from, at least 1, drawn at random from more; memory and time grow with it.
    rows: Annotated[int, Ge(1)] = 100_000
    # Seed of the draws and of the descent, at least 0.
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    paper: ClassVar[str] = "Schölkopf et al.: Estimating the Support of a High-Dimensional Distribution. 2001"

    def fit(self, train: Samples) -> Self:
        """Find the boundary around the normals of `train`. Raises DataError when there is none, or for infinity."""
        from sklearn.linear_model import SGDOneClassSVM

        self.encoder_, x = learned(normals(train))
        x = drawn(x, self.rows, self.seed).astype(np.float64)
        variance = float(x.var())
        self.gamma_ = (1 / (x.shape[1] * variance) if variance else 1.0) if self.gamma == "scale" else self.gamma
        self.landmarks_ = drawn(x, self.components, self.seed)
        # Williams & Seeger, equation 8: K(x, landmarks) U L^-1/2 has the inner products of the approximate kernel
        values, vectors = np.linalg.eigh(self._kernel(self.landmarks_))
        kept = values > FLAT * values[-1]
        normalisation = vectors[:, kept] / np.sqrt(values[kept])
        features = self._kernel(x) @ normalisation
        epochs = max(5, -(-STEPS // len(x)))
        svm = SGDOneClassSVM(nu=self.nu, max_iter=epochs, tol=None, random_state=self.seed).fit(features)
        self.weights_ = normalisation @ svm.coef_.ravel()  # of the landmarks: w phi(x) = K(x, landmarks) weights
        self.offset_ = float(svm.offset_[0])
        self.history_: list[dict[str, float]] = []
        return self

    def _kernel(self, x: np.ndarray) -> np.ndarray:
        """Kernel of encoded rows `x` (n, k) and the m landmarks: float64 `(n, m)`."""
        x = x.astype(np.float64)
        squares = (x**2).sum(axis=1)[:, None] + (self.landmarks_**2).sum(axis=1) - 2 * (x @ self.landmarks_.T)
        return np.exp(-self.gamma_ * squares.clip(min=0))

    def score(self, batch: Batch) -> Scores:
        """Score rows: float32 `(n,)`, rho - f(x), above 0 outside. Raises DataError for other columns or infinity."""
        must_be_fitted(self, "weights_")
        return Scores(self._raw(batch.x).astype(np.float32))

    def explain(self, batch: Batch) -> pd.DataFrame:
        """How much lower each score is with a column at what is typical of it: float32 `(n, c)`."""
        must_be_fitted(self, "weights_")
        return ablation(self._raw, self.encoder_, batch.x)

    def _raw(self, frame: pd.DataFrame) -> np.ndarray:
        """Scores of rows, float64 `(n,)`."""
        x = self.encoder_.transform(frame)
        step = max(1, BLOCK // max(self.landmarks_.shape))
        raw = [self._kernel(x[start : start + step]) @ self.weights_ for start in range(0, max(1, len(x)), step)]
        return self.offset_ - np.concatenate(raw)

    def state(self) -> State:
        must_be_fitted(self, "weights_")
        meta = {"columns": self.encoder_.meta(), "gamma": self.gamma_, "offset": self.offset_}
        return State({"landmarks": self.landmarks_, "weights": self.weights_}, meta)

    def from_state(self, state: State) -> Self:
        self.encoder_ = Columns().from_meta(state.meta["columns"])
        self.landmarks_, self.weights_ = state.arrays["landmarks"], state.arrays["weights"]
        m, k = len(self.weights_), len(self.encoder_.features_)
        if self.landmarks_.shape != (m, k) or self.weights_.shape != (m,):
            raise DataError(
                f"landmarks and weights must be (m, {k}) and (m,), got {self.landmarks_.shape} and "
                f"{self.weights_.shape}"
            )
        self.gamma_, self.offset_ = float(state.meta["gamma"]), float(state.meta["offset"])
        self.history_ = []
        return self
