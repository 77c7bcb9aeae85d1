import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from pipeline.detectors.table.smote_classifier import SmoteClassifier
from pipeline.errors import DataError, NotFittedError
from pipeline.parts.columns import Columns
from tests.detectors.table.rows import batch, mixed, view


def labelled(n: int) -> tuple[pd.DataFrame, np.ndarray]:
    frame = mixed(n)
    return frame, ((frame["a"] > 0.8) & (frame["text"] != "x")).to_numpy(np.int8)


def test_equals_scikit_learn_bit_for_bit() -> None:
    frame, label = labelled(400)
    test = mixed(100, seed=1)
    detector = SmoteClassifier(rounds=30, rate=0.2, leaves=8, leaf_rows=5, l2=0.5, seed=2).fit(view(frame, label))
    encoder = Columns().fit(frame)
    reference = HistGradientBoostingClassifier(
        max_iter=30,
        learning_rate=0.2,
        max_leaf_nodes=8,
        min_samples_leaf=5,
        l2_regularization=0.5,
        early_stopping=False,
        random_state=2,
    ).fit(encoder.transform(frame), label)
    expected = reference.decision_function(encoder.transform(test)).astype(np.float32)
    np.testing.assert_array_equal(detector.score(batch(test)).sample, expected)


def test_without_a_column_to_split_the_score_is_the_log_odds() -> None:
    frame = pd.DataFrame({"a": np.ones(40)})
    detector = SmoteClassifier(rounds=1).fit(view(frame, [0] * 30 + [1] * 10))
    np.testing.assert_allclose(detector.score(batch(frame[:1])).sample, np.log(10 / 30), rtol=1e-6)


def test_rows_of_unknown_label_teach_nothing() -> None:
    frame, label = labelled(200)
    alone = SmoteClassifier(rounds=5).fit(view(frame, label))
    more = pd.concat([frame, mixed(50, seed=9).assign(a=1e6)], ignore_index=True)
    among = SmoteClassifier(rounds=5).fit(view(more, [*label, *[-1] * 50]))
    np.testing.assert_array_equal(alone.score(batch(frame)).sample, among.score(batch(frame)).sample)


def test_says_why_it_cannot_learn_or_score() -> None:
    with pytest.raises(DataError, match=r"the training part has none; give it some with split\.anomalies\.train"):
        SmoteClassifier().fit(view(mixed(5), [0] * 5))
    with pytest.raises(DataError, match="at least one normal sample"):
        SmoteClassifier().fit(view(mixed(5), [1] * 5))
    with pytest.raises(NotFittedError, match="table/smote_classifier must be fitted"):
        SmoteClassifier().score(batch(mixed(1)))
