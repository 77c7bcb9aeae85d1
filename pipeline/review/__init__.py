"""The review page: people look at a batch's alarms and review band in a browser and decide. `make review`"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

VOTES = "review"  # in a batch's folder
WORK = Path(".assay/review")  # in a line's folder: locks, and pictures made on demand


def lock_of(folder: Path) -> Path:
    """The lock of the votes on a batch, outside of its folder `scores/BATCH`: that may be replaced."""
    return folder.parents[1] / WORK / f"{folder.name}.lock"


@contextmanager
def carried_over(folder: Path, out: Path) -> Iterator[None]:
    """While `out` takes the place of a batch's folder, as when it is scored again after a shard failed: bring the votes
    along, and let nobody vote meanwhile."""
    if not (folder / VOTES).is_dir():
        yield
        return
    lock_of(folder).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_of(folder)):
        shutil.copytree(folder / VOTES, out / VOTES)
        yield
