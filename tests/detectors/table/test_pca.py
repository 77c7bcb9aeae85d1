import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA as Reference
from sklearn.preprocessing import StandardScaler

from pipeline.detectors.table import pca
from pipeline.detectors.table.pca import PCA
from pipeline.errors import DataError, NotFittedError
from pipeline.protocols import State
from tests.detectors.table.rows import batch, mixed, view

# Variance 2.5 and covariance 1.5: correlation 0.6, variances 1.6 along (1, 1) and 0.4 across.
CROSS = pd.DataFrame({"a": [2.0, -2.0, 1.0, -1.0], "b": [2.0, -2.0, -1.0, 1.0]})
UNIT = np.sqrt(2.5)


def test_hyperplanes_by_hand() -> None:
    detector = PCA(distance="hyperplanes").fit(view(CROSS, [0] * 4))
    rows = pd.DataFrame({"a": [0.0, UNIT, UNIT, 3 * UNIT], "b": [0.0, UNIT, -UNIT, 0.0]})
    # y = (z1 + z2, z1 - z2) / sqrt(2): squares of 2, 2 and of 9/2 in both
    expected = [0, 2 / 1.6, 2 / 0.4, 4.5 / 1.6 + 4.5 / 0.4]
    np.testing.assert_allclose(detector.score(batch(rows)).sample, expected, rtol=1e-6, atol=1e-12)


def test_eigenvectors_by_hand() -> None:
    detector = PCA().fit(view(CROSS, [0] * 4))
    rows = pd.DataFrame({"a": [0.0, UNIT, -UNIT], "b": [0.0, UNIT, -UNIT]})
    # z = s (1, 1) is |sqrt(2) s - 1| from (1, 1) / sqrt(2), and sqrt(2 s^2 + 1) from the other, of shares 0.8 and 0.2
    root = np.sqrt(2)
    expected = [1 / 0.8 + 1 / 0.2, (root - 1) / 0.8 + np.sqrt(3) / 0.2, (root + 1) / 0.8 + np.sqrt(3) / 0.2]
    np.testing.assert_allclose(detector.score(batch(rows)).sample, expected, rtol=1e-6)


@pytest.mark.parametrize(("n", "k"), [(200, 6), (20, 40)])
def test_equals_scikit_learns_components(n: int, k: int) -> None:
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(n + 10, k)) @ rng.normal(size=(k, k))).add_prefix("x")
    train, test = x[:n], x[n:]
    scaler = StandardScaler().fit(train)
    reference = Reference(svd_solver="full").fit(scaler.transform(train))
    real = reference.explained_variance_ratio_ > 1e-10
    assert real.sum() == min(n - 1, k)
    share, vectors, z = reference.explained_variance_ratio_[real], reference.components_[real], scaler.transform(test)
    scores = {
        d: PCA(distance=d).fit(view(train, [0] * n)).score(batch(test)).sample for d in ("eigenvectors", "hyperplanes")
    }
    np.testing.assert_allclose(scores["eigenvectors"], (cdist(z, vectors) / share).sum(axis=1), rtol=1e-4)
    variance = reference.explained_variance_[real] * (n - 1) / n
    np.testing.assert_allclose(scores["hyperplanes"], ((z @ vectors.T) ** 2 / variance).sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize(
    ("components", "minor", "kept"),
    [(1.0, 0.0, [0, 1, 2]), (0.6, 0.0, [0]), (0.65, 0.0, [0, 1]), (0.5, 0.2, [0, 2]), (1e-9, 0.0, [0])],
)
def test_keeps_major_and_minor_components(components: float, minor: float, kept: list[int]) -> None:
    """Of correlation 0.9 between a and b, none with c: variances 1.9, 1, 0.1, that is 0.633, 0.333, 0.033 of all."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    a, b = signs[:, 0], 0.9 * signs[:, 0] + np.sqrt(1 - 0.81) * signs[:, 1]
    frame = pd.DataFrame({"a": a, "b": b, "c": signs[:, 2]})
    detector = PCA(components=components, minor=minor).fit(view(frame, [0] * 8))
    np.testing.assert_allclose(detector.variance_, np.array([1.9, 1.0, 0.1])[kept], rtol=1e-5)
    np.testing.assert_allclose(detector.share_, np.array([1.9, 1.0, 0.1])[kept] / 3, rtol=1e-5)


@pytest.mark.parametrize("distance", ["eigenvectors", "hyperplanes"])
def test_columns_add_up_to_the_score(distance: str) -> None:
    detector = PCA(distance=distance).fit(view(mixed(200), [0] * 200))
    rows = batch(mixed(30, seed=1))
    parts = detector.explain(rows)
    assert parts.shape == (30, 5)
    assert set(parts.dtypes) == {np.dtype("float32")}
    np.testing.assert_allclose(parts.sum(axis=1), detector.score(rows).sample, rtol=1e-4)


def test_columns_that_do_not_vary_or_repeat_another_change_nothing() -> None:
    frame = mixed(100)[["a", "b", "count"]]
    plain = PCA(distance="hyperplanes").fit(view(frame, [0] * 100)).score(batch(frame)).sample
    wider = frame.assign(still=0.1, again=frame["a"])
    scores = PCA(distance="hyperplanes").fit(view(wider, [0] * 100)).score(batch(wider)).sample
    np.testing.assert_allclose(scores, plain, rtol=1e-4)


def test_does_not_care_about_blocks_or_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = PCA(distance="hyperplanes").fit(view(CROSS, [0] * 4))
    rows = pd.DataFrame({"a": [1.0, 2.0, 1e30], "b": [2.0, 0.0, 0.0]})
    whole = detector.score(batch(rows)).sample
    assert whole[2] == np.finfo(np.float32).max
    monkeypatch.setattr(pca, "BLOCK", 1)
    np.testing.assert_array_equal(detector.score(batch(rows)).sample, whole)
    assert detector.score(batch(rows[:0])).sample.shape == (0,)


def test_says_why_it_cannot_learn_or_score() -> None:
    with pytest.raises(DataError, match=r"differ in at least one column, got 3 of them that do not$"):
        PCA().fit(view(pd.DataFrame({"a": [0.1, 0.1, 0.1]}), [0] * 3))
    with pytest.raises(NotFittedError, match="table/pca must be fitted"):
        PCA().explain(batch(CROSS))
    state = PCA().fit(view(CROSS, [0] * 4)).state()
    with pytest.raises(DataError, match=r"vectors must be \(2, 2\), got \(2, 1\)"):
        PCA().from_state(State({**state.arrays, "vectors": state.arrays["vectors"][:, :1]}, state.meta))
