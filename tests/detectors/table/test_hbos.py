import numpy as np
import pandas as pd
import pytest

from pipeline.detectors.table.hbos import HBOS
from pipeline.errors import DataError
from tests.detectors.table.rows import batch, mixed, view


def test_by_hand() -> None:
    # Deviation 1 and mean 0, two bins of width 1: densities 1/2 each. Half a bin outside still counts as inside.
    frame = pd.DataFrame({"a": [-1.0, -1.0, 1.0, 1.0]})
    detector = HBOS(bins=2, floor=0.5).fit(view(frame, [0] * 4))
    scores = detector.score(batch(pd.DataFrame({"a": [-1.0, 0.9, 1.4, 1.6, -9.0]}))).sample
    np.testing.assert_allclose(scores, [0, 0, 0, 1, 1], atol=1e-6)


def test_equals_a_density_by_numpy() -> None:
    train, test = mixed(300), mixed(50, seed=1)
    detector = HBOS().fit(view(train, [0] * 300))
    x, new = (detector.encoder_.transform(frame).astype(np.float64) for frame in (train, test))
    new = new.clip(x.min(axis=0), x.max(axis=0))
    expected = np.zeros(len(new))
    for known, values in zip(x.T, new.T, strict=True):
        density, edges = np.histogram(known, 10, density=True)
        expected -= np.log2(density[np.clip(np.searchsorted(edges, values, side="right") - 1, 0, 9)] + 0.1)
    inside = detector.histograms_.of(new.astype(np.float32))
    np.testing.assert_allclose(-np.log2(inside + 0.1).sum(axis=1), expected, rtol=1e-5)


def test_parts_add_up_and_a_constant_column_that_changes_is_odd() -> None:
    frame = mixed(100).assign(same=3.0)
    detector = HBOS().fit(view(frame, [0] * 100))
    new = batch(frame.iloc[:2].assign(same=[3.0, 5.0]))
    parts, scores = detector.explain(new), detector.score(new).sample
    np.testing.assert_allclose(parts.sum(axis=1), scores, rtol=1e-5)
    assert parts.iloc[1].idxmax() == "same"
    assert parts["same"].iloc[1] > parts["same"].iloc[0]


def test_refuses_a_state_of_other_columns() -> None:
    state = HBOS().fit(view(mixed(50), [0] * 50)).state()
    state.arrays["density"] = state.arrays["density"][:3]
    with pytest.raises(DataError, match=r"densities must be \(7, bins\), got \(3, 10\)"):
        HBOS().from_state(state)
