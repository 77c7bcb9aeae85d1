"""What is to be looked at of a batch: its alarms and its review band, sorted and selected.

A position is the place of a sample among these, in the order of scores.parquet; a key, made of its id, stands for it in
addresses. Orders, each the most pressing first:

uncertain   from the boundary between review band and alarms outwards, by ranks of p-value and then score
score       the highest score first
order       as they came
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DataError

ORDERS = ("uncertain", "score", "order")
DECISIONS = {"reject": "alarm", "review": "for review"}  # decisions that are looked at, and what people call them
SCORES, REPORT = "scores.parquet", "report.json"


@dataclass(frozen=True)
class Queue:
    """The flagged samples of the batch in `folder`. All arrays are `(n,)`, by position; `shard` is the row group of
    scores.parquet, which holds the samples of one shard."""

    folder: Path
    report: dict[str, Any]
    ids: list[str]
    keys: list[str]
    score: np.ndarray  # float32
    p_value: np.ndarray  # float64
    alarm: np.ndarray  # bool: an alarm, else in the review band
    shard: np.ndarray  # int64
    because: pa.ChunkedArray | None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def places(self) -> dict[str, int]:
        """The position behind each key."""
        return {key: position for position, key in enumerate(self.keys)}

    @cached_property
    def position(self) -> dict[str, int]:
        """The position of each id."""
        return {id: position for position, id in enumerate(self.ids)}

    @cached_property
    def _orders(self) -> dict[str, np.ndarray]:
        rising = np.lexsort((self.score, -self.p_value))  # from the most normal to the oddest
        rank = np.empty(len(self), np.int64)
        rank[rising] = np.arange(len(self))
        boundary = np.count_nonzero(~self.alarm) - 0.5
        uncertain = np.argsort(np.abs(rank - boundary), kind="stable")
        return {"uncertain": uncertain, "score": rising[::-1], "order": np.arange(len(self))}

    def select(self, order: str, wanted: np.ndarray) -> np.ndarray:
        """Positions of the samples `wanted`, bool `(n,)`, in an order."""
        sorted_ = self._orders[order]
        return sorted_[wanted[sorted_]]

    def after(self, order: str, position: int, wanted: np.ndarray, step: int = 1) -> int | None:
        """The next wanted sample behind `position` in an order, or before it with `step` -1; None at the end."""
        sorted_ = self._orders[order][::step]
        place = int(np.flatnonzero(sorted_ == position)[0])
        later = np.flatnonzero(wanted[sorted_[place + 1 :]])
        return int(sorted_[place + 1 + later[0]]) if len(later) else None

    def reasons(self, position: int) -> list[dict[str, Any]]:
        """The columns that added most to an alarm's score, see explanation.py; none where nothing is known."""
        told = self.because[position].as_py() if self.because is not None else ""
        return json.loads(told) if told else []

    def in_batch(self, ids: set[str]) -> set[str]:
        """Those of some ids that the whole batch holds."""
        missing = ids - self.position.keys()
        if not missing:
            return ids
        column = pq.read_table(self.folder / SCORES, columns=["id"])["id"]
        found = column.filter(pc.is_in(column, pa.array(sorted(missing), column.type)))
        return (ids - missing) | set(found.to_pylist())


def key(id: str) -> str:
    """What stands for an id in addresses."""
    return hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()


def read(folder: Path) -> Queue:
    """The flagged samples of a scored batch. Raises DataError when its files cannot be read."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        with pq.ParquetFile(folder / SCORES) as file:
            names = set(file.schema_arrow.names)
            decisions = file.read(columns=["decision"])["decision"]
            ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
            flagged = np.flatnonzero(pc.is_in(decisions, pa.array(list(DECISIONS), decisions.type)).to_numpy())
            columns = [name for name in ("id", "score", "p_value", "decision", "because") if name in names]
            rows = file.read(columns=columns).take(pa.array(flagged))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} must hold {REPORT} and {SCORES} of a scored batch: {error}") from error
    ids = rows["id"].to_pylist()
    return Queue(
        folder,
        report,
        ids,
        [key(id) for id in ids],
        rows["score"].to_numpy(),
        rows["p_value"].to_numpy(),
        np.asarray(rows["decision"].to_pylist(), object) == "reject",
        np.searchsorted(ends, flagged, side="right"),
        rows["because"] if "because" in names else None,
    )
