"""The scores of a batch as monitoring reads them: from its scores.parquet, some at a time, whatever their number."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.monitoring.martingale import Watched
from pipeline.threshold import Calibration

AT_ONCE = 65_536  # rows
BUFFER = 2**20  # bytes of a file that are read ahead
DRAWN = 10_000  # scores at most that are compared with the calibration's


def grouped(path: Path, calibration: Calibration) -> bool:
    """Whether the file says which thresholds each row goes by: in a column named as the plan's `by`."""
    return bool(calibration.own) and calibration.plan.by in pq.read_schema(path).names


def parts(path: Path, by: str | None) -> Iterator[tuple[np.ndarray, list[str] | None]]:
    """Scores, float32, in the order of the batch, and the values of the column `by` unless that is None."""
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER) as file:  # else all of it is held
        columns = ["score"] if by is None else ["score", by]
        for some in file.iter_batches(AT_ONCE, columns=columns):
            of = None if by is None else [value or "" for value in some.column(by).to_pylist()]
            yield some.column("score").to_numpy(zero_copy_only=False).astype(np.float32), of


def drawn(
    path: Path, by: str | None, calibration: Calibration, watched: Watched, seed: int
) -> tuple[np.ndarray, int | None]:
    """Watched scores among at most DRAWN rows drawn at random, and how many of all rows lie above the alarm threshold;
    None when it is not known which threshold that is."""
    count = pq.read_metadata(path).num_rows
    chosen = np.sort(np.random.default_rng(seed).choice(count, min(count, DRAWN), replace=False))
    found, above, start = [np.zeros(0, np.float32)], 0, 0
    for scores, of in parts(path, by):
        seen = np.zeros(len(scores), bool)
        seen[np.concatenate(list(watched.places(scores, of).values()))] = True
        here = chosen[(chosen >= start) & (chosen < start + len(scores))] - start
        found.append(scores[here[seen[here]]])
        start += len(scores)
        if not calibration.own or by is not None:
            above += int(np.count_nonzero(scores > calibration.alarms(of, len(scores))))
    return np.concatenate(found), None if calibration.own and by is None else above
