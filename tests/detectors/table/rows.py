"""Views of DataFrames, for tests of what learns from tables."""

import numpy as np
import pandas as pd

from pipeline.protocols import Batch
from pipeline.samples import View


def view(frame: pd.DataFrame, label: list[int] | np.ndarray) -> View:
    """Samples over the rows of `frame`, called r0, r1 and so on."""
    rows = pd.DataFrame({"id": [f"r{i}" for i in range(len(frame))], "label": np.asarray(label, np.int8)})
    return View(rows, lambda some: Batch(some["id"].tolist(), frame.iloc[some.index], some["label"].to_numpy(np.int8)))


def batch(frame: pd.DataFrame) -> Batch:
    """All rows of `frame`, of unknown label."""
    return Batch([f"r{i}" for i in range(len(frame))], frame, np.full(len(frame), -1, np.int8))


def mixed(n: int, seed: int = 0) -> pd.DataFrame:
    """Two numbers, a whole number, a switch and a text."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "a": rng.normal(size=n),
            "b": rng.normal(100, 30, n),
            "count": rng.integers(0, 5, n),
            "on": rng.random(n) < 0.5,
            "text": pd.Categorical(rng.choice(["x", "y", "z"], n), categories=["x", "y", "z"]),
        }
    )
