"""Chawla, Bowyer, Hall, Kegelmeyer: SMOTE: Synthetic Minority Over-sampling Technique. JAIR 16, 2002, and its
relatives, by imbalanced-learn.

A new anomaly lies between a labelled anomaly and one of the k anomalies nearest to it. Texts and booleans are never
blended: with such columns a new row takes the commonest value among its neighbours (section 6.1, SMOTE-NC).

A column of whole numbers stays one: the paper's fractions are rounded. No row to score will ever hold 2.4 holes, and a
learner that may cut between 2 and 2.4 would tell new rows from real ones instead of anomalies from normals. Numbers
that are codes (1 = steel, 2 = brass) have nothing between them: make them texts in the source.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le
from pandas.api import types

from pipeline.errors import DataError
from pipeline.parts.columns import NUMBER, kind
from pipeline.parts.rows import ROWS, read
from pipeline.protocols import ANOMALOUS, Batch, Samples
from pipeline.samples import presumed_normal

EXACT = 2**53  # whole numbers beyond this have no exact float64


@dataclass
class Smote:
    """New labelled anomalies for a table whose training part has a few (`split.anomalies.train`)."""

    # `smote`; `borderline` starts from anomalies near normals (Han 2005), `svm` from the support vectors among
    # them (Nguyen 2011), `adasyn` from those that normals surround most (He 2008). The last three need numbers only.
    variant: Literal["smote", "borderline", "svm", "adasyn"] = "smote"
    # Anomalies wanted per normal, in (0, 1]; 1 balances the two. `svm` may make fewer, `adasyn` a few more or less.
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    # Nearest anomalies that a new one is drawn towards (the paper's k), at least 1, below the labelled anomalies.
    neighbours: Annotated[int, Ge(1)] = 5
    # Seed of the draws, at least 0.
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0

    def augment(self, train: Samples) -> Iterator[Batch]:
        """New rows only, label 1, ids `smote-000001` and so on; none when there are enough anomalies already.

        They are made from labelled anomalies and what stands for normal in `train` (see `presumed_normal`). Raises
        DataError without normals, with too few anomalies, or when a variant finds nothing to start from."""
        good, odd = presumed_normal(train.label), train.label == ANOMALOUS
        bad, wanted = int(odd.sum()), round(self.share * int(good.sum()))
        if not good.any():
            raise DataError(
                f"augment.kind smote needs normals (label 0) in the training part, got {bad} anomalies only"
            )
        if not bad:
            raise DataError(
                "augment.kind smote needs labelled anomalies in the training part, got none; give it some with "
                "split.anomalies.train, or set augment.kind to none"
            )
        if bad >= wanted:
            return
        if bad <= self.neighbours:
            mend = f"lower it to at most {bad - 1}, or give training more" if bad > 1 else "give training at least 2"
            raise DataError(
                f"augment.neighbours must be less than the labelled anomalies in the training part, {bad}, as each "
                f"new one is drawn between one of them and one of the k others nearest to it, got {self.neighbours}; "
                f"{mend} with split.anomalies.train"
            )
        used = good | odd
        made = self._made(read(train[used]), odd[used].astype(np.int8), wanted - bad)
        ids = [f"smote-{number + 1:06d}" for number in range(len(made))]
        made = made.set_axis(ids, axis=0)
        for start in range(0, len(made), ROWS):
            some = made.iloc[start : start + ROWS]
            yield Batch(list(some.index), some, np.full(len(some), ANOMALOUS, np.int8))

    def _made(self, frame: pd.DataFrame, label: np.ndarray, new: int) -> pd.DataFrame:
        """About `new` rows with the columns of `frame`. Missing numbers become medians, except in a column that holds
        no value at all, which stays as it is."""
        kinds = {name: kind(frame[name]) for name in frame.columns}
        numbers = [name for name, found in kinds.items() if found == NUMBER]
        classes = [name for name, found in kinds.items() if found not in (NUMBER, None)]
        if not numbers and not classes:
            raise DataError("augment.kind smote needs a column with values in the training part, got missing ones only")
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
        rows = {name: _like(frame[name], made[:, i] * scale[i] + shift[i]) for i, name in enumerate(numbers)}
        for i, (name, (_, values)) in enumerate(codes.items(), start=len(numbers)):
            rows[name] = pd.Series(values.take(made[:, i].astype(np.int64))).astype(frame[name].dtype)
        rows |= {name: pd.Series([None] * len(made), dtype=frame[name].dtype) for name in frame if name not in rows}
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


def _like(column: pd.Series, drawn: np.ndarray) -> pd.Series:
    """Numbers drawn for `column`, (n,): whole ones where it holds no other, with its type where that holds integers."""
    known = column.dropna().to_numpy(np.float64)
    if (known != np.rint(known)).any():
        return pd.Series(drawn)
    whole = pd.Series(np.rint(drawn))
    exact = types.is_integer_dtype(column.dtype) and np.abs(known).max() <= EXACT
    return whole.astype(column.dtype) if exact else whole


def _standardised(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns in units of their deviation, float64 `(n, p)`, with the shift and scale `(p,)` that lead back: which
    anomalies are near must not depend on units. Raises DataError for infinity."""
    x = np.column_stack([np.zeros((len(frame), 0)), *(frame[c].to_numpy(np.float64, na_value=np.nan) for c in frame)])
    endless = np.flatnonzero(np.isinf(x).any(axis=0))
    if len(endless):
        raise DataError(f"column {frame.columns[endless[0]]!r} must hold finite numbers, got infinity")
    x = np.where(np.isnan(x), np.array([np.median(c[~np.isnan(c)]) for c in x.T]), x)
    largest = np.abs(x).max(axis=0, initial=0)
    unit = x / np.where(largest > 0, largest, 1)  # in units of the largest value, so that no square overflows
    constant = x.min(axis=0) == x.max(axis=0)
    shift = np.where(constant, x[0], unit.mean(axis=0) * largest)
    deviation = unit.std(axis=0) * largest
    scale = np.where(constant | (deviation == 0), 1.0, deviation)
    return (x - shift) / scale, shift, scale
