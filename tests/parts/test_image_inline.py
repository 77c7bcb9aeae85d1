"""Images in a request: paths and base64 text, and what is neither."""

from base64 import b64encode
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.parts.image_inline import files

DATA = bytes(range(256))
TEXT = b64encode(DATA).decode()


def test_paths_and_base64_in_the_order_of_the_rows() -> None:
    broken_into_lines = "\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76))
    images = [TEXT, None, f"data:image/png;base64,{TEXT}", np.nan, f"data:;base64,{TEXT}", broken_into_lines]
    frame = pd.DataFrame({"path": [None, "a.png", "", "b.png", float("nan"), None], "image": images, "note": 1})
    assert files(frame) == [DATA, Path("a.png"), DATA, Path("b.png"), DATA, DATA]
    assert files(frame[["path"]].iloc[[1, 3]]) == [Path("a.png"), Path("b.png")]
    assert files(pd.DataFrame({"image": []})) == []


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        ({"x": [1]}, r"must come with a column path \(.*\) or image \(.*\), got the columns x$"),
        ({}, "got the columns none$"),
        ({"path": ["a.png", None]}, "^row 2 must have a path or an image, got neither$"),
        ({"path": ["a.png"], "image": [TEXT]}, "^row 1 must have a path or an image, got both$"),
        ({"path": [3]}, "^row 1: column path must hold texts, got '3'$"),
        ({"path": ["QUJD" * 99]}, "^row 1: column path must hold the path of a file, got '(QUJD){10}' and so on$"),
        ({"path": ["a/" * 4000]}, "^row 1: column path must hold the path of a file"),
        ({"path": ["a\0.png"]}, "^row 1: column path must hold the path of a file"),
        ({"image": [[1, 2]]}, r"^row 1: column image must hold texts, got '\[1, 2\]'$"),
        ({"image": [TEXT, "no base64!"]}, "^row 2: column image must hold base64 of a file, got 'no base64!'"),
        ({"image": [TEXT[:-1]]}, "^row 1: column image must hold base64 of a file, got .* padding"),
        ({"image": ["ä" * 99]}, "^row 1: column image must hold base64 of a file, got 'ä{40}'"),
        ({"image": [f"data:image/png,{TEXT}"]}, "^row 1: a data: URL of an image must be in base64"),
        ({"image": ["data:image/png;base64"]}, "^row 1: a data: URL of an image must be in base64"),
    ],
)
def test_what_cannot_be_read_is_named(frame: dict[str, list[object]], says: str) -> None:
    with pytest.raises(DataError, match=says):
        files(pd.DataFrame(frame))
