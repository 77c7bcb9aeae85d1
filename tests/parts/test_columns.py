import json
import re

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError, NotFittedError
from pipeline.parts.columns import MOST_TEXTS, Columns

TRAIN = pd.DataFrame(
    {
        "n": [1.0, np.nan, 3.0, 8.0],  # median 3: filled 1 3 3 8, mean 3.75, deviation sqrt(6.6875)
        "flat": [5, 5, 5, 5],
        "on": [True, False, True, True],
        "text": ["red", "blue", None, "red"],
    }
)


def test_by_hand() -> None:
    encoder = Columns().fit(TRAIN)
    assert encoder.features_ == ["n", "flat", "on", "text=blue", "text=red"]
    deviation = np.sqrt(6.6875)
    expected = np.array(
        [
            [-2.75 / deviation, 0, 1, 0, 1],
            [-0.75 / deviation, 0, 0, 1, 0],
            [-0.75 / deviation, 0, 1, 0, 0],
            [4.25 / deviation, 0, 1, 0, 1],
        ]
    )
    found = encoder.transform(TRAIN)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unseen_texts_are_all_zeros_and_columns_may_come_in_any_order() -> None:
    encoder = Columns().fit(TRAIN)
    row = pd.DataFrame({"text": ["green"], "on": [False], "n": [3.75], "flat": [6]})
    np.testing.assert_array_equal(encoder.transform(row), np.float32([[0, 1, 0, 0, 0]]))


def test_whole_numbers_in_one_batch_of_a_text_column_are_texts() -> None:
    encoder = Columns().fit(pd.DataFrame({"code": ["7", "A", "B"]}))
    np.testing.assert_array_equal(encoder.transform(pd.DataFrame({"code": [7, 8]})), np.float32([[1, 0, 0], [0, 0, 0]]))


def test_a_column_that_is_all_missing_in_one_batch_is_filled() -> None:
    row = TRAIN[:1].assign(n=np.nan, text=np.nan, on=None)
    np.testing.assert_allclose(Columns().fit(TRAIN).transform(row), [[-0.75 / np.sqrt(6.6875), 0, 1, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns="n"), "column 'n' is missing; the model was trained on n, flat, on, text"),
        (lambda f: f.assign(more=1), "column 'more' is unknown; the model was trained on n, flat, on, text"),
        (lambda f: f.assign(n="three"), "column 'n' must hold numbers as in training, got texts"),
        (lambda f: f.assign(on=7), "column 'on' must hold booleans as in training, got numbers"),
        (lambda f: f.assign(text=0.5), "column 'text' must hold texts as in training, got numbers"),
        (lambda f: f.assign(n=[1, 2, -np.inf, 4]), "column 'n' must hold finite numbers, got -inf in row 3"),
        (lambda f: f.assign(n=1e300), "column 'n' holds a number too far from training to compute with"),
        (lambda f: f.assign(n=pd.Timestamp("2024-01-01")), "column 'n' must hold numbers as in training, got times"),
        (lambda f: f.set_axis(["n", "n", "on", "text"], axis=1), "column names must be unique, got 'n' 2 times"),
    ],
)
def test_drift_is_named(change: object, says: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        Columns().fit(TRAIN).transform(change(TRAIN))


def test_fit_refuses_what_it_cannot_learn() -> None:
    with pytest.raises(DataError, match="at least one row and one column"):
        Columns().fit(TRAIN[:0])
    with pytest.raises(DataError, match="column 'n' must hold finite numbers, got inf in row 1"):
        Columns().fit(TRAIN.assign(n=np.inf))
    names = pd.DataFrame({"name": [f"item {i}" for i in range(MOST_TEXTS + 1)]})
    with pytest.raises(DataError, match=r"column 'name' must hold at most 1000 different texts .* dataset\.drop"):
        Columns().fit(names)
    with pytest.raises(NotFittedError):
        Columns().transform(TRAIN)


def test_state_is_json_and_gives_the_same_bits() -> None:
    encoder = Columns().fit(TRAIN)
    again = Columns().from_meta(json.loads(json.dumps(encoder.meta())))
    np.testing.assert_array_equal(again.transform(TRAIN), encoder.transform(TRAIN))


def test_large_numbers_do_not_overflow() -> None:
    frame = pd.DataFrame({"n": [-1e308, 1e308]})
    np.testing.assert_array_equal(Columns().fit(frame).transform(frame), np.float32([[-1], [1]]))
