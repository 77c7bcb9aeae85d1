"""Chawla, Bowyer, Hall, Kegelmeyer: SMOTE: Synthetic Minority Over-sampling Technique. JAIR 16, 2002, and its
relatives, by imbalanced-learn.

A new anomaly lies between a labelled anomaly and one of the anomalies nearest to it. Texts and booleans are never
blended: with such columns a new row takes the commonest value among its neighbours (section 6.1, SMOTE-NC).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le

from pipeline.errors import DataError
from pipeline.parts.columns import NUMBER, kind
from pipeline.protocols import ANOMALOUS, NORMAL, Batch, Samples

ROWS = 1 << 16  # rows of one batch


@dataclass
class Smote:
    """New labelled anomalies for a table whose training part has a few (`split.anomalies.train`)."""

    # `smote`; `borderline` starts from anomalies near normals (Han 2005), `svm` from the support vectors among
    # them (Nguyen 2011), `adasyn` from those that normals surround most (He 2008). The last three need numbers only.
    variant: Literal["smote", "borderline", "svm", "adasyn"] = "smote"
    # Anomalies wanted per normal, in (0, 1]; 1 balances the two. `svm` may make fewer, `adasyn` a few more or less.
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    # Nearest anomalies that a new one is drawn towards, at least 1; there must be more labelled anomalies than this.
    neighbours: Annotated[int, Ge(1)] = 5
    # Seed of the draws, at least 0.
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0

    def augment(self, train: Samples) -> Iterator[Batch]:
        """New rows only, label 1, ids `smote-000001` and so on; none when there are enough anomalies already.

        Raises DataError without normals, with too few anomalies, or when a variant finds nothing to start from."""
        labelled = train[(train.label == NORMAL) | (train.label == ANOMALOUS)]
        label = labelled.label
        bad, wanted = int((label == ANOMALOUS).sum()), round(self.share * int((label == NORMAL).sum()))
        if bad == len(label):
            raise DataError(
                f"augment.kind smote needs normals (label 0) in the training part, got {bad} anomalies only"
            )
        if bad == 0:
            raise DataError(
                "augment.kind smote needs labelled anomalies in the training part, got none; give it some with "
                "split.anomalies.train, or set augment.kind to none"
            )
        if bad <= self.neighbours:
            raise DataError(
                f"augment.neighbours must be less than the labelled anomalies in the training part, {bad}, got "
                f"{self.neighbours}; lower it, or give training more with split.anomalies.train"
            )
        if bad >= wanted:
            return
        frame = pd.concat([batch.x for batch in labelled.batches(ROWS)])
        made = self._made(frame, label, wanted - bad)
        ids = [f"smote-{number + 1:06d}" for number in range(len(made))]
        made = made.set_axis(ids, axis=0)
        for start in range(0, len(made), ROWS):
            some = made.iloc[start : start + ROWS]
            yield Batch(list(some.index), some, np.full(len(some), ANOMALOUS, np.int8))

    def _made(self, frame: pd.DataFrame, label: np.ndarray, new: int) -> pd.DataFrame:
        """About `new` rows with the columns of `frame`. Whole numbers become decimal ones, missing numbers medians."""
        numbers = [name for name in frame.columns if kind(frame[name]) in (NUMBER, None)]
        classes = [name for name in frame.columns if name not in numbers]
        if classes and self.variant != "smote":
            raise DataError(
                "augment.variant must be smote where columns hold texts or booleans, which are never blended "
                f"({classes[0]!r}), got {self.variant}"
            )
        x, shift, scale = _standardised(frame[numbers])
        codes = {name: pd.factorize(frame[name], use_na_sentinel=False) for name in classes}
        columns = [x, *(code.astype(np.float64)[:, None] for code, _ in codes.values())]
        sampler = self._sampler(len(numbers), len(classes), {ANOMALOUS: new + int((label == ANOMALOUS).sum())})
        try:
            made = np.asarray(sampler.fit_resample(np.concatenate(columns, axis=1), label)[0][len(label) :], np.float64)
        except (ValueError, RuntimeError) as error:
            raise DataError(
                f"augment.variant {self.variant} cannot work here: {' '.join(str(error).split())}"
            ) from error
        if not len(made):
            raise DataError(
                f"augment.variant {self.variant} found no labelled anomaly to start from (none lies near normals); "
                "use smote"
            )
        rows: dict[str, Any] = {name: made[:, i] * scale[i] + shift[i] for i, name in enumerate(numbers)}
        for i, (name, (_, values)) in enumerate(codes.items(), start=len(numbers)):
            rows[name] = pd.Series(values.take(made[:, i].astype(np.int64))).astype(frame[name].dtype)
        return pd.DataFrame(rows)[list(frame.columns)]

    def _sampler(self, numbers: int, classes: int, wanted: dict[int, int]) -> Any:
        """imbalanced-learn's sampler for `numbers` columns, followed by `classes` that are not blended."""
        from imblearn import over_sampling as over

        drawn = {"sampling_strategy": wanted, "random_state": self.seed}
        if not numbers:
            return over.SMOTEN(k_neighbors=self.neighbours, **drawn)
        if classes:
            places = list(range(numbers, numbers + classes))
            return over.SMOTENC(places, k_neighbors=self.neighbours, **drawn)
        if self.variant == "adasyn":
            return over.ADASYN(n_neighbors=self.neighbours, **drawn)
        kinds = {"smote": over.SMOTE, "borderline": over.BorderlineSMOTE, "svm": over.SVMSMOTE}
        return kinds[self.variant](k_neighbors=self.neighbours, **drawn)


def _standardised(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns in units of their deviation, float64 `(n, p)`, with the shift and scale `(p,)` that lead back: which
    anomalies are near must not depend on units. Raises DataError for infinity."""
    x = np.column_stack([np.zeros((len(frame), 0)), *(frame[c].to_numpy(np.float64, na_value=np.nan) for c in frame)])
    endless = np.flatnonzero(np.isinf(x).any(axis=0))
    if len(endless):
        raise DataError(f"column {frame.columns[endless[0]]!r} must hold finite numbers, got infinity")
    known = ~np.isnan(x)
    middle = np.array([np.median(c[k]) if k.any() else 0.0 for c, k in zip(x.T, known.T, strict=True)])
    x = np.where(known, x, middle)
    constant = x.min(axis=0) == x.max(axis=0)
    shift = np.where(constant, x[0], x.mean(axis=0))
    scale = np.where(constant, 1.0, x.std(axis=0))
    return (x - shift) / scale, shift, scale
