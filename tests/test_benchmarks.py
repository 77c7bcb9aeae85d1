"""The benchmarks run and their figures are of the right kind; how fast they are is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
from PIL import Image as Pil

from benchmarks.page import page
from tests.pictures import planted, stripes

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=True).stdout


def test_images_measures_a_detector_and_makes_its_page(tmp_path: Path) -> None:
    rows = []
    for kind, images in (("train", stripes(12, 0)), ("calibrate", stripes(4, 1)), ("test", planted(4, 2)[0])):
        for i, image in enumerate(images):
            Pil.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{kind}{i}.png")
            odd = kind == "test" and i == len(images) - 1
            rows.append({"path": f"{kind}{i}.png", "label": int(odd), "defect": "square" * odd, "split": kind})
    pd.DataFrame(rows).to_csv(tmp_path / "split.csv", index=False)
    given = ["--data", str(tmp_path), "--split", str(tmp_path / "split.csv"), "--size", "48x48"]
    out = tmp_path / "out.jsonl"
    run(
        "benchmarks.images",
        *given,
        "--detectors",
        "gaussian",
        "--options",
        "{gaussian: {maps: true}}",
        "--out",
        str(out),
    )
    line = json.loads(out.read_text())
    assert line["image_auroc"] == line["auroc.square"] == 1.0
    assert line["fit_s"] > 0
    assert line["images_per_s"] > 0
    assert (line["train"], line["test"]) == (12, 4)
    shown = run("benchmarks.page", str(out))
    assert shown == page([line])
    assert "| split | gaussian | assay | 48 x 48 letterbox | maps True | 1.000 |" in shown


def test_the_page_of_results_is_that_of_the_results_kept() -> None:
    kept = ROOT / "docs/results"
    lines = [json.loads(line) for line in (kept / "images.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (kept / "images.md").read_text(encoding="utf-8") == page(lines), "run python -m benchmarks.page"


def test_parts_are_measured() -> None:
    small = ["--points", "400", "--centres", "20", "--queries", "50", "--dims", "8", "--rounds", "1"]
    coreset = json.loads(run("benchmarks.parts", "coreset", *small).splitlines()[-1])
    assert 0 < coreset["own_radius"] < 10
    nearest = json.loads(run("benchmarks.parts", "nearest", *small).splitlines()[-1])
    assert nearest["of_product"] > 0
