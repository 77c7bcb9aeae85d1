import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.table_page import page

ROOT = Path(__file__).parents[1]


def test_the_page_of_results_is_that_of_the_results_kept() -> None:
    folder = ROOT / "docs/results"
    lines = [json.loads(line) for line in (folder / "tables.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (folder / "tables.md").read_text(encoding="utf-8") == page(lines)


def test_measures_a_set_with_few_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [90, 10])
    np.savez(tmp_path / "one.npz", X=rng.normal(size=(100, 3)) + 9 * y[:, None], y=y)
    out = tmp_path / "out.jsonl"
    options = ["--detectors", "hbos", "--labels", "0.2", "--seeds", "2", "--out", str(out)]
    command = [sys.executable, "-m", "benchmarks.tables", "--data", str(tmp_path), *options]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    (line,) = [json.loads(text) for text in out.read_text().splitlines()]
    assert (line["set"], line["detector"], line["by"], line["rows"], line["columns"]) == (
        "one",
        "hbos",
        "assay",
        100,
        3,
    )
    assert line["auroc"] == [1.0, 1.0]
    assert line["seconds"] > 0
