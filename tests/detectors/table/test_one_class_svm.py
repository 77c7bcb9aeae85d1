import numpy as np
import pandas as pd
import pytest
from sklearn.svm import OneClassSVM as Reference

from pipeline.detectors.table import one_class_svm
from pipeline.detectors.table.one_class_svm import OneClassSVM
from pipeline.errors import DataError, NotFittedError
from pipeline.protocols import State
from tests.detectors.table.rows import batch, mixed, view


def test_one_row_in_closed_form() -> None:
    """One feature of 1: nu w^2 / 2 - nu rho with rho = w is least at w = 1, so that a row scores 1 - exp(-gamma d^2).

    A column that does not vary has deviation 1."""
    detector = OneClassSVM(gamma=0.5).fit(view(pd.DataFrame({"a": [3.0]}), [0]))
    scores = detector.score(batch(pd.DataFrame({"a": [3.0, 4.0, 1.0, 99.0]}))).sample
    np.testing.assert_allclose(scores, 1 - np.exp([0, -0.5, -2, -4608]), atol=3e-3)


@pytest.mark.parametrize("nu", [0.5, 0.1])
def test_equals_the_exact_machine_when_every_row_is_a_landmark(nu: float) -> None:
    train, test = mixed(100), mixed(60, seed=1)
    detector = OneClassSVM(nu=nu).fit(view(train, [0] * 100))
    x, y = (detector.encoder_.transform(frame).astype(np.float64) for frame in (train, test))
    reference = Reference(nu=nu, gamma="scale", tol=1e-8).fit(x)
    assert detector.gamma_ == pytest.approx(1 / (x.shape[1] * x.var()), rel=1e-12)
    expected = -reference.decision_function(y) / (nu * 100)  # libsvm scales w and rho by nu n
    np.testing.assert_allclose(detector.score(batch(test)).sample, expected, atol=2e-3 * np.ptp(expected))


def test_few_landmarks_come_close() -> None:
    train, test = mixed(120), mixed(100, seed=1)
    exact, close, one = (
        OneClassSVM(components=m).fit(view(train, [0] * 120)).score(batch(test)).sample for m in (120, 40, 1)
    )
    assert np.corrcoef(exact, close)[0, 1] > 0.98
    assert np.corrcoef(exact, one)[0, 1] < 0.9


@pytest.mark.parametrize("nu", [0.2, 0.6])
def test_nu_bounds_the_share_outside(nu: float) -> None:
    """Schölkopf et al., proposition 3: asymptotically the share of outliers is nu."""
    train = pd.DataFrame(np.random.default_rng(0).normal(size=(500, 2)), columns=["a", "b"])
    outside = (OneClassSVM(nu=nu, components=50).fit(view(train, [0] * 500)).score(batch(train)).sample > 0).mean()
    assert outside == pytest.approx(nu, abs=0.02)


def test_keeps_landmarks_drawn_by_seed() -> None:
    first, again, other = (OneClassSVM(components=9, seed=s).fit(view(mixed(50), [0] * 50)) for s in (0, 0, 1))
    assert first.landmarks_.shape == (9, 7)
    np.testing.assert_array_equal(first.weights_, again.weights_)
    assert not np.array_equal(first.landmarks_, other.landmarks_)
    fewer = OneClassSVM(rows=10, components=20).fit(view(mixed(50), [0] * 50))
    assert len(fewer.landmarks_) == 10


def test_rows_that_repeat_do_not_spoil_the_features() -> None:
    frame = pd.DataFrame({"a": [0.0] * 30 + [1.0] * 10})
    detector = OneClassSVM().fit(view(frame, [0] * 40))
    assert np.abs(detector.weights_).max() < 100
    scores = detector.score(batch(pd.DataFrame({"a": [0.0, 1.0, 5.0]}))).sample
    assert scores[0] < scores[1] < scores[2]


def test_explains_by_ablation_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = OneClassSVM().fit(view(mixed(100), [0] * 100))
    rows = mixed(5, seed=1)
    rows.loc[2, "b"] = 400.0
    parts = detector.explain(batch(rows))
    assert parts.columns.tolist() == ["a", "b", "count", "on", "text"]
    assert parts.loc[2].idxmax() == "b"
    typical = detector.score(batch(rows.assign(b=detector.encoder_.typical_["b"]))).sample
    np.testing.assert_allclose(parts["b"], detector.score(batch(rows)).sample - typical, atol=1e-6)
    monkeypatch.setattr(one_class_svm, "BLOCK", 1)
    np.testing.assert_allclose(detector.explain(batch(rows)), parts, atol=1e-6)


def test_says_why_it_cannot_score() -> None:
    with pytest.raises(NotFittedError, match="table/one_class_svm must be fitted"):
        OneClassSVM().explain(batch(mixed(1)))
    state = OneClassSVM().fit(view(mixed(20), [0] * 20)).state()
    with pytest.raises(DataError, match=r"landmarks and weights must be \(m, 7\) and \(m,\), got \(20, 3\)"):
        OneClassSVM().from_state(State({**state.arrays, "landmarks": state.arrays["landmarks"][:, :3]}, state.meta))
