"""The stages that dvc.yaml names, and the one way in which each of them starts and ends.

A stage reads, calls one thing and writes. Its outputs are whole or absent.
"""

import errno
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import AssayError

DATASET = Path("data/dataset")
QUARANTINE = Path("data/quarantine")
SPLIT = Path("data/split.parquet")
AUGMENTED = Path("data/augmented")
MODELS = Path("models")
VALIDATION = Path("reports/validation")
CANDIDATES = Path("reports/candidates")
RECEIPT = Path("reports/published.json")
TIMINGS = Path(".assay/timings.jsonl")
LOG = Path(".assay/error.log")


def run(main: Callable[..., None]) -> None:
    """Call a stage with the words of its command line; end with one sentence and status 1 when it fails."""
    started = time.perf_counter()
    name = "@".join(
        [main.__module__.rpartition(".")[2] if main.__module__ != "__main__" else _file(main), *sys.argv[1:]]
    )
    try:
        main(*sys.argv[1:])
    except AssayError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; nothing was kept, run it again", 130)
    except MemoryError:
        _fail("the machine ran out of memory; nothing was kept")
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
            raise
        place = f" ({error.filename})" if error.filename else ""
        _fail(f"{os.strerror(error.errno or 0)}{place}; nothing was kept, make room or give access and run it again")
    _note(name, time.perf_counter() - started)


def _file(main: Callable[..., None]) -> str:
    return Path(main.__code__.co_filename).stem


def _fail(sentence: str, status: int = 1) -> None:
    try:
        LOG.parent.mkdir(exist_ok=True)
        LOG.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        pass  # a full disk must not hide the sentence
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(status)


def _note(name: str, seconds: float) -> None:
    """Append what the stage took to .assay/timings.jsonl, which no stage reads and DVC does not track."""
    peak = _peak_mb()
    print(f"{name}: {seconds:.1f} s, peak {peak:.0f} MB", flush=True)
    TIMINGS.parent.mkdir(exist_ok=True)
    line = {"stage": name, "seconds": round(seconds, 3), "peak_mb": round(peak), "ended": round(time.time(), 3)}
    with TIMINGS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _peak_mb() -> float:
    """Peak resident memory of this process in MB (0 where the system does not tell)."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
