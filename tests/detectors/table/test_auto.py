import numpy as np
import pandas as pd
import pytest

from pipeline.detectors.table.auto import Auto
from pipeline.errors import DataError
from pipeline.metrics import auroc as whole_auroc
from pipeline.parts.portfolio import MEMBERS, Portfolio
from pipeline.parts.supervised import Learners, auroc
from tests.detectors.table.rows import batch, mixed, view


def blobs(n: int, seed: int = 0) -> pd.DataFrame:
    """Three numbers; the last tenth of the rows is shifted in one that varies much less than the others."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(n, 3)) * [5, 5, 1], columns=["a", "b", "c"])
    frame.loc[frame.index[-n // 10 :], "c"] += 3
    return frame


def plain(n: int, seed: int = 0) -> pd.DataFrame:
    """Three numbers that four detectors see alike."""
    return pd.DataFrame(np.random.default_rng(seed).normal(size=(n, 3)), columns=["a", "b", "c"])


def test_without_labels_the_tails_of_four_are_added_up() -> None:
    frame = plain(300)
    detector = Auto().fit(view(frame, [0] * 300))
    portfolio, x = detector.portfolio_, detector.encoder_.transform(plain(40, seed=1))
    assert portfolio.kept_.all()
    expected = np.zeros(40)
    for known, scores in zip(portfolio.known_, portfolio.scores(x), strict=True):
        expected -= np.log([(np.sum(known >= score) + 1) / 301 for score in scores])
    np.testing.assert_allclose(detector.score(batch(plain(40, seed=1))).sample, expected, rtol=1e-5)
    assert detector.chosen_ == "unsupervised"
    assert set(detector.history_[0]) == {f"{what}.{name}" for what in ("stability", "agreement") for name in MEMBERS}


def test_a_member_that_contradicts_the_others_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = Portfolio._scores

    def turned(self: Portfolio, x: np.ndarray, own: bool) -> np.ndarray:
        return scores(self, x, own) * np.float32([[1], [1], [1], [-1]])

    monkeypatch.setattr(Portfolio, "_scores", turned)
    detector = Auto().fit(view(plain(300), [0] * 300))
    assert detector.portfolio_.kept_.tolist() == [True, True, True, False]
    assert detector.history_[0]["agreement.gaussian"] < 0 < detector.history_[0]["agreement.forest"]


@pytest.mark.parametrize("labelled", [2, 20])
def test_labels_help_where_anomalies_are_not_the_rarest_rows(labelled: int) -> None:
    train, test = blobs(400), blobs(400, seed=1)
    known = np.full(400, -1)
    known[-labelled:] = 1
    truth = np.repeat([0, 1], [360, 40])
    alone = Auto().fit(view(train, [-1] * 400))
    taught = Auto().fit(view(train, known))
    found = [whole_auroc(truth, one.score(batch(test)).sample) for one in (alone, taught)]
    assert found[1] > found[0] + 0.05
    assert taught.chosen_ in ("labels", "both")
    assert ("held_out_auroc.both" in taught.history_[0]) == (labelled >= 5)


def test_labels_of_what_no_line_separates_are_not_all_that_is_chosen() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(400, 3)), columns=["a", "b", "c"])
    frame.iloc[-10:] *= 6  # far out in any direction: the four find these, and no line separates them
    known = np.array([-1] * 390 + [1] * 10)
    detector = Auto().fit(view(frame, known))
    judged = {name: detector.history_[0][f"held_out_auroc.{name}"] for name in ("unsupervised", "labels", "both")}
    assert judged["labels"] < judged["unsupervised"]
    assert detector.chosen_ != "labels"


def test_learners_separate_and_the_area_is_that_of_metrics() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)).astype(np.float32)
    label = (x[:, 0] > 1).astype(int)
    tails = -np.log(rng.random((4, 200)))
    scores = Learners().fit(x, tails, label, 0).score(x, tails)
    for one in scores.T:
        assert auroc(label, one) > 0.95
        assert auroc(label, one.round(1)) == pytest.approx(
            whole_auroc(label, one.round(1).astype(np.float32)), abs=1e-6
        )


def test_draws_rows_by_seed_and_explains() -> None:
    frame = mixed(400)
    detector = Auto(rows=100).fit(view(frame, [0] * 400))
    assert detector.portfolio_.known_.shape == (4, 100)
    found = detector.explain(batch(frame.iloc[:2].assign(b=[100.0, 900.0])))
    assert found.iloc[1].idxmax() == "b"


def test_needs_two_normals_and_a_sound_state() -> None:
    with pytest.raises(DataError, match="table/auto needs at least 2 normal rows, got 1"):
        Auto().fit(view(mixed(1), [0]))
    state = Auto().fit(view(mixed(50), [0] * 50)).state()
    state.arrays["portfolio/mean"] = state.arrays["portfolio/mean"][:3]
    with pytest.raises(DataError, match=r"bank, mean and precision must be of 7 columns"):
        Auto().from_state(state)
