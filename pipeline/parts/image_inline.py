"""Images as they come in a request: the path of a file, or the bytes of one as base64 text."""

import binascii
import re
from base64 import b64decode
from pathlib import Path

import pandas as pd

from pipeline.errors import DataError

PATH, IMAGE = "path", "image"
SHOWN = 40  # characters of what came that a message repeats
LONGEST, LONGEST_PART = 4095, 255  # characters of a path, bytes of a name in it
DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


def files(frame: pd.DataFrame) -> list[Path | bytes]:
    """What the column `path` (local paths) or `image` (base64 of a file's bytes, also as a data: URL) holds, per row.

    Raises DataError for a row that has none or both, naming it (counted from 1), and for text that is no base64."""
    given = [name for name in (PATH, IMAGE) if name in frame.columns]
    if not given:
        came = ", ".join(map(str, frame.columns)) or "none"
        raise DataError(
            f"images must come with a column path (paths of files) or image (base64 of files), got the columns {came}"
        )
    columns = [frame[name].tolist() for name in given]
    return [
        _file(dict(zip(given, values, strict=True)), row) for row, values in enumerate(zip(*columns, strict=True), 1)
    ]


def _file(row: dict[str, object], number: int) -> Path | bytes:
    texts = {name: value for name, value in row.items() if not _missing(value)}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise DataError(f"row {number}: column {name} must hold texts, got {str(value)[:SHOWN]!r}")
    if len(texts) != 1:
        raise DataError(f"row {number} must have a path or an image, got {'both' if texts else 'neither'}")
    ((name, text),) = texts.items()
    return _path(str(text), number) if name == PATH else _bytes(str(text), number)


def _missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _path(text: str, number: int) -> Path:
    if len(text) > LONGEST or "\0" in text or any(len(part.encode()) > LONGEST_PART for part in text.split("/")):
        raise DataError(f"row {number}: column path must hold the path of a file, got {text[:SHOWN]!r} and so on")
    return Path(text)


def _bytes(text: str, number: int) -> bytes:
    came = text[:SHOWN]
    if text.startswith("data:"):
        begin = DATA_URL.match(text)
        if begin is None:
            raise DataError(
                f"row {number}: a data: URL of an image must be in base64 (data:image/png;base64,...), got {came!r}"
            )
        text = text[begin.end() :]
    try:
        return b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        said = str(error)[:1].lower() + str(error)[1:]
        raise DataError(f"row {number}: column image must hold base64 of a file, got {came!r} ({said})") from error
