"""What each candidate of a line takes, beside what it reaches: fit seconds, samples per second, peak memory.

    python -m benchmarks.detectors --line examples/magnetic_tile

The line must have run (its split, models and reports are read). Each candidate is fitted again and scores the test part
again in a process of its own; imports do not count, decoding does. Prints a table in Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

METRICS = ("auroc", "ap", "pixel_auroc", "aupro", "false_alarm_rate", "detection_rate")


def measure(name: str) -> dict[str, float]:
    """Fit and score one candidate of the line in the working directory."""
    import resource

    import pandas as pd

    from pipeline import params, scoring
    from pipeline.samples import part, read_manifest
    from pipeline.stages import AUGMENTED, DATASET, SPLIT

    given = params.read()
    detector = given.detector(name)
    rows = pd.concat([part(DATASET, SPLIT, "train"), read_manifest(AUGMENTED)], ignore_index=True)
    started = time.perf_counter()
    detector.fit(given.modality.samples(rows))
    fitted = time.perf_counter()
    test = given.modality.samples(part(DATASET, SPLIT, "test"))
    scoring.score(detector, test, keep_local=False)
    scored = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"fit": fitted - started, "rate": len(test) / (scored - fitted), "peak_mb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--line", type=Path, required=True, help="the line's folder")
    parser.add_argument("--candidate", help="measure this one only, in this process, as JSON")
    chosen = parser.parse_args()
    os.chdir(chosen.line)
    if chosen.candidate:
        print(json.dumps(measure(chosen.candidate)))
        return
    print(f"| candidate | {' | '.join(METRICS)} | fit s | samples/s | peak MB |")
    print("|" + "---|" * (len(METRICS) + 4))
    for report in sorted(Path("reports/candidates").glob("*/metrics.json")):
        name = report.parent.name
        metrics = json.loads(report.read_text(encoding="utf-8"))
        command = [sys.executable, "-m", "benchmarks.detectors", "--line", ".", "--candidate", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        took = json.loads(done.stdout.splitlines()[-1])
        figures = [f"{metrics[m]:.3f}" if m in metrics else "" for m in METRICS]
        figures += [f"{took['fit']:.0f}", f"{took['rate']:.1f}", f"{took['peak_mb']:.0f}"]
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
