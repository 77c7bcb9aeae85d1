"""The page of results of `benchmarks.images`: docs/results/images.md.

python -m benchmarks.page FILE.jsonl > docs/results/images.md
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.images import KNOWN

QUALITY = ("image_auroc", "ap", "pixel_auroc", "aupro")
COST = ("fit_s", "images_per_s", "bare_per_s", "bound_per_s", "before_mb", "peak_mb")
Line = dict[str, Any]
PAGE = """# Image detectors on three sets

Made by `python -m benchmarks.page docs/results/images.jsonl`; measured on {machine}. Each line of that file came from

```sh
python -m benchmarks.images --data ../shared/data --split ../shared/data/splits/SET.csv --detectors DETECTOR \\
    --backbone mobilenetv2_100 --weights ../shared/weights/mobilenetv2_100.safetensors --size 224x224 --fit stretch \\
    --peer anomalib --options '{{DETECTOR: {{...}}}}' --out FILE.jsonl   # settings; defects given with --labelled 0.1
python -m benchmarks.images --data ../shared/data --split ../shared/data/splits/SET.csv --line examples/SET \\
    --out FILE.jsonl                                                 # other sizes, unlabelled: the lines in examples/
```

Scores are raw. Rows of one detector, ours and anomalib's, were measured one after the other. `images_per_s` counts
decoding, resizing, forward and head; `bare_per_s` is timm's network alone, images in memory; `bound_per_s` the network
as this project runs it and one product of patches by bank. `before_mb` is the peak memory before training: Python,
torch, timm and the like; `peak_mb` that at the end. Where speeds are missing, they were not measured (`--quick`).

{table}

## Settings of magnetic_tile, judged without its test

By `--on given --labelled 0.1` (with `--withheld` where all are told): calibration normals against defects that training
is given, or half of them where it learns from the other half.

{judged}

## Beside anomalib, on the same images, weights and settings

Ours minus anomalib's, by raw scores; `faster` compares the seconds of training and scoring the test together; `memory`
is our share of its peak, and of what it took beyond `before_mb`.

{beside}

## Image AUROC by class of defect

{classes}
"""


def table(lines: list[Line], keys: tuple[str, ...] = (*QUALITY, *COST)) -> str:
    """The results as a table in Markdown."""
    rows = header("set", "detector", "by", "size", "settings", *keys)
    for line in lines:
        cells = [f"{line[key]:.{3 if key in QUALITY else 1}f}" if key in line else "" for key in keys]
        told = [line["set"], line["detector"], line["by"], size(line), settings(line)]
        rows.append("| " + " | ".join(told + cells) + " |")
    return "\n".join(rows)


def header(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


def size(line: Line) -> str:
    return " x ".join(map(str, line["dataset"]["size"])) + f" {line['dataset'].get('fit', 'letterbox')}"


def settings(line: Line) -> str:
    """What differs from the defaults, and what training was given of the defects."""
    told = [_told(key, value) for key, value in line["params"].items() if key not in ("detector", "backbone")]
    backbone = line["params"].get("backbone", {})
    levels = backbone.get("levels")
    if levels != KNOWN.get(backbone.get("name"), {}).get("levels"):
        told.append(f"levels {levels}")
    return ", ".join(told + [line[key] for key in ("labels",) if key in line])


def _told(key: str, value: Any) -> str:
    """An option, or a wrapper with its own."""
    if not isinstance(value, dict):
        return f"{key} {value}"
    return f"{key} ({', '.join(f'{k} {v}' for k, v in value.items() if k != 'backbone')})"


def beside(lines: list[Line]) -> str:
    """Each line of ours that has one of anomalib's with the same set, size and settings, against that."""

    def same(line: Line) -> tuple[str, ...]:
        return line["set"], line["detector"], size(line), settings(line)

    peers = {same(line): line for line in lines if line["by"] == "anomalib"}
    rows = header("set", "detector", "settings", "image_auroc", "aupro", "faster", "memory", "beyond before_mb")
    for own in lines:
        peer = peers.get(same(own))
        if own["by"] == "anomalib" or peer is None:
            continue
        cells = [f"{own[key] - peer[key]:+.3f}" for key in ("image_auroc", "aupro")]
        cells.append(f"{seconds(peer) / seconds(own):.1f} times" if "images_per_s" in own else "")
        cells.append(f"{own['peak_mb'] / peer['peak_mb']:.0%}")
        known = "before_mb" in own and "before_mb" in peer
        cells.append(f"{beyond(own) / beyond(peer):.0%}" if known else "")
        rows.append("| " + " | ".join([own["set"], own["detector"], settings(own), *cells]) + " |")
    return "\n".join(rows)


def seconds(line: Line) -> float:
    return line["fit_s"] + line["test"] / line["images_per_s"]


def beyond(line: Line) -> float:
    return line["peak_mb"] - line["before_mb"]


def page(lines: list[Line]) -> str:
    """The whole page, with machine, commands and defect classes."""
    judged = [line for line in lines if line["on"] != "test"]
    lines = [line for line in lines if line["on"] == "test"]
    made = sorted({f"{line['machine']}, torch {line['torch']}" for line in lines})
    classes = []
    for line in lines:
        found = ", ".join(f"{k.removeprefix('auroc.')} {v:.3f}" for k, v in line.items() if k.startswith("auroc."))
        if line["by"] == "assay" and found.count(","):
            told = ", ".join(part for part in (line["set"], line["detector"], size(line), settings(line)) if part)
            classes.append(f"- {told}: {found}")
    return PAGE.format(
        machine="; ".join(made),
        table=table(lines),
        judged=table(judged, QUALITY) if judged else "(none)",
        beside=beside(lines),
        classes="\n".join(classes) or "(one each)",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="what benchmarks.images --out wrote")
    chosen = parser.parse_args()
    lines = [json.loads(line) for line in chosen.results.read_text(encoding="utf-8").splitlines()]
    print(page(lines), end="")


if __name__ == "__main__":
    main()
