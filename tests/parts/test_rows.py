import numpy as np
import pandas as pd
import pytest

from pipeline.detectors.table.knn import KNN
from pipeline.errors import NotFittedError
from pipeline.parts.columns import Columns
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.rows import ablation, by_column

FRAME = pd.DataFrame(
    {"n": [1.0, 2.0, 3.0, np.nan], "on": [True, True, False, True], "text": ["b", "a", "b", None]}, index=list("wxyz")
)


def test_encoded_columns_are_added_up_by_the_column_they_belong_to() -> None:
    encoder = Columns().fit(FRAME)
    assert encoder.features_ == ["n", "on", "text=a", "text=b"]
    assert encoder.owners_.tolist() == [0, 1, 2, 2]
    summed = by_column(encoder, np.array([[1.0, 2.0, 3.0, 4.0]]), FRAME.iloc[:1])
    assert summed.to_dict("index") == {"w": {"n": 1.0, "on": 2.0, "text": 7.0}}


def test_ablation_puts_what_is_typical_in_place_of_each_column() -> None:
    encoder = Columns().fit(FRAME)
    assert encoder.typical_ == {"n": 2.0, "on": True, "text": "b"}

    def score(frame: pd.DataFrame) -> np.ndarray:
        return 10 * (frame["n"].fillna(0) - 2).abs().to_numpy() + (frame["text"] != "b").to_numpy()

    found = ablation(score, encoder, FRAME)
    assert found.loc["w"].tolist() == [10, 0, 0]
    assert found.loc["x"].tolist() == [0, 0, 1]
    assert list(found.index) == list(FRAME.index)


def test_what_is_not_fitted_is_named() -> None:
    with pytest.raises(NotFittedError, match="table/knn must be fitted"):
        must_be_fitted(KNN(), "bank_")
