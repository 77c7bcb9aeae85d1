"""What charts are drawn from: promises held against a test, scores beyond an axis."""

import numpy as np
import pandas as pd
import pytest

from pipeline.reports import charts
from pipeline.reports.charts import Kept, Series
from pipeline.rules import conformal


def test_promises_against_the_test_by_hand() -> None:
    """Nine calibration normals 1 to 9: the k-th highest as threshold promises k / 10; of the test normals 0.5, 1.5, ...
    9.5 as many lie above it."""
    known = np.arange(1, 10).astype(np.float32)
    found = Kept.of(known, np.arange(10).astype(np.float32) + 0.5, None)
    assert found.promised == pytest.approx(np.arange(1, 10) / 10)
    assert found.realised == pytest.approx(np.arange(1, 10) / 10)
    assert not found.broken.any()
    assert (found.low < found.realised).all()
    assert (found.high > found.realised).all()


def test_a_promise_with_confidence_is_larger_and_a_shifted_test_breaks_it() -> None:
    known = np.random.default_rng(0).normal(size=200).astype(np.float32)
    known.sort()
    found = Kept.of(known, np.full(100, 10, np.float32), 0.9)
    assert found.promised[0] == pytest.approx(conformal.carried(200, 1, 0.9))
    assert found.broken[found.promised < 0.9].all()
    assert (found.realised == 1).all()


def test_scores_far_away_do_not_squeeze_the_rest() -> None:
    near = np.linspace(0, 1, 50).astype(np.float32)
    figure, beyond = charts.histogram(
        [Series("normal", near), Series("anomalous", np.float32([2, 1e6, 1e7]), anomalous=True)],
        {"alarm": 1.0, "review": None},
    )
    assert beyond == 2
    assert figure.axes[0].get_xlim() == (0.0, charts.BEYOND)


@pytest.mark.parametrize("scores", [[], [3.0], [0.0, 0.0], [1e30, -1e30]])
def test_odd_scores_are_drawn(scores: list[float]) -> None:
    odd = Series("odd", np.array(scores, np.float32))
    figure, beyond = charts.histogram([odd, Series("known", np.float32([1, 2]))], {"alarm": 1.5, "review": 1.5})
    figure.savefig("/dev/null", format="svg")
    assert beyond == int(np.sum(np.array(scores) > figure.axes[0].get_xlim()[1]))


def test_drift_of_one_batch_and_of_many_is_drawn() -> None:
    row = {"number": 1, "version": 1, "alarm_rate": 0.1, "alarm_low": 0.05, "alarm_high": 0.2, "allowed": 0.05}
    row |= {
        "broken": False,
        "drift": True,
        "martingale": 1.0,
        "martingale_highest": 2.0,
        "alarm_evidence": 0.0,
        "threshold": 100,
    }
    for count in (1, 40):
        history = pd.DataFrame([row | {"number": i, "version": i // 30 + 1} for i in range(count)])
        figure = charts.drift(history)
        figure.savefig("/dev/null", format="png")
        assert len(figure.axes[1].get_xticks()) <= charts.NAMED
