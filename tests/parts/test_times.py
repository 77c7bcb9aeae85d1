import json

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.parts import times
from pipeline.parts.columns import Columns

# Thursday 1 January 1970 at 0:00, Friday at 6:00, Saturday at 12:00 (UTC): days 0, 1.25 and 2.5.
DAYS = pd.Series(pd.to_datetime(["1970-01-01T00:00Z", "1970-01-02T06:00Z", "1970-01-03T12:00Z"]), name="when")


def test_days_time_of_day_and_weekday_by_hand() -> None:
    encoder = Columns().fit(DAYS.to_frame())
    assert encoder.features_ == ["when", *(f"when:{c} {f}" for c in ("hour", "weekday") for f in ("sin", "cos"))]
    assert encoder.owners_.tolist() == [0] * 5
    found = encoder.transform(DAYS.to_frame())
    np.testing.assert_allclose(found[:, 0], np.array([-1.25, 0, 1.25]) / np.std([0, 1.25, 2.5]), rtol=1e-6)
    np.testing.assert_allclose(found[:, 1:3], [[0, 1], [1, 0], [0, -1]], atol=1e-6)
    angle = 2 * np.pi * np.array([3, 4, 5]) / 7  # Monday is 0
    np.testing.assert_allclose(found[:, 3:], np.column_stack([np.sin(angle), np.cos(angle)]), atol=1e-6)


def test_a_cycle_that_did_not_vary_has_no_column_and_a_missing_date_is_the_median() -> None:
    daily = pd.DataFrame({"when": pd.to_datetime(["2024-01-01", "2024-01-08", "2024-01-15", None])})  # all Mondays
    encoder = Columns().fit(daily)
    assert encoder.features_ == ["when"]
    assert encoder.typical_ == {"when": pd.Timestamp("2024-01-08", tz="UTC")}
    np.testing.assert_array_equal(encoder.transform(daily)[3], encoder.transform(daily)[1])


def test_zones_are_one_and_texts_of_a_batch_are_dates_still() -> None:
    encoder = Columns().from_meta(json.loads(json.dumps(Columns().fit(DAYS.to_frame()).meta())))
    same = pd.DataFrame({"when": ["1970-01-01T01:00+01:00", "1970-01-02T06:00", "1970-01-03 12:00:00Z"]})
    np.testing.assert_array_equal(encoder.transform(same), encoder.transform(DAYS.to_frame()))


@pytest.mark.parametrize(("values", "came"), [([1.0, 2.0, 3.0], "numbers"), (["red", "green", "blue"], "texts")])
def test_other_kinds_are_refused_by_name(values: list[object], came: str) -> None:
    encoder = Columns().fit(DAYS.to_frame())
    with pytest.raises(DataError, match=f"column 'when' must hold times as in training, got {came}"):
        encoder.transform(pd.DataFrame({"when": values}))


@pytest.mark.parametrize("texts", [["2024-01-31", "yesterday"], ["20240131"], ["2024-13-01"], [None]])
def test_what_is_not_written_as_a_date(texts: list[str | None]) -> None:
    assert times.written(pd.Series(texts, dtype="str")) is None
