import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.detectors.table import autoencoder
from pipeline.detectors.table.autoencoder import Autoencoder
from pipeline.errors import DataError, NotFittedError
from pipeline.parts.columns import Columns
from pipeline.protocols import Batch, State
from pipeline.samples import View
from pipeline.wrappers.per_category import PerCategory
from tests.detectors.table.rows import batch, mixed, view

QUICK = {"steps": 300, "rate": 0.01, "batch": 32}


def line(n: int, slope: float, seed: int = 0) -> pd.DataFrame:
    """Two columns that hang together."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return pd.DataFrame({"a": a, "b": slope * a + rng.normal(0, 0.05, n)})


def test_error_by_hand() -> None:
    """Of (2, -1): active max(0, 2 - 1 + 0.5) = 1.5 and 0, back (1.5 + 0.25, -1.5); of (0, 0): 0.5, so (0.75, -0.5)."""
    frame = pd.DataFrame({"a": [-1.0, 1.0], "b": [-1.0, 1.0]})  # encoded as they are
    arrays = {
        "encode": np.array([[1, -1], [1, 0]], np.float32),
        "bias": np.array([0.5, 0], np.float32),
        "decode": np.array([[1, -1], [5, 5]], np.float32),
        "shift": np.array([0.25, 0], np.float32),
    }
    detector = Autoencoder(width=1).from_state(State(arrays, {"columns": Columns().fit(frame).meta()}))
    rows = batch(pd.DataFrame({"a": [2.0, 0.0], "b": [-1.0, 0.0]}))
    np.testing.assert_allclose(detector.explain(rows), [[0.125, 0.25], [0.375, 0.25]], rtol=1e-6)
    np.testing.assert_allclose(detector.score(rows).sample, [0.375, 0.625], rtol=1e-6)


def test_loss_by_hand() -> None:
    weights = [torch.tensor(w) for w in ([[1.0, -1.0], [1.0, 0.0]], [0.5, 0.0], [[1.0, -1.0], [5.0, 5.0]], [0.25, 0.0])]
    rows = torch.tensor([[2.0, -1.0], [0.0, 0.0]])
    expected = (0.375 + 0.625) / 2 + 0.1 * (1.5 + 0.5) / (2 * 2)
    assert Autoencoder(sparsity=0.1)._loss(rows, weights).item() == pytest.approx(expected)


@pytest.mark.parametrize(("options", "units"), [({}, 20), ({"units": 7}, 7), ({"width": 0.1}, 1)])
def test_hidden_units_are_ten_per_column_at_most_so_many(options: dict[str, float], units: int) -> None:
    arrays = Autoencoder(steps=1, **options).fit(view(line(9, 1), [0] * 9)).state().arrays
    assert arrays["encode"].shape == (2, units)
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}


def test_a_row_that_breaks_what_hangs_together_is_odd() -> None:
    train = line(200, 1)
    detector = Autoencoder(**QUICK).fit(view(train, [0] * 200))
    rows = pd.concat([line(50, 1, seed=1), pd.DataFrame({"a": [8.0], "b": [-8.0]})])
    scores = detector.score(batch(rows)).sample
    assert scores[-1] > 3 * scores[:-1].max()
    history = detector.history_
    assert [told["step"] for told in history] == [50, 100, 150, 200, 250, 300]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]


def test_more_sparsity_leaves_less_active() -> None:
    train, x = line(200, 1), line(200, 1).to_numpy()
    totals = []
    for sparsity in (0.0, 0.3):
        detector = Autoencoder(**QUICK, sparsity=sparsity).fit(view(train, [0] * 200))
        scaled = (x - x.mean(axis=0)) / x.std(axis=0)
        totals.append(np.maximum(scaled @ detector.encode_ + detector.bias_, 0).sum())
    assert totals[1] < 0.5 * totals[0]


def test_learns_from_normals_only() -> None:
    train = pd.concat([line(60, 1), line(60, -1)], ignore_index=True)
    detector = Autoencoder(**QUICK).fit(view(train, [0] * 60 + [1] * 30 + [-1] * 30))
    alone = Autoencoder(**QUICK).fit(view(train[:60], [0] * 60))
    np.testing.assert_array_equal(detector.score(batch(train)).sample, alone.score(batch(train)).sample)


def test_columns_add_up_to_the_score() -> None:
    detector = Autoencoder(**QUICK).fit(view(mixed(100), [0] * 100))
    rows = batch(mixed(30, seed=1))
    parts = detector.explain(rows)
    assert parts.shape == (30, 5)
    assert set(parts.dtypes) == {np.dtype("float32")}
    np.testing.assert_allclose(parts.sum(axis=1), detector.score(rows).sample, rtol=1e-5)


def test_seeds_repeat_and_differ_and_leave_torch_s_generator_alone() -> None:
    train, before = view(line(50, 1), [0] * 50), torch.get_rng_state()
    scores = [Autoencoder(steps=30, seed=s).fit(train).score(batch(line(50, 1))).sample for s in (1, 1, 2)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n", [1, 40])
def test_one_row_and_constant_columns(n: int) -> None:
    train = pd.DataFrame({"a": np.arange(float(n)), "still": 3.0})
    detector = Autoencoder(**QUICK).fit(view(train, [0] * n))
    scores = detector.score(batch(pd.concat([train, pd.DataFrame({"a": [0.0], "still": [9.0]})]))).sample
    assert scores[-1] > 3 * scores[:-1].max()


def test_does_not_care_about_blocks_or_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Autoencoder(steps=30).fit(view(line(20, 1), [0] * 20))
    rows = pd.concat([line(9, 1), pd.DataFrame({"a": [1e38], "b": [-1e38]})])
    whole = detector.score(batch(rows)).sample
    assert np.isfinite(whole).all()
    monkeypatch.setattr(autoencoder, "BLOCK", 1)
    np.testing.assert_allclose(detector.score(batch(rows)).sample, whole, rtol=1e-6)
    assert detector.score(batch(rows[:0])).sample.shape == (0,)


def test_machines_of_different_laws_have_a_model_each() -> None:
    """What is normal for one machine is not for the other; one model for both takes either for normal."""
    frame = pd.concat([line(100, 1), line(100, -1, seed=1)], ignore_index=True)
    names = np.array(["up"] * 100 + ["down"] * 100)

    def machines(some: pd.DataFrame, category: np.ndarray) -> View:
        rows = pd.DataFrame({"id": [f"r{i}" for i in range(len(some))], "label": 0, "category": category})

        def read(part: pd.DataFrame) -> Batch:
            label = part["label"].to_numpy(np.int8)
            return Batch(part["id"].tolist(), some.iloc[part.index], label, category=part["category"].tolist())

        return View(rows, read)

    detector = PerCategory().around(Autoencoder(**QUICK)).fit(machines(frame, names))
    test = pd.DataFrame({"a": [2.0, 2.0], "b": [2.0, 2.0]}, index=[0, 1])
    (rows,) = machines(test, np.array(["up", "down"])).batches(2)
    up, down = detector.score(rows).sample
    assert down > 5 * up
    both = Autoencoder(**QUICK).fit(machines(frame, names)).score(rows).sample
    assert both[0] == both[1] < down / 2
    np.testing.assert_allclose(detector.explain(rows).sum(axis=1), [up, down], rtol=1e-5)
    (stranger,) = machines(test[:1], np.array(["sideways"])).batches(1)
    for ask in (detector.score, detector.explain):
        with pytest.raises(DataError, match="sample r0 must be one of training, down, up, got 'sideways'"):
            ask(stranger)


def test_says_why_it_cannot_learn_or_score() -> None:
    frame = line(9, 1)
    with pytest.raises(DataError, match="needs at least one normal sample"):
        Autoencoder().fit(view(frame, [1] * 9))
    with pytest.raises(NotFittedError, match="table/autoencoder must be fitted"):
        Autoencoder().explain(batch(frame))
    state = Autoencoder(steps=1).fit(view(frame, [0] * 9)).state()
    with pytest.raises(DataError, match=r"decode must be \(20, 2\), got \(20, 1\)"):
        Autoencoder().from_state(State({**state.arrays, "decode": state.arrays["decode"][:, :1]}, state.meta))
