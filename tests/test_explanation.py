import json

import numpy as np
import pandas as pd

from pipeline.explanation import because
from pipeline.protocols import Batch
from tests.detectors.table.rows import view


class Told:
    """Says that each column adds its own value, missing ones 0."""

    def explain(self, batch: Batch) -> pd.DataFrame:
        return batch.x.apply(pd.to_numeric, errors="coerce").fillna(0).astype(np.float32)


def test_names_at_most_five_columns_of_alarms_that_added_something() -> None:
    frame = pd.DataFrame([[1.0, 7.0, 3.0, 2.0, 6.0, 5.0], [-1.0, 0.0, 2.5, np.nan, 0.0, -3.0]], columns=list("äbcdef"))
    frame = pd.concat([frame] * 2, ignore_index=True)
    texts = because(Told(), view(frame, [0] * 4), np.array([True, False, False, True]))
    assert texts is not None
    assert texts[1:3] == ["", ""]
    assert [(part["column"], part["value"], part["adds"]) for part in json.loads(texts[0])] == [
        *(("b", "7", 7.0), ("e", "6", 6.0), ("f", "5", 5.0), ("c", "3", 3.0), ("d", "2", 2.0))
    ]
    assert json.loads(texts[3]) == [{"column": "c", "value": "2.5", "adds": 2.5}]


def test_texts_and_missing_values_are_shown_as_such() -> None:
    class Both:
        def explain(self, batch: Batch) -> pd.DataFrame:
            return pd.DataFrame({"n": [1.0], "text": [2.0]}, index=batch.ids)

    frame = pd.DataFrame({"n": [np.nan], "text": ["größer"]})
    (text,) = because(Both(), view(frame, [0]), np.array([True])) or []
    assert "größer" in text
    assert [part["value"] for part in json.loads(text)] == ["größer", "(missing)"]


def test_a_detector_that_cannot_tell_says_nothing() -> None:
    assert because(object(), view(pd.DataFrame({"a": [1.0]}), [0]), np.array([True])) is None
