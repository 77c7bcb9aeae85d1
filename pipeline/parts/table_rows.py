"""From the columns of a table file to manifest rows and features, with a reason for each row that cannot be used."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.api import types

from pipeline.errors import DataError
from pipeline.parts.table_files import Raw
from pipeline.parts.table_types import Decided, feature, texts
from pipeline.protocols import ANOMALOUS, MANIFEST, NORMAL, UNKNOWN

COLUMNS = {
    **MANIFEST,  # sha256 is that of the row's features
    "row": "int64",  # position in table.parquet, from 0
}
SENSITIVE = "sensitive"  # a text behind the others, in manifests of datasets that declare such a column
ROLES = (*(role for role in COLUMNS if role not in ("sha256", "row")), SENSITIVE)
LABELS = {"0": NORMAL, "false": NORMAL, "1": ANOMALOUS, "true": ANOMALOUS, "-1": UNKNOWN, "": UNKNOWN}


class Rejected:
    """The first reason why each of n rows cannot be used; "" for a good one."""

    def __init__(self, number: np.ndarray) -> None:
        self._number = number
        self.reason = np.full(len(number), "", dtype=object)

    def note(self, odd: np.ndarray | pd.Series, says: Callable[[int], str]) -> None:
        """Reject the rows `odd`, bool `(n,)`, each with what `says` of its position."""
        for position in np.flatnonzero(np.asarray(odd, dtype=bool)):
            if self.reason[position] == "":
                self.reason[position] = f"{says(int(position))} (row {self._number[position]})"

    def values(self, odd: np.ndarray | pd.Series, column: pd.Series, allowed: str) -> None:
        """Reject the rows `odd` for their value in `column`."""
        self.note(odd, lambda i: f"column {column.name!r} must hold {allowed}, got {str(column.iloc[i])[:80]!r}")


def row_id(number: int) -> str:
    """The id of a row that has none of its own."""
    return f"row-{number:07d}"


def row_ids(number: np.ndarray, prefix: str = "") -> pd.Series:
    """The ids of rows that have none of their own, see `row_id`, behind a prefix."""
    digits = pc.utf8_lpad(pa.array(number, pa.int64()).cast(pa.string()), 7, "0")
    return pd.Series(pc.binary_join_element_wise(f"{prefix}row-", digits, ""), dtype="str")


def typed(given: Mapping[str, Any], n: int) -> pd.DataFrame:
    """n manifest rows with COLUMNS, and SENSITIVE where given, and their types; what is not given is empty, `row`
    counts."""
    columns = COLUMNS | ({SENSITIVE: "str"} if SENSITIVE in given else {})
    texts = [name for name, dtype in columns.items() if dtype == "str"]
    empty = dict.fromkeys(texts, "")
    frame = pd.DataFrame({"row": np.arange(n), **empty, **given}, columns=list(columns), index=range(n))
    for name in texts:
        frame[name] = frame[name].astype("str").fillna("")
    frame["time"] = pd.to_datetime(frame["time"], utc=True)
    return frame.astype(columns)


def annotations(raw: Raw, roles: Mapping[str, str], anomalous: list[str], bad: Rejected) -> dict[str, Any]:
    """Manifest columns, but for `sha256` and `row`, of all rows; values that cannot be used are noted in `bad`."""
    given = {role: raw.columns[name].rename(name) for role, name in roles.items() if name in raw.columns}
    like = {role: raw.decided.get(str(column.name), Decided()).witness for role, column in given.items()}
    rows: dict[str, Any] = {role: texts(given[role], like[role]) for role in ROLES if role in given}
    if "id" in given:
        ids = rows["id"]
        bad.values(ids == "", given["id"], "an id in every row")
        twice = raw.again if raw.is_part else ids.duplicated() & (ids != "")
        bad.note(twice, lambda i: f"column {given['id'].name!r} must hold unique ids, got {ids.iloc[i]!r} again")
    else:
        rows["id"] = row_ids(raw.number, raw.prefix)
    if "label" in given:
        meaning = {value: ANOMALOUS if value in anomalous else NORMAL for value in rows["label"].unique()} | {"": -1}
        if not anomalous:
            meaning = {value: _label(value.lower()) for value in meaning}
        label = rows["label"].map(meaning)
        bad.values(label.isna(), given["label"], "0, 1 or -1, or values that dataset.anomalous explains")
        rows["label"] = label.fillna(UNKNOWN)
    else:
        rows["label"] = UNKNOWN
    if "severity" in given:
        number = pd.to_numeric(rows["severity"], errors="coerce").replace([np.inf, -np.inf], np.nan)
        bad.values(number.isna() & (rows["severity"] != ""), given["severity"], "finite numbers")
        rows["severity"] = number
    if "time" in given:
        time = _times(given["time"], rows["time"])
        bad.values(time.isna() & (rows["time"] != ""), given["time"], "dates or seconds since 1970")
        rows["time"] = time
    if SENSITIVE in roles and SENSITIVE not in given:
        rows[SENSITIVE] = ""  # declared, so validation must find that it is absent
    return rows


def _label(text: str) -> float:
    return LABELS.get(re.sub(r"\.0*$", "", text), np.nan)


def _times(column: pd.Series, text: pd.Series) -> pd.Series:
    """datetime64[us, UTC], NaT for what is none."""
    if types.is_datetime64_any_dtype(column.dtype):
        return pd.to_datetime(column, utc=True).astype(COLUMNS["time"])
    seconds = pd.to_numeric(text, errors="coerce")
    counted = pd.to_datetime(seconds, unit="s", utc=True, errors="coerce")
    written = pd.to_datetime(text.where(seconds.isna()), utc=True, errors="coerce", format="ISO8601")
    return counted.astype(COLUMNS["time"]).fillna(written.astype(COLUMNS["time"]))


def features(raw: Raw, used: set[str], bad: Rejected, where: str) -> pd.DataFrame:
    """The typed columns of all rows that are not `used` for something else; odd values are noted in `bad`.

    Raises DataError when there is none, for a column of no usable kind, or named `id` or `label`."""
    wanted = [name for name in raw.columns if name not in used]
    for role in ("id", "label"):
        if role in wanted:
            raise DataError(
                f"column {role!r} of {where} must not be a feature: name it as dataset.{role} or in dataset.drop"
            )
    if not wanted:
        raise DataError(f"{where} must hold at least one feature column, got only {', '.join(raw.columns)}")
    found = {}
    for name in wanted:
        column = raw.columns[name].rename(name)
        try:
            found[name], odd = feature(column, raw.texts, raw.decided.get(name))
        except DataError as error:
            raise DataError(f"{error} ({where}); name it in dataset.drop to leave it out") from error
        bad.values(odd, column, "numbers")
        if found[name].dtype == np.float64:
            bad.values(np.isinf(found[name].to_numpy()), column, "finite numbers")
    return pd.DataFrame(found)
