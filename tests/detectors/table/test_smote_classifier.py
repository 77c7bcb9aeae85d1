import math

import numpy as np
import pandas as pd
import pytest
from imblearn.under_sampling import RandomUnderSampler
from sklearn.ensemble import HistGradientBoostingClassifier

from pipeline.detectors.table.smote_classifier import SmoteClassifier
from pipeline.errors import DataError, NotFittedError, ParamsError
from pipeline.parts.columns import Columns
from pipeline.sections import build
from tests.detectors.table.rows import batch, mixed, view


def labelled(n: int) -> tuple[pd.DataFrame, np.ndarray]:
    frame = mixed(n)
    return frame, ((frame["a"] > 0.8) & (frame["text"] != "x")).to_numpy(np.int8)


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("normals_per_anomaly", [None, 0.7])
def test_equals_scikit_learn_bit_for_bit(weights: str, normals_per_anomaly: float | None) -> None:
    frame, label = labelled(400)
    test = mixed(100, seed=1)
    detector = SmoteClassifier(
        rounds=30,
        rate=0.2,
        leaves=8,
        leaf_rows=5,
        l2=0.5,
        normals_per_anomaly=normals_per_anomaly,
        weights=weights,
        seed=2,
    ).fit(view(frame, label))
    encoder = Columns().fit(frame)
    x, y = encoder.transform(frame), label
    if normals_per_anomaly:
        sampler = RandomUnderSampler(sampling_strategy={0: round(normals_per_anomaly * label.sum())}, random_state=2)
        x, y = sampler.fit_resample(x, label)
        assert (y == 1).sum() == label.sum() > (y == 0).sum()
        order = np.argsort(sampler.sample_indices_)
        x, y = x[order], y[order]
    reference = HistGradientBoostingClassifier(
        max_iter=30,
        learning_rate=0.2,
        max_leaf_nodes=8,
        min_samples_leaf=5,
        l2_regularization=0.5,
        class_weight=None if weights == "none" else "balanced",
        early_stopping=False,
        random_state=2,
    ).fit(x, y)
    expected = reference.decision_function(encoder.transform(test)).astype(np.float32)
    np.testing.assert_array_equal(detector.score(batch(test)).sample, expected)


@pytest.mark.parametrize(
    ("options", "odds"),
    [
        ({}, 10 / 30),
        ({"normals_per_anomaly": 1.5}, 10 / 15),
        ({"normals_per_anomaly": 3.0}, 10 / 30),
        ({"normals_per_anomaly": 99.0}, 10 / 30),  # there are no more
        ({"normals_per_anomaly": 0.01}, 10 / 1),  # one normal stays
        ({"weights": "balanced"}, 1),
        ({"normals_per_anomaly": 1.5, "weights": "balanced"}, 1),
    ],
)
def test_without_a_column_to_split_the_score_is_the_log_odds(options: dict, odds: float) -> None:
    frame = pd.DataFrame({"a": np.ones(40)})
    detector = SmoteClassifier(rounds=1, **options).fit(view(frame, [0] * 30 + [1] * 10))
    np.testing.assert_allclose(detector.score(batch(frame[:1])).sample, math.log(odds), rtol=1e-6, atol=1e-7)


def test_the_seed_decides_which_normals_stay() -> None:
    frame, label = labelled(200)

    def scores(**options: float) -> np.ndarray:
        return SmoteClassifier(rounds=5, **options).fit(view(frame, label)).score(batch(frame)).sample

    first, again, other = (scores(normals_per_anomaly=0.5, leaf_rows=2, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(scores(), scores(normals_per_anomaly=1e6))


def test_explains_a_score_by_what_it_is_without_a_column() -> None:
    frame, label = labelled(300)
    detector = SmoteClassifier(rounds=10).fit(view(frame.assign(same=1.0), label))
    some = batch(frame.assign(same=1.0)[:20])
    found = detector.explain(some)
    assert list(found) == ["a", "b", "count", "on", "text", "same"]
    assert found.dtypes.eq(np.float32).all()
    assert list(found.index) == list(some.x.index)
    assert (found["same"] == 0).all()
    without = batch(some.x.assign(a=frame["a"].median()))
    np.testing.assert_allclose(found["a"], detector.score(some).sample - detector.score(without).sample, atol=1e-6)
    assert found["a"].abs().mean() > 5 * found["b"].abs().mean()  # anomalies have a > 0.8, whatever b


def test_rows_of_unknown_label_teach_nothing() -> None:
    frame, label = labelled(200)
    alone = SmoteClassifier(rounds=5).fit(view(frame, label))
    more = pd.concat([frame, mixed(50, seed=9).assign(a=1e6)], ignore_index=True)
    among = SmoteClassifier(rounds=5).fit(view(more, [*label, *[-1] * 50]))
    np.testing.assert_array_equal(alone.score(batch(frame)).sample, among.score(batch(frame)).sample)


def test_unlabelled_rows_stand_for_normal_where_none_is_labelled() -> None:
    frame, label = labelled(200)
    with_labels, without = (
        SmoteClassifier(rounds=5).fit(view(frame, np.where(label == 1, 1, good))).score(batch(frame)).sample
        for good in (0, -1)
    )
    np.testing.assert_array_equal(with_labels, without)


def test_says_why_it_cannot_learn_or_score() -> None:
    with pytest.raises(DataError, match=r"the training part has none; give it some with split\.anomalies\.train"):
        SmoteClassifier().fit(view(mixed(5), [0] * 5))
    with pytest.raises(DataError, match="at least one normal sample"):
        SmoteClassifier().fit(view(mixed(5), [1] * 5))
    for method in ("score", "explain"):
        with pytest.raises(NotFittedError, match="table/smote_classifier must be fitted"):
            getattr(SmoteClassifier(), method)(batch(mixed(1)))


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("normals_per_anomaly", 0, r"candidates\.x\.normals_per_anomaly .*greater than 0.*0"),
        ("weights", "heavy", r"candidates\.x\.weights .*'none' or 'balanced'.*heavy"),
    ],
)
def test_options_out_of_range_are_named(option: str, value: object, says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        build(SmoteClassifier, {option: value}, "candidates.x")
