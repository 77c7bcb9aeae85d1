"""One model per category, behind one detector."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from pipeline.errors import DataError, NotFittedError
from pipeline.protocols import Batch, Detector, Samples, Scores, State
from pipeline.wrappers.wrapper import Wrapper


@dataclass
class PerCategory(Wrapper):
    """A detector of its own for each category of the data; scores stay on each detector's own scale."""

    def around(self, inner: Detector) -> Self:
        """Take `inner` in; returns self. `explain` is there when `inner` has it, as `explanation.because` asks."""
        if hasattr(inner, "explain"):
            self.explain = self._explain
        return super().around(inner)

    def fit(self, train: Samples) -> Self:
        """Fit one detector to each category. Raises DataError when a sample has none."""
        rows = train.rows
        given = rows["category"].fillna("").to_numpy() if "category" in rows else np.full(len(train), "")
        if len(given) == 0 or (given == "").any():
            name = train.ids[int(np.argmax(given == ""))] if len(given) else "none at all"
            raise DataError(f"per_category needs a category for every sample, and there is none for {name}")
        self.each_: dict[str, Detector] = {}
        for name in sorted(set(given)):
            try:
                self.each_[str(name)] = deepcopy(self.inner).fit(train[given == name])
            except DataError as error:
                raise DataError(f"category {name}: {error}") from error
        return self

    def score(self, batch: Batch) -> Scores:
        """Score every sample with the detector of its category. Raises DataError for a category unseen in training."""
        found: dict[int, tuple[np.float32, np.ndarray | None]] = {}
        for name, at in self._places(batch).items():
            scores = self.each_[name].score(_taken(batch, at))
            local = scores.local if scores.local is not None else [None] * len(at)
            found |= dict(zip(at.tolist(), zip(scores.sample, local, strict=True), strict=True))
        maps = [found[index][1] for index in range(len(batch))]
        sample = np.array([found[index][0] for index in range(len(batch))], np.float32)
        return Scores(sample, None if not maps or maps[0] is None else np.stack(maps))

    def _explain(self, batch: Batch) -> pd.DataFrame:
        """What each column adds to the score of each row, as the detector of its category says: float32 `(n, c)`,
        indexed as the batch. Raises DataError for a category unseen in training."""
        places = self._places(batch)
        if not places:  # any detector says how no rows look
            return next(iter(self.each_.values())).explain(batch)
        told = [self.each_[name].explain(_taken(batch, at)) for name, at in places.items()]
        return pd.concat(told).iloc[np.argsort(np.concatenate(list(places.values())))]

    def _places(self, batch: Batch) -> dict[str, np.ndarray]:
        """Where in the batch each of its categories is. Raises DataError for one unseen in training."""
        self._fitted()
        names = batch.category if batch.category is not None else [""] * len(batch)
        for name, sample in zip(names, batch.ids, strict=True):
            if name not in self.each_:
                raise DataError(
                    f"category of sample {sample} must be one of training, {', '.join(self.each_)}, got {name!r}"
                )
        return {name: np.flatnonzero(np.asarray(names) == name) for name in sorted(set(names))}

    @property
    def history_(self) -> list[dict[str, float]]:
        each = getattr(self, "each_", {})
        return [{"category": float(i), **row} for i, one in enumerate(each.values()) for row in one.history_]

    def state(self) -> State:
        self._fitted()
        states = [one.state() for one in self.each_.values()]
        return State(
            {f"{i}/{name}": array for i, state in enumerate(states) for name, array in state.arrays.items()},
            {"categories": list(self.each_), "each": [state.meta for state in states]},
            {f"{i}_{name}": fitted for i, state in enumerate(states) for name, fitted in state.estimators.items()},
        )

    def from_state(self, state: State) -> Self:
        def own(values: dict, prefix: str) -> dict:
            return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

        self.each_ = {}
        for i, (name, meta) in enumerate(zip(state.meta["categories"], state.meta["each"], strict=True)):
            one = State(own(state.arrays, f"{i}/"), meta, own(state.estimators, f"{i}_"))
            self.each_[name] = deepcopy(self.inner).from_state(one)
        return self

    def _fitted(self) -> None:
        if not hasattr(self, "each_"):
            raise NotFittedError("PerCategory must be fitted before it can score or be saved")


def _taken(batch: Batch, at: np.ndarray) -> Batch:
    x = batch.x.iloc[at] if hasattr(batch.x, "iloc") else batch.x[at]
    mask, region = (None if part is None else part[at] for part in (batch.mask, batch.region))
    names = None if batch.category is None else [batch.category[i] for i in at]
    return Batch([batch.ids[i] for i in at], x, batch.label[at], mask, region, names)
