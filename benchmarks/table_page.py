"""The page of results of `benchmarks.tables`: docs/results/tables.md.

python -m benchmarks.table_page docs/results/tables.jsonl > docs/results/tables.md
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.page import header

Line = dict[str, Any]
LARGE = 10_000  # rows from which speed is compared
PAGE = """# Detectors of tables on fourteen sets

Made by `python -m benchmarks.table_page docs/results/tables.jsonl`; measured on {machine}, beside other work: compare
seconds of one set and detector, whose runs followed one another, not across. Each line of that file came from

```sh
python -m benchmarks.tables --data ../shared/data/tabular --detectors DETECTORS [--labels SHARE] [--peer pyod] \\
    [--seeds 2] --out FILE.jsonl
```

70 % of the rows, stratified, are learned from without labels (but for the share of the anomalies given in `labels`),
the others judged, by raw scores; five splits, two for `smote_classifier` and `semi_supervised`. PyOD gets the rows as
our encoder makes them and our settings; its fit scores the training rows, too.

`auto` and `semi_supervised` were designed on inner splits of the training parts of the first seeds, on these same sets.
Rows trained on under one seed are tested on under another, so their figures here are not blind: new data may do worse.

## Means over the sets

{means}

## Beside PyOD's same detector

AUROC: ours minus PyOD's, the mean over the sets and the largest difference in either direction. `faster`: PyOD's
seconds over ours, on the sets of {large} rows or more.

{beside}

## AUROC of each set

{each}
"""


def means(lines: list[Line]) -> str:
    rows = header("detector", "by", "labels", "AUROC", "AP")
    for key in dict.fromkeys((line["detector"], line["by"], line["labels"]) for line in lines):
        own = [line for line in lines if (line["detector"], line["by"], line["labels"]) == key]
        figures = [f"{mean(mean(line[name]) for line in own):.3f}" for name in ("auroc", "ap")]
        rows.append(f"| {key[0]} | {key[1]} | {key[2] or ''} | {' | '.join(figures)} |")
    return "\n".join(rows)


def beside(lines: list[Line]) -> str:
    peers = {(line["detector"], line["set"]): line for line in lines if line["by"] == "pyod"}
    large = sorted({line["set"] for line in peers.values() if line["rows"] >= LARGE})
    rows = header("detector", "mean", "largest", *(f"faster on {name}" for name in large))
    for name in dict.fromkeys(detector for detector, _ in peers):
        own = {line["set"]: line for line in lines if line["detector"] == name and line["by"] == "assay"}
        apart = [mean(own[s]["auroc"]) - mean(peers[name, s]["auroc"]) for s in own]
        speed = [f"{peers[name, s]['seconds'] / own[s]['seconds']:.1f} times" for s in large]
        rows.append(f"| {name} | {mean(apart):+.4f} | {max(apart, key=abs):+.4f} | {' | '.join(speed)} |")
    return "\n".join(rows)


def each(lines: list[Line]) -> str:
    some = [line for line in lines if line["by"] == "assay"]
    keys = list(dict.fromkeys((line["detector"], line["labels"]) for line in some))
    rows = header("set", *(f"{name} {labels or ''}".strip() for name, labels in keys))
    for path in sorted({line["set"] for line in some}):
        found = {(line["detector"], line["labels"]): mean(line["auroc"]) for line in some if line["set"] == path}
        rows.append(f"| {path} | {' | '.join(f'{found[key]:.3f}' if key in found else '' for key in keys)} |")
    return "\n".join(rows)


def page(lines: list[Line]) -> str:
    machine = "; ".join(sorted({line["machine"] for line in lines}))
    parts = {"means": means(lines), "beside": beside(lines), "each": each(lines)}
    return PAGE.format(machine=machine, large=f"{LARGE:,}", **parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="what benchmarks.tables --out wrote")
    lines = [json.loads(line) for line in parser.parse_args().results.read_text(encoding="utf-8").splitlines()]
    print(page(lines), end="")


if __name__ == "__main__":
    main()
