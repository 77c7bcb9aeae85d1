"""The page of results of `benchmarks.images`: docs/results/images.md.

python -m benchmarks.page FILE.jsonl > docs/results/images.md
"""

import argparse
import json
from pathlib import Path

from benchmarks import image_tables as tables
from benchmarks.image_tables import QUALITY, Lines, header, machine, table
from benchmarks.methods import methods

__all__ = ["header", "page", "table"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PAGE = """# Image detectors on three sets

Made by `python -m benchmarks.page docs/results/images.jsonl`, whose lines came from

```sh
python -m benchmarks.images --data ../shared/data --split ../shared/data/splits/SET.csv --detectors DETECTOR \\
    --backbone mobilenetv2_100 --weights ../shared/weights/mobilenetv2_100.safetensors --size 224x224 --fit stretch \\
    --peer anomalib --options '{{DETECTOR: {{...}}}}' --out FILE.jsonl   # settings; defects given with --labelled 0.1
python -m benchmarks.images --data ../shared/data --split ../shared/data/splits/SET.csv --line examples/SET \\
    --out FILE.jsonl                                                 # other sizes, unlabelled: the lines in examples/
sh benchmarks/images.sh ../shared FILE.jsonl                         # most of it in one go
```

measured on

{machines}

Scores are raw. Rows of one detector, ours and anomalib's, were measured one after the other.

## What the papers say, and what stands here

Below each detector stand backbone and machine; image AUROC is on {sets}, from top to bottom.
One model per set, 224 x 224 stretch, without labels where nothing else is said; the command is the one above with these
arguments. Papers measure mostly on other sets or splits, with larger backbones and images and many more steps, so
compare ours with anomalib's, not with theirs.

{papers}

## One model for all sets

By `--split SET,SET,SET --together`: image AUROC / AUPRO of each set and their means; `apart`: the mean image AUROC of
one model per set.

{all_class}

## Few normal images

By `--shots N --draws N`: image AUROC ± its population standard deviation over the draws / AUPRO. What is learned on
the other sets (`--unseen`) is given their labels and masks, and of the set itself the few normal images.

{few}

## No normal images

By `--whole` (the test images, unlabelled, are all that is known) or `--unseen` (the other sets are): image AUROC /
AUPRO.

{zero}

## What the ideas are worth

By `--ablate`: the whole method's image AUROC / AUPRO, and the difference when a part is switched off or set otherwise.
One run each. {unrest}

{ablations}

## One model per set

`images_per_s` counts decoding, resizing, forward and head; `bare_per_s` is timm's network alone, images in memory;
`bound_per_s` the network as this project runs it and one product of patches of its maps by bank.
`before_mb` is the peak memory before training: Python, torch, timm and the like; `peak_mb` that at the end. Where
speeds are missing, they were not measured (`--quick`).{gpu}{bare}

{table}

## With labelled defects

{labelled}

## Settings of magnetic_tile, judged without its test

By `--on given --labelled 0.1` (with `--withheld` where all are told): calibration normals against defects that training
is given, or half of them where it learns from the other half.

{judged}

## Beside anomalib, on the same images, weights and settings

Ours minus anomalib's, by raw scores; milliseconds of training by image of the training part and of scoring an image,
ours / anomalib's; `memory` is our share of its peak, and of what it took beyond `before_mb`. Networks that learn get as
many steps of as many images as ours, with anomalib's own losses, optimisers and widths; so few steps flatter ours:
rates and other settings of ours were chosen for them, on calibration normals of these sets and synthetic anomalies made
of those, while anomalib's are its defaults, meant for many steps and not chosen on these sets. Its Dinomaly and
INP-Former, made for vision transformers, get the levels of the backbone as tokens, as ours do: on the grid of the
finest, in standard deviations; its CFLOW as many images as have, at the finest level, the vectors that ours sees there
(at coarser levels it sees fewer than ours); its DRAEM noise, for want of textures, and the widths of ours. Its CFLOW
measures a map by the most likely position of its batch,
{cflow}. It has no AnomalyNCD,
DeSTSeg, FADeR, MuSc, OneNIP, ResAD, UniCon-HA or classifier of the kind here (2.7.0).{small}

{beside}
{failures}
## Image AUROC by class of defect

{classes}
"""
SMALL = """
Of what is named [above](#what-the-ideas-are-worth), a difference no larger than two runs of ours lie apart says
nothing."""
AT_ONCE = "here the whole test, as in the paper (16 images for its speed)"
BY_BATCH = "here 16 images, where the paper's is the whole test"
ON_GPU = " `epoch_s` is the time of a pass over the training part, `memory_per_s` images in memory scored per second."


def page(lines: Lines) -> str:
    """The whole page, with machines, commands and defect classes."""
    every = [line for line in lines if line["on"] == "test"]
    lines = tables.once(lines)
    judged = [line for line in lines if line["on"] != "test"]
    lines = [line for line in lines if line["on"] == "test"]
    whole = [line for line in lines if not {"regime", "ablation", "failed"} & set(line)]
    machines = dict(zip(sorted({machine(line) for line in lines if "torch" in line}), LETTERS, strict=False))
    failed, unrest = tables.failures(lines), tables.unrest(every)
    rivals = [line for line in lines if line["by"] == tables.PEER and line["detector"] == "cflow"]
    return PAGE.format(
        machines="\n".join(f"- {letter}: {name}" for name, letter in machines.items()),
        sets=", ".join(tables.names(lines)),
        papers=tables.papers(lines, methods(), machines),
        all_class=tables.all_class(lines),
        few=tables.few(lines, "few-shot"),
        zero=tables.few(lines, "zero-shot"),
        ablations=tables.ablations(every),
        unrest=unrest,
        cflow=AT_ONCE if all("at_once" in line for line in rivals if "failed" not in line) else BY_BATCH,
        small=SMALL if unrest else "",
        bare=tables.bare(whole),
        gpu=ON_GPU if any("epoch_s" in line for line in whole) else "",
        table=table([line for line in whole if "labels" not in line]),
        labelled=table([line for line in whole if "labels" in line]),
        judged=table(judged, QUALITY) if judged else "(none)",
        beside=tables.beside(lines),
        failures=f"\nWhat anomalib cannot do here:\n\n{failed}\n" if failed else "",
        classes=tables.classes(whole),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="what benchmarks.images --out wrote")
    chosen = parser.parse_args()
    lines = [json.loads(line) for line in chosen.results.read_text(encoding="utf-8").splitlines()]
    print(page(lines), end="")


if __name__ == "__main__":
    main()
