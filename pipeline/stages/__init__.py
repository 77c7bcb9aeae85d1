"""The stages that dvc.yaml names, where their files lie, and the one way in which each of them starts and ends.

A stage reads, calls one thing and writes. Its outputs are whole or absent.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import psutil

from pipeline.ending import one_sentence

# Stages run side by side. A thread that spins while it waits for its siblings keeps the core from them: two stages
# with two threads each on two cores then take twice as long. Read by OpenMP when torch or scikit-learn load it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DATASET = Path("data/dataset")
QUARANTINE = Path("data/quarantine")
SPLIT = Path("data/split.parquet")
AUGMENTED = Path("data/augmented")
MODELS = Path("models")
VALIDATION = Path("reports/validation")
CANDIDATES = Path("reports/candidates")
COMPARISON = Path("reports/comparison")
RECEIPT = Path("reports/published.json")
FETCHED = Path(".assay/fetched")
TIMINGS = Path(".assay/timings.jsonl")
LOGS = Path(".assay/logs")


def run(main: Callable[..., None]) -> NoReturn:
    """Call a stage with the words of its command line, note what it took, and end the process."""
    started = time.perf_counter()
    name = "@".join([Path(main.__code__.co_filename).stem, *sys.argv[1:]])
    with one_sentence(LOGS / f"{name}.error.log"):  # stages that run side by side keep one each
        main(*sys.argv[1:])
        _note(name, time.perf_counter() - started)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written; taking torch down module by module would cost 0.8 s a stage


def _note(name: str, seconds: float) -> None:
    """Append what the stage took to .assay/timings.jsonl, which no stage reads and DVC does not track."""
    peak = _peak_mb()
    print(f"{name}: {seconds:.1f} s, peak {peak:.0f} MB", flush=True)
    TIMINGS.parent.mkdir(exist_ok=True)
    alive = time.time() - psutil.Process().create_time()  # the interpreter's start and its imports included
    line = {"stage": name, "seconds": round(seconds, 3), "alive": round(alive, 3), "peak_mb": round(peak)}
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
