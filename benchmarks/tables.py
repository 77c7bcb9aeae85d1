"""Detectors of tables on labelled sets: how well, how fast, how large; beside PyOD's on the same rows and settings.

    python -m benchmarks.tables --data ../shared/data/tabular --detectors knn,lof,ecod --peer pyod --out FILE.jsonl
    python -m benchmarks.tables --data ../shared/data/tabular --detectors auto --labels 0.01 --out FILE.jsonl

Over every .npz of the folder (X, y), as ADBench does: 70 % of the rows, stratified, to learn from, without labels, the
others to be judged; AUROC and average precision of raw scores, one per seed. With `--labels` that share of the
training part's anomalies, one at least, is labelled; all other rows stay unlabelled. One JSON line per detector and
set, measured in a process of its own: `seconds` is the median over the seeds of fit and scoring the test together,
after a warm-up; `peak_mb` is the process's, `warm_mb` after that warm-up.

The peer gets what our encoder makes of the rows (standardised columns), and the settings of ours. Its `fit` also scores
the training rows, which is part of PyOD's way. It needs the extra `bench`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.parts.progress import tracked

TEST = 0.3


def views(path: Path, seed: int, labels: float) -> tuple[Any, Any, Any]:
    """The training and test samples of one split, and the test's labels."""
    import numpy as np
    import pandas as pd
    from sklearn.model_selection import train_test_split

    from pipeline.protocols import Batch
    from pipeline.samples import View

    with np.load(path, allow_pickle=False) as file:
        x, y = np.asarray(file["X"], np.float64), np.asarray(file["y"]).astype(np.int8)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])
    train, test = train_test_split(np.arange(len(y)), test_size=TEST, stratify=y, random_state=seed)
    known = np.full(len(y), -1, np.int8)
    if labels:
        odd = train[y[train] == 1]
        known[np.random.default_rng(seed).choice(odd, max(1, int(np.ceil(labels * len(odd)))), replace=False)] = 1

    def view(rows: Any) -> View:
        manifest = pd.DataFrame({"id": [f"row-{row}" for row in rows], "label": known[rows], "row": rows})
        return View(
            manifest,
            lambda some: Batch(
                some["id"].tolist(), frame.iloc[some["row"].to_numpy()], some["label"].to_numpy(np.int8)
            ),
        )

    return view(train), view(test), y[test]


def ours(name: str, options: dict[str, Any], seed: int) -> Any:
    from dataclasses import fields

    from pipeline import detectors
    from pipeline.sections import build
    from pipeline.tables import find

    cls = find(detectors, f"table/{name}", "--detectors")
    seeded = {"seed": seed} if any(field.name == "seed" for field in fields(cls)) else {}
    return build(cls, {**seeded, **options}, name, "--options")


def measure(path: Path, name: str, peer: bool, options: dict[str, Any], labels: float, seeds: int) -> dict[str, Any]:
    """One detector on one set, in this process."""
    import resource

    import numpy as np

    from benchmarks import table_peers
    from pipeline import metrics
    from pipeline.parts.rows import ROWS

    def run(make: Callable[[], Any], seed: int) -> tuple[float, Any, Any]:
        train, test, label = views(path, seed, labels)
        detector = make()
        started = time.perf_counter()
        detector.fit(train)
        sample = np.concatenate([detector.score(batch).sample for batch in test.batches(ROWS)])
        return time.perf_counter() - started, label, sample

    def make(seed: int) -> Callable[[], Any]:
        detector = ours(name, options, seed)
        return lambda: table_peers.pyod(name, detector) if peer else detector

    warm, label, _ = run(make(0), 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = [run(make(seed), seed) for seed in range(seeds)] if warm < 120 else [run(make(0), 0)]
    train, test, _ = views(path, 0, labels)
    (first,) = test[:1].batches(1)
    return {
        "set": path.stem,
        "detector": name,
        "by": "pyod" if peer else "assay",
        "options": options,
        "labels": labels,
        "rows": len(train) + len(test),
        "columns": first.x.shape[1],
        "anomalies": float(label.mean()),
        "auroc": [round(metrics.auroc(label, sample), 5) for _, label, sample in found],
        "ap": [round(metrics.average_precision(label, sample), 5) for _, label, sample in found],
        "seconds": round(float(np.median([took for took, _, _ in found])), 4),
        "warm_mb": round(before),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of .npz files, or one of them")
    parser.add_argument("--detectors", required=True, help="names of table/ detectors, by commas")
    parser.add_argument("--options", default="{}", help="YAML: options of detectors, {knn: {neighbours: 10}}")
    parser.add_argument("--labels", type=float, default=0.0, help="share of the training anomalies that is labelled")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer", choices=["pyod"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--one", choices=["assay", "pyod"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    options = yaml.safe_load(chosen.options)
    if chosen.one:
        name = chosen.detectors
        line = measure(chosen.data, name, chosen.one == "pyod", options.get(name, {}), chosen.labels, chosen.seeds)
        print(json.dumps(line))
        return
    sets = sorted(chosen.data.glob("*.npz")) if chosen.data.is_dir() else [chosen.data]
    if not sets:
        raise SystemExit(f"{chosen.data} must hold .npz files with X and y, got none")
    by = ["assay", "pyod"] if chosen.peer else ["assay"]
    runs = [(path, name, one) for name in chosen.detectors.split(",") for path in sets for one in by]
    with chosen.out.open("a", encoding="utf-8") as out:
        for path, name, one in tracked(runs, len(runs), "tables", "runs"):
            own = ["--data", str(path), "--detectors", name, "--options", chosen.options, "--one", one]
            more = ["--labels", str(chosen.labels), "--seeds", str(chosen.seeds), "--out", os.devnull]
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.tables", *own, *more]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            out.write(done.stdout.splitlines()[-1] + "\n")
            out.flush()


if __name__ == "__main__":
    main()
