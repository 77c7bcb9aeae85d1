"""The labels file of a review, as `make labels` takes it back: what it holds, and what someone changed in it by hand.

Columns are those of label_files.py, one row for each sample and person: two people who disagree have a row each, of
which the later counts. Rows stand in the order of their times.
"""

import csv
import hashlib
import io
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError
from pipeline.review.vote import Vote

COLUMNS = ("id", "label", "batch", "defect", "who", "time")
LABELS = {"accept": "0", "reject": "1"}
NOBODY = "labels.csv"  # who gave a label that stands in the file without a name
Rows = Mapping[tuple[str, str], tuple[str, str]]  # (id, who) -> time and line


@dataclass(frozen=True)
class Edit:
    """What was changed by hand. `votes`: id, vote ("" for one taken out), who, defect, and the time that the file gives
    ("" for now). `newer` rows are not in the file, but newer than all that are: they came while it was being edited."""

    votes: list[tuple[str, str, str, str, str]]
    newer: int

    def says(self) -> str:
        out = sum(not vote[1] for vote in self.votes)
        said = f"labels.csv was changed by hand: {len(self.votes) - out} labels taken in, {out} taken out"
        return said + (f"; {self.newer} votes that came meanwhile stay" if self.newer else "")


def line(vote: Vote, batch: str) -> str:
    """The row of an accepted or rejected sample."""
    return _line([vote.id, LABELS[vote.vote], batch, vote.defect, vote.who, vote.time])


def _line(values: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def text(rows: Rows) -> bytes:
    """The whole file."""
    return (_line(list(COLUMNS)) + "".join(line for _, line in sorted(rows.values()))).encode()


def digest(data: bytes) -> str:
    """A short hash that tells our files from changed ones."""
    return hashlib.sha256(data).hexdigest()[:16]


def edit(
    data: bytes, batch: str, rows: Rows, times: set[tuple[str, str, str]], known: Callable[[set[str]], set[str]]
) -> Edit:
    """What the changed file `data` says otherwise than `rows`.

    A row that once was a vote, see `times`, is no change: the vote may have been replaced or undone while someone had
    the file open. A row that is gone is taken out, unless it is newer than all that were left in. Raises DataError for
    a file that is none, another batch, or an id that is not in this one."""
    given = _read(data)
    strange = sorted({row[0] for row in given} - known({row[0] for row in given}))
    if strange:
        raise DataError(f"id must be that of a sample in batch {batch}, got {strange[0]!r}")
    other = next((row[2] for row in given if row[2] not in ("", batch)), None)
    if other is not None:
        raise DataError(f"batch must be {batch} or empty, got {other!r}")
    stands = {key: next(csv.reader([line])) for key, (_, line) in rows.items()}
    changed: dict[tuple[str, str], tuple[str, str, str]] = {}
    named: set[tuple[str, str]] = set()
    newest = ""
    for name, label, _, defect, who, time in given:
        key = (name, who or NOBODY)
        named.add(key)
        ours = stands.get(key)
        if (*key, time) in times:
            newest = max(newest, time)
            if ours is None or (label, defect) == (ours[1], ours[3]) or time != ours[5]:
                continue
        elif ours is not None and (label, defect) == (ours[1], ours[3]):
            continue
        changed[key] = (label, defect, "" if (*key, time) in times or ours else time)
    gone = {key: time for key, (time, _) in rows.items() if key not in named}
    kept = sum(time > newest for time in gone.values())
    words = {label: vote for vote, label in LABELS.items()}
    votes = [(name, words[label], who, defect, time) for (name, who), (label, defect, time) in changed.items()]
    return Edit(votes + [(name, "", who, "", "") for (name, who), time in gone.items() if time <= newest], kept)


def _read(data: bytes) -> list[tuple[str, ...]]:
    """Rows of COLUMNS as texts. A file with headings alone holds none."""
    from pipeline import label_files

    if data.decode("utf-8", "replace").strip("\ufeff \r\n").lower().split(",") == list(COLUMNS):
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, NOBODY)
        path.write_bytes(data)
        work = Path(folder, "work")
        work.mkdir()
        found = label_files.read(path, work)
    if len(found.refused):
        first = found.refused.iloc[0]
        raise DataError(f"row {first['row']}: {first['reason']}")
    return list(found.rows[list(COLUMNS)].astype(str).itertuples(index=False, name=None))
