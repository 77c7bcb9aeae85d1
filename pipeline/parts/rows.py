"""What the detectors of tables do alike: read rows, encode them, and say which columns made a score."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.parts.columns import Columns
from pipeline.protocols import Samples

ROWS = 1 << 16  # rows read at a time
ABLATED = 1 << 13  # rows that ablation scores at a time, or as many as it is given


def read(samples: Samples) -> pd.DataFrame:
    """All rows of `samples` as one frame (n, c)."""
    return pd.concat([batch.x for batch in samples.batches(ROWS)])


def learned(samples: Samples) -> tuple[Columns, np.ndarray]:
    """An encoder fitted to the rows of `samples`, and these rows as it encodes them: float32 `(n, k)`.

    Raises DataError for what Columns refuses."""
    frame = read(samples)
    encoder = Columns().fit(frame)
    return encoder, encoder.transform(frame)


def drawn(x: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` rows of `x`, in their order, drawn at random from more."""
    if len(x) <= most:
        return x
    return x[np.sort(np.random.default_rng(seed).choice(len(x), most, replace=False))]


def by_column(encoder: Columns, parts: np.ndarray, frame: pd.DataFrame) -> pd.DataFrame:
    """What each encoded column adds to a score, `(n, k)`, as what each of the c columns of the table does: a frame
    float32 `(n, c)` with the index of `frame`."""
    together = np.zeros((len(parts), len(encoder.names_)))
    np.add.at(together.T, encoder.owners_, parts.T)
    return pd.DataFrame(together.astype(np.float32), index=frame.index, columns=encoder.names_)


def ablation(score: Callable[[pd.DataFrame], np.ndarray], encoder: Columns, frame: pd.DataFrame) -> pd.DataFrame:
    """How much lower the score of each row is with one column at what is typical of it (its median or its commonest
    text in training): float32 `(n, c)` with the index of `frame`.

    Scores n (c + 1) rows. Columns that say the same hide behind one another: both then get little."""
    names = list(encoder.typical_)
    at_once = max(1, ABLATED // max(len(frame), 1))  # columns
    lower: list[np.ndarray] = []
    whole = score(frame)
    for start in range(0, len(names), at_once):
        some = names[start : start + at_once]
        changed = [frame.assign(**{name: encoder.typical_[name]}) for name in some]
        scores = score(pd.concat(changed, ignore_index=True))
        lower += [(whole - part).astype(np.float32) for part in np.split(scores, len(some))]
    return pd.DataFrame(dict(zip(names, lower, strict=True)), index=frame.index)
