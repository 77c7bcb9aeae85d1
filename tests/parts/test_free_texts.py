import json

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.parts.columns import MOST_TEXTS, Columns
from pipeline.parts.free_texts import WIDTH, role

NOTES = pd.DataFrame({"note": [f"pump {i} runs well today" for i in range(60)] + [None]})


def test_what_a_column_of_texts_is() -> None:
    words = [f"word {i} and more" for i in range(10)]
    assert role(words, 10) == "free text"
    assert role(words, 30) == "category"  # each comes three times
    assert role([f"w{i}" for i in range(10)], 10) == "category"
    many = [f"w{i}" for i in range(MOST_TEXTS + 1)]
    assert role(many, len(many)) == "identifier"
    assert role(many, 2 * len(many)) == "free text"


def test_a_free_text_is_a_few_numbers_of_one_column() -> None:
    encoder = Columns().fit(NOTES)
    assert len(encoder.features_) == WIDTH + 2
    assert encoder.names_ == ["note"]
    found = encoder.transform(NOTES)
    np.testing.assert_allclose(np.linalg.norm(found[:60, :WIDTH], axis=1), 1, rtol=1e-5)
    assert not found[60].any()  # missing
    length = np.log1p(NOTES["note"][:60].str.len().to_numpy(float))
    np.testing.assert_allclose(found[:60, -1], (length - length.mean()) / length.std(), rtol=1e-4)
    assert encoder.typical_["note"] in set(NOTES["note"])


def test_new_words_and_other_words_show() -> None:
    encoder = Columns().fit(NOTES)
    usual, odd = encoder.transform(pd.DataFrame({"note": ["pump 7 runs well today", "zebra xylophone quartz"]}))
    assert odd[WIDTH] > usual[WIDTH]  # none of its words was known
    assert usual[:WIDTH] @ encoder.transform(NOTES)[0, :WIDTH] > odd[:WIDTH] @ encoder.transform(NOTES)[0, :WIDTH]


def test_the_state_is_json_and_gives_the_same_bits() -> None:
    encoder = Columns().fit(NOTES)
    again = Columns().from_meta(json.loads(json.dumps(encoder.meta())))
    np.testing.assert_array_equal(again.transform(NOTES), encoder.transform(NOTES))


def test_numbers_in_place_of_free_texts_are_refused() -> None:
    with pytest.raises(DataError, match="column 'note' must hold free texts as in training, got numbers"):
        Columns().fit(NOTES).transform(pd.DataFrame({"note": [1.0]}))
