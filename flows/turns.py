"""One run of a line at a time: what changes or judges the files of a line's folder waits for its turn."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from flows.settings import shown

LOCK = Path(".assay/run.lock")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One run of a line at a time: a second one waits for the first."""
    lock = FileLock(folder / LOCK)
    lock_path = Path(lock.lock_file)
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another run of {shown(folder)} is at work; this one waits for it to end", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
