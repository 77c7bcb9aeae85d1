"""Types that are decided bit by bit are those of all rows together."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.parts.columns import BOOLEAN, NUMBER, TEXT, TIME
from pipeline.parts.table_types import INTEGER, MOSTLY, Decided, Texts, Typed, as_whole, feature, texts


def bit_by_bit(chunks: list[list[str]]) -> Decided:
    tally = Texts()
    for chunk in chunks:
        tally.add(pa.array(chunk, pa.string()))
    return tally.decided()


@pytest.mark.parametrize(
    ("chunks", "kind", "gaps"),
    [
        ([["1", "2"], [" 3"]], INTEGER, False),
        ([["1", "NA"], ["3"]], INTEGER, True),
        ([["1"], ["2.5"]], NUMBER, False),
        ([["2.5"], ["inf", "NAN"]], NUMBER, False),
        ([["0x10"], ["3"]], INTEGER, False),
        ([["0x10", "2"], ["3.5"]], MOSTLY, False),  # hexadecimal among floats is no number
        ([["true"], ["", "FALSE"]], BOOLEAN, True),
        ([["true"], ["maybe"]], TEXT, False),
        ([["2024-01-31"], ["2024-01-31T09:30+02:00"]], TIME, False),
        ([["2024-01-31"], ["1", "2"]], MOSTLY, False),
        ([["2024-01-31"], ["1"]], TEXT, False),
        ([["oops"], ["1"]], TEXT, False),  # half are no numbers
        ([["oops"], ["1", "2"]], MOSTLY, False),
        ([["NAN", "NAN"], ["1", "oops"]], TEXT, False),
        ([["", ""], ["NULL"]], INTEGER, True),
        ([[], []], INTEGER, False),
    ],
)
def test_what_a_column_of_texts_holds(chunks: list[list[str]], kind: str, gaps: bool) -> None:
    assert bit_by_bit(chunks) == Decided(kind, gaps)
    assert bit_by_bit(chunks[::-1]) == Decided(kind, gaps)
    assert bit_by_bit([[text for chunk in chunks for text in chunk]]) == Decided(kind, gaps)


def test_how_values_are_cut_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    pool = ["1", "2.5", "oops", "", "NAN", "true", "2024-01-31", "0x1f", "+4", "1e999"]
    kinds = set()
    for _ in range(300):
        values = rng.choice(rng.choice(pool, int(rng.integers(1, 4))), 12).tolist()
        ends = np.sort(rng.integers(0, 13, 3)).tolist()
        chunks = [values[start:end] for start, end in zip([0, *ends], [*ends, 12], strict=True)]
        whole = bit_by_bit([values])
        assert bit_by_bit(chunks) == whole
        kinds.add(whole.kind)
        column, odd = feature(pd.Series(values, dtype="str"), True)
        parts = [feature(pd.Series(chunk, dtype="str"), True, whole) for chunk in chunks]
        assert np.concatenate([bad for _, bad in parts]).tolist() == odd.tolist()
        together = pd.concat([part.astype(object) for part, _ in parts], ignore_index=True)
        pd.testing.assert_series_equal(together, column.astype(object), check_names=False)
    assert kinds == {INTEGER, NUMBER, MOSTLY, BOOLEAN, TIME, TEXT}


def test_texts_of_a_part_are_written_like_those_of_the_whole() -> None:
    numbers = pd.Series([1.0, 2.0, 2.5, np.nan])
    whole = Typed(feature=False, written=True).add(numbers[:2]).add(numbers[2:]).decided()
    assert whole == Decided(None, True, "2.5")
    assert texts(numbers[:2]).tolist() == ["1", "2"]
    assert texts(numbers[:2], whole.witness).tolist() == texts(numbers).tolist()[:2] == ["1.0", "2.0"]
    dates = pd.Series(pd.to_datetime(["2024-01-31", "2024-01-31T01:02:03", None], format="ISO8601"))
    whole = Typed(feature=False, written=True).add(dates[:1]).add(dates[1:2]).add(dates[2:]).decided()
    assert texts(dates[:1], whole.witness).tolist() == texts(dates).tolist()[:1] == ["2024-01-31 00:00:00"]


def test_integers_and_booleans_of_a_part_are_those_of_a_column_with_gaps() -> None:
    gaps = Decided(NUMBER, gaps=True)
    assert as_whole(pd.Series([1, 2]), gaps).dtype == np.float64
    assert as_whole(pd.Series([True]), gaps).tolist() == [True]
    assert as_whole(pd.Series([True]), gaps).dtype == object
    assert as_whole(pd.Series([1, 2]), Decided(NUMBER)).dtype == np.int64
    assert as_whole(pd.Series(["x"]), gaps).tolist() == ["x"]
    assert Decided(**gaps.meta()) == gaps
