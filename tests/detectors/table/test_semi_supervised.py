import math

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.detectors.table import semi_supervised
from pipeline.detectors.table.semi_supervised import SemiSupervised
from pipeline.errors import DataError, NotFittedError, ParamsError
from pipeline.parts.columns import Columns
from pipeline.protocols import State
from pipeline.sections import build
from tests.detectors.table.rows import batch, mixed, view

QUICK = {"steps": 60, "rate": 0.02, "batch": 32}


def labelled(n: int = 200, few: int = 5, label: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of which the last few have a low `a` and are labelled so; all others have `label`."""
    frame, labels = mixed(n), np.full(n, label)
    frame.loc[n - few :, "a"] = -4.0
    labels[-few:] = 1
    return frame, labels


def test_deviation_loss_by_hand() -> None:
    out, target = torch.tensor([[7.0, 5.0, 2.0, -1.0, 0.5, -2.0]]), torch.tensor([[1.0, 1, 1, 1, 0, 0]])
    assert SemiSupervised()._loss(out, target).item() == pytest.approx((0 + 0 + 3 + 6 + 0.5 + 2) / 6)
    assert SemiSupervised(margin=2)._loss(out, target).item() == pytest.approx((0 + 0 + 0 + 3 + 0.5 + 2) / 6)


def test_focal_loss_by_hand() -> None:
    out, target = torch.tensor([[math.log(3), -math.log(3)]]), torch.tensor([[1.0, 1.0]])  # p = 3/4 and 1/4
    expected = -(0.25**2 * math.log(0.75) + 0.75**2 * math.log(0.25)) / 2
    assert SemiSupervised(loss="focal")._loss(out, target).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["deviation", "focal"])
def test_score_is_the_mean_of_the_networks_in_deviations_of_the_prior(loss: str) -> None:
    """One step of hardly any length leaves the first weights, which the same draws give again."""
    frame, labels = labelled()
    detector = SemiSupervised(loss=loss, networks=3, hidden=4, steps=1, rate=1e-12, seed=7).fit(view(frame, labels))
    draw = torch.Generator().manual_seed(7)
    encoder = Columns().fit(frame)
    first, _, last, _ = (w.detach().numpy() for w in detector._first(len(encoder.features_), draw, "cpu"))
    prior = torch.randn(5000, generator=draw).numpy().astype(np.float64)
    mean, deviation = (prior.mean(), prior.std(ddof=1)) if loss == "deviation" else (0.0, 1.0)
    x = np.minimum(np.maximum(encoder.transform(frame), -5), 5)
    outputs = [np.maximum(x @ a, 0) @ b[:, 0] for a, b in zip(first, last, strict=True)]
    expected = (np.mean(outputs, axis=0) - mean) / deviation
    np.testing.assert_allclose(detector.score(batch(frame)).sample, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mix", [0.0, 0.25])
def test_batches_are_balanced_and_mixed_anomalies_stay_near_the_real_one(
    mix: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    network = semi_supervised._network

    def watched(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return network(x, *weights)

    monkeypatch.setattr(semi_supervised, "_network", watched)
    frame = pd.DataFrame({"a": [0.0] * 3 + [1.0]})  # encoded: -1 / sqrt(3) and sqrt(3)
    SemiSupervised(mix=mix, batch=101, networks=2, steps=3).fit(view(frame, [0, -1, 0, 1]))
    x = torch.stack(seen).cpu().numpy()
    assert x.shape == (3, 2, 101, 1)
    low, high = -1 / np.sqrt(3), np.sqrt(3)
    np.testing.assert_allclose(x[:, :, 50:], low, rtol=1e-6)
    taken = (high - x[:, :, :50]) / (high - low)
    assert taken.min() >= -1e-6
    assert mix * 0.9 <= taken.max() + 1e-6 <= mix + 2e-6


def test_tells_normals_zero_and_anomalies_the_margin() -> None:
    frame, labels = labelled()
    scores = SemiSupervised(**QUICK).fit(view(frame, labels)).score(batch(frame)).sample
    assert abs(np.median(scores[:-5])) < 0.5
    assert scores[-5:].min() > 5
    assert scores[-5:].min() > scores[:-5].max()


def test_unlabelled_rows_stand_for_normal_beside_labelled_ones() -> None:
    frame, labels = labelled(label=-1)
    alone = SemiSupervised(**QUICK).fit(view(frame, labels)).score(batch(frame)).sample
    some = labels.copy()
    some[:50] = 0
    np.testing.assert_array_equal(SemiSupervised(**QUICK).fit(view(frame, some)).score(batch(frame)).sample, alone)
    assert alone[-5:].min() > alone[:-5].max()


def test_seeds_repeat_and_differ_and_leave_torch_s_generator_alone() -> None:
    frame, labels = labelled()
    before = torch.get_rng_state()
    scores = [SemiSupervised(**QUICK, seed=s).fit(view(frame, labels)).score(batch(frame)).sample for s in (1, 1, 2)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_history_tells_the_mean_loss_of_every_50_steps() -> None:
    frame, labels = labelled()
    history = SemiSupervised(steps=120, rate=0.02).fit(view(frame, labels)).history_
    assert [told["step"] for told in history] == [50, 100, 120]
    assert history[0]["loss"] > 2 * history[-1]["loss"] > 0


def test_explains_by_the_column_that_makes_an_anomaly() -> None:
    frame, labels = labelled()
    detector = SemiSupervised(**QUICK).fit(view(frame, labels))
    adds = detector.explain(batch(frame[-5:]))
    assert list(adds.columns) == list(frame.columns)
    assert (adds.to_numpy().argmax(axis=1) == 0).all()
    without = frame[-5:].assign(a=frame["a"].median())
    lower = detector.score(batch(frame[-5:])).sample - detector.score(batch(without)).sample
    np.testing.assert_allclose(adds["a"], lower, rtol=1e-4, atol=1e-5)


def test_does_not_care_about_blocks_constant_columns_or_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, labels = labelled(60)
    still = frame.assign(still=3.0)
    detector = SemiSupervised(**QUICK).fit(view(still, labels))
    rows = pd.concat([still, still[:1].assign(a=1e30)])
    whole = detector.score(batch(rows)).sample
    assert np.isfinite(whole).all()
    monkeypatch.setattr(semi_supervised, "ROWS", 7)
    np.testing.assert_allclose(detector.score(batch(rows)).sample, whole, rtol=1e-4, atol=1e-5)
    assert detector.score(batch(rows[:0])).sample.shape == (0,)


def test_learns_from_one_row_of_each() -> None:
    frame = pd.DataFrame({"a": [0.0, 1.0]})
    scores = SemiSupervised(**QUICK).fit(view(frame, [-1, 1])).score(batch(frame)).sample
    assert scores[1] > scores[0] + 2


def test_says_why_it_cannot_learn_or_score() -> None:
    frame, labels = labelled(20)
    with pytest.raises(DataError, match="table/semi_supervised learns from labelled anomalies and the training part"):
        SemiSupervised().fit(view(frame, np.zeros(20)))
    with pytest.raises(DataError, match="needs at least one normal sample"):
        SemiSupervised().fit(view(frame, np.ones(20)))
    with pytest.raises(NotFittedError, match="table/semi_supervised must be fitted"):
        SemiSupervised().explain(batch(frame))
    state = SemiSupervised(steps=1).fit(view(frame, labels)).state()
    assert {array.dtype for array in state.arrays.values()} == {np.dtype("float32")}
    with pytest.raises(DataError, match=r"last must be \(160,\), got \(159,\)"):
        SemiSupervised().from_state(State({**state.arrays, "last": state.arrays["last"][:-1]}, state.meta))
    with pytest.raises(ParamsError, match=r"mix .*less than 1, got 1"):
        build(SemiSupervised, {"mix": 1.0}, "candidates.a")
