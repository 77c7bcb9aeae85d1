"""A large table through the real modality and an isolation forest: seconds and memory of fit, score and streaming.

    python -m benchmarks.table_scale --rows 1000000 --columns 30

Writes a Parquet file of normal numbers, ingests nothing, fits on a view of all rows and scores them in batches, each
in a process of its own. Memory is the process's peak, the table itself included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def fitted(folder: Path, store: Path) -> dict[str, float]:
    from pipeline import store as models
    from pipeline.detectors.table.isolation_forest import IsolationForest
    from pipeline.files import sha256
    from pipeline.modalities.table import Table
    from pipeline.samples import read_manifest

    modality = Table()
    samples = modality.samples(read_manifest(folder))
    started = time.perf_counter()
    detector = IsolationForest().fit(samples)
    took = time.perf_counter() - started
    key = "/".join(("table", "isolation_forest"))
    models.save(detector, key, store, kind="table", modality=modality, data=sha256(folder / "manifest.parquet"))
    return {"fit_s": took}


def scored(folder: Path, store: Path) -> dict[str, float]:
    from pipeline import scoring
    from pipeline import store as models
    from pipeline.samples import read_manifest

    stored = models.load(store)
    samples = stored.modality.samples(read_manifest(folder))
    started = time.perf_counter()
    scoring.score(stored.detector, samples, 1 << 15, keep_local=False)
    return {"score_s": time.perf_counter() - started}


def written(folder: Path, rows: int, columns: int) -> None:
    import numpy as np
    import pandas as pd

    from pipeline.parts.table_rows import row_id, typed

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(rows, columns)), columns=[f"x{i:02d}" for i in range(columns)])
    frame.to_parquet(folder / "table.parquet", index=False)
    typed({"id": [row_id(i) for i in range(rows)], "label": 0}, rows).to_parquet(folder / "manifest.parquet")


def main() -> None:
    import resource

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=30)
    parser.add_argument("--step", nargs=3, metavar=("NAME", "FOLDER", "MODEL"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        name, folder, store = chosen.step
        took = {"fitted": fitted, "scored": scored}[name](Path(folder), Path(store))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**{key: round(value, 2) for key, value in took.items()}, f"{name}_peak_mb": round(peak)}))
        return
    with tempfile.TemporaryDirectory() as place:
        folder, store = Path(place, "data"), Path(place, "model")
        for made in (folder, store):
            made.mkdir()
        written(folder, chosen.rows, chosen.columns)
        for name in ("fitted", "scored"):
            command = [sys.executable, "-m", "benchmarks.table_scale", "--step", name, str(folder), str(store)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
            print(done.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
