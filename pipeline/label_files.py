"""Files of labels that people give back, as they come out of a spreadsheet, a database or another program."""

import codecs
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.parts import table_files
from pipeline.parts.image_layouts import BAD, GOOD
from pipeline.parts.table_rows import texts
from pipeline.protocols import ANOMALOUS, NORMAL

COLUMNS = ("id", "label", "batch", "defect", "who", "time")
REFUSED = ("row", "id", "label", "reason")
WORDS = {
    **dict.fromkeys(("0", "false", *GOOD), NORMAL),
    **dict.fromkeys(("1", "true", *BAD), ANOMALOUS),
}
LONGEST = 200  # characters of a defect or a name


@dataclass(frozen=True)
class Labels:
    """`rows`: row (from 1, headings and blank lines not counted), id, label (0 or 1), batch, defect, who (texts, ""
    where not given), time (ISO 8601, UTC, or ""). `refused`: row, id, label and the reason, as text."""

    rows: pd.DataFrame
    refused: pd.DataFrame


def read(path: Path, work: Path) -> Labels:
    """Read a CSV (commas, semicolons or tabs; with or without a byte order mark) or Parquet file of labels.

    The columns `id` and `label` must be there, `batch`, `defect`, `who` and `time` may be, others are left alone; case
    and order do not matter. Labels are 0 and 1, false and true, or one of the words in WORDS. Raises DataError for a
    file that as a whole is none: empty, without these columns, or with one whose name is nearly one of them."""
    path = table_files.find(path)
    raw = table_files.read(_utf8(path, work) if path.suffix.lower() == ".csv" else path, "label")
    given = {name.strip().lower(): column for name, column in raw.columns.items()}
    for need in ("id", "label"):
        if need not in given:
            raise DataError(f"{path.name} must have the columns id and label, got {', '.join(raw.columns)}")
    for name in given:
        near = get_close_matches(name, [c for c in COLUMNS if c not in given], n=1, cutoff=0.8)
        if name not in COLUMNS and near:
            raise DataError(f"{path.name} has a column {name!r}, did you mean {near[0]}?")
    none = pd.Series([""] * len(raw.number), dtype="str")
    rows = pd.DataFrame({name: texts(given[name]) if name in given else none for name in COLUMNS})
    rows.insert(0, "row", raw.number)
    rows = rows[(rows[list(COLUMNS)] != "").any(axis=1)].reset_index(drop=True)
    if rows.empty and not raw.rejected:
        raise DataError(f"{path.name} must hold at least one label, got none")
    return _checked(rows, [(number, "", "", reason) for number, reason, _ in raw.rejected])


def _utf8(path: Path, work: Path) -> Path:
    """The file itself, or a copy as UTF-8 of one that a spreadsheet wrote as UTF-16 or in Windows' own encoding."""
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8")
    except UnicodeDecodeError:
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError as error:
            raise DataError(f"{path.name} must be text in UTF-8, got other bytes ({error.reason})") from error
    lines = [line for line in text.splitlines() if line.strip("\ufeff ,;\t")]
    if not lines:
        raise DataError(f"{path.name} must hold the columns id and label, it is empty")
    copy = work / path.name
    copy.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return copy


def _checked(rows: pd.DataFrame, refused: list[tuple[int, str, str, str]]) -> Labels:
    """Rows whose every field can be used, labels as numbers and times in one form; the others with a reason."""
    label = rows["label"].str.lower().str.replace(r"\.0*$", "", regex=True).map(WORDS)
    time = pd.to_datetime(rows["time"].where(rows["time"] != ""), utc=True, errors="coerce", format="ISO8601")
    defect = rows["defect"].where(~(rows["defect"].str.lower().isin([*GOOD, "none"]) & (label == NORMAL)), "")
    reason = np.full(len(rows), "", object)
    checks = (
        (rows["id"] == "", "id", "the id of a scored sample"),
        (label.isna(), "label", "0 or good, 1 or bad"),
        ((label == NORMAL) & (defect != ""), "defect", "empty where the label is good"),
        (rows["defect"].str.len() > LONGEST, "defect", f"at most {LONGEST} characters"),
        (rows["who"].str.len() > LONGEST, "who", f"at most {LONGEST} characters"),
        (time.isna() & (rows["time"] != ""), "time", "a date and time such as 2026-01-31T12:00:00"),
    )
    for odd, column, must in checks:
        for position in np.flatnonzero(odd.to_numpy(bool) & (reason == "")):
            came = re.sub(r"\s+", " ", rows[column].iloc[position])[:80]
            reason[position] = f"{column} must be {must}, got {came!r}"
    good = reason == ""
    bad = [*refused, *rows.assign(reason=reason).loc[~good, list(REFUSED)].itertuples(index=False, name=None)]
    written = time.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ").fillna("")
    kept = rows.assign(label=label, defect=defect, time=written)[good].astype({"label": "int8"})
    return Labels(kept.reset_index(drop=True), refusals(bad))


def refusals(rows: list[tuple[int, str, str, str]]) -> pd.DataFrame:
    """Refused rows as a frame, in the file's order."""
    return pd.DataFrame(rows, columns=list(REFUSED)).sort_values("row", kind="stable", ignore_index=True)
