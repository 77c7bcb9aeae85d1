"""Image detectors on labelled sets: how well, how fast, how large; beside anomalib's on the same split and weights.

    python -m benchmarks.images --data DIR --split CSV[,CSV] --detectors patchcore,padim --backbone NAME \\
        --weights FILE --peer anomalib --ablate --out FILE.jsonl
    python -m benchmarks.images --data DIR --split CSV --line examples/mvtec_screw --out FILE.jsonl

One JSON line per detector and set, each measured in a process of its own. `--line` takes the candidates and the
`dataset` options of a params.yaml. Trained on the split's `train`, measured on its `test`; its `calibrate` is only
looked at with `--on calibrate`: then those normals are told from cut-paste and Perlin anomalies made of them, which is
how settings are chosen without a look at a test label. `--labelled` gives a share of the test's defects to training
instead; with `--on given` half of them are, and the other half is told from the normals of `calibrate`: the same, for
lines that have some (with `--withheld` all are told and none given).
The peer (pip install -e ".[bench]") gets its images squashed to `--size`, as its defaults do, and as many steps of as
many images as ours; where it cannot run, its line says why.

Regimes beside one model per set:
  `--together`   one model for all sets, each a category of it; figures are means over the categories
  `--shots N`    only N normal images of `train` (of each category), drawn anew `--draws` times; figures are means
  `--whole`      the whole test part is scored as one batch, for methods that learn from that batch alone
  `--unseen`     each set is measured with what the others taught: all their images, labels and masks; with `--shots`
                 training also holds N normal images of the set itself
Options that a method needs in a regime stand in benchmarks/methods.yaml. `--ablate` measures each detector again with
each thing switched off that is named there, without speeds.

`images_per_s` counts decoding, resizing, forward and head; `score_ms` is its inverse, `train_ms` the time of training
by image of `train`. `bare_per_s` is timm's own network on images in memory, at the same batch size; `folded_per_s` the
same network as this project runs it; with a bank of patches of its maps, `bound_per_s` is the latter and one
matrix product of patches by bank. `before_mb` is the peak memory before training starts: Python, torch, timm, what else
was imported and the detector as it was made; `peak_mb` that at the end. On a GPU, `epoch_s` is the time of training by
pass over `train` and `memory_per_s` images in memory scored per second. `revision` is the commit measured, with a +
where pipeline/ or benchmarks/ differed from it. `at_once`: figures are of the whole test as one batch, speeds and
memory of batches.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from benchmarks import regimes
from benchmarks.methods import Method, methods
from pipeline import detectors
from pipeline.tables import find

MOBILENET = {"levels": [2, 3], "mean": [0.5] * 3, "std": [0.5] * 3, "extra": {"pad_type": "same", "bn_eps": 1e-5}}
KNOWN = {"mobilenetv2_100": MOBILENET}  # what goes with the weights in ../shared/weights (its README)


@dataclass(frozen=True)
class Run:
    """What one process measures: a detector (ours or the peer's) on `set`, with what `ablation` names switched off."""

    set: str
    name: str
    peer: bool = False
    ablation: str = ""


def candidates(chosen: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the modality, and a params section per detector."""
    if chosen.line:
        sections = yaml.safe_load((chosen.line / "params.yaml").read_text(encoding="utf-8"))
        dataset = {k: v for k, v in sections["dataset"].items() if k not in ("source", "watch", "kind")}
        root = (chosen.line / "params.yaml").parent
        for section in sections["candidates"].values():
            for own in (section, section.get("bank", {})):
                weights = own.get("backbone", {}).get("weights", "none")
                if weights not in ("none", "pretrained"):
                    own["backbone"] = {**own["backbone"], "weights": str((root / weights).resolve())}
        wanted = chosen.detectors.split(",") if chosen.detectors else list(sections["candidates"])
        return dataset, {name: sections["candidates"][name] for name in wanted}
    height, width = (int(side) for side in chosen.size.split("x"))
    backbone = {"name": chosen.backbone, **KNOWN.get(chosen.backbone, {})}
    if chosen.weights:
        backbone["weights"] = str(chosen.weights.resolve())
    more = yaml.safe_load(chosen.options) if chosen.options else {}
    sections = {}
    for name in chosen.detectors.split(","):
        own = {**methods().get(name, Method()).regimes.get(regimes.regime(chosen), {}), **more.get(name, {})}
        sections[name] = {"detector": f"image/{name}", **own}
        if any(field.name == "backbone" for field in fields(find(detectors, f"image/{name}", "--detectors"))):
            sections[name]["backbone"] = {**backbone, **own.get("backbone", {})}
        if "bank" in own:
            sections[name]["bank"] = {**own["bank"], "backbone": backbone}
    return {"size": [height, width], "fit": chosen.fit}, sections


def line(chosen: argparse.Namespace, run: Run) -> dict[str, Any]:
    """The line of one run, measured in this process; of a peer that cannot run, with the reason."""
    from benchmarks.image_runs import measure, revision

    if run.ablation:  # its cost says nothing of the method
        chosen = argparse.Namespace(**{**vars(chosen), "quick": True})
    options, sections = candidates(chosen)
    off = methods()[run.name].ablation[run.ablation] if run.ablation else {}
    section = regimes.filled({**sections[run.name], **off}, chosen, run.set)
    if run.peer:
        options = {"size": options["size"], "fit": "stretch"}
    found = {
        "detector": run.name,
        "by": "anomalib" if run.peer else "assay",
        "set": run.set,
        "on": chosen.on,
        **revision(),
    }
    found |= {"params": told(section), "dataset": options} | regimes.told(chosen, run.set)
    found |= {"labels": regimes.labels(chosen)} if chosen.labelled else {}
    found |= {"ablation": run.ablation, "off": off} if run.ablation else {}
    try:
        return found | measure(chosen, run.name, run.peer, run.set, section, options)
    except (Exception, SystemExit) as error:
        if not run.peer:
            raise
        return found | {"failed": " ".join(str(error).split()) or type(error).__name__}


def told(section: dict[str, Any]) -> dict[str, Any]:
    """A params section with the name of its weights file, not where it lies."""
    found = {key: told(value) if isinstance(value, dict) else value for key, value in section.items()}
    return {**found, "weights": Path(found["weights"]).name} if "weights" in found else found


def runs(chosen: argparse.Namespace) -> list[Run]:
    """All that a command measures, in order: what is compared is measured one after the other."""
    found = []
    for name in candidates(chosen)[1]:
        for one in regimes.measured(chosen):
            found += [Run(one, name), *([Run(one, name, peer=True)] if chosen.peer else [])]
            off = methods().get(name, Method()).ablation if chosen.ablate else {}
            found += [Run(one, name, ablation=words) for words in off]
    return found


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that the split's paths are relative to")
    parser.add_argument("--split", required=True, help="CSV, several with commas: path,label,defect,mask,group,split")
    parser.add_argument("--detectors", help="names, with commas; of a line all by default")
    parser.add_argument("--line", type=Path, help="folder of a params.yaml to take dataset options and candidates from")
    parser.add_argument("--backbone", default="filterbank", help="a timm name")
    parser.add_argument("--weights", type=Path, help="its .safetensors file")
    parser.add_argument("--options", help="more params per detector, as YAML: {patchcore: {coreset: 0.1}}")
    parser.add_argument("--size", default="224x224", help="height x width of the images")
    parser.add_argument("--fit", default="letterbox", choices=("letterbox", "native", "stretch"))
    parser.add_argument("--on", default="test", choices=("test", "calibrate", "given"))
    parser.add_argument("--labelled", type=float, default=0.0, help="share of the test's defects given to training")
    parser.add_argument("--unmasked", action="store_true", help="give them without their masks")
    parser.add_argument("--withheld", action="store_true", help="take them out of the test, but do not train on them")
    parser.add_argument("--together", action="store_true", help="one model for all sets, each a category")
    parser.add_argument("--shots", type=int, default=0, help="normal images to train on, of each category")
    parser.add_argument("--draws", type=int, default=1, help="times that these are drawn")
    parser.add_argument("--whole", action="store_true", help="score the test part as one batch")
    parser.add_argument("--unseen", action="store_true", help="measure each set with what the others taught")
    parser.add_argument("--ablate", action="store_true", help="measure again with each thing of methods.yaml off")
    parser.add_argument("--peer", choices=("anomalib",), help="measure its models, too")
    parser.add_argument("--quick", action="store_true", help="no speeds")
    parser.add_argument("--out", type=Path, help="append the lines to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def checked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line's arguments, where they go together."""
    chosen = parser.parse_args()
    several = len(regimes.sets(chosen)) > 1
    wrong = {
        "--on given needs --labelled": chosen.on == "given" and not chosen.labelled,
        "--detectors or --line is needed": not chosen.line and not chosen.detectors,
        "--together and --unseen need two sets or more in --split": (chosen.together or chosen.unseen) and not several,
        "--together and --unseen exclude each other": chosen.together and chosen.unseen,
        "--shots must be 0 or more": chosen.shots < 0,
        "--draws must be 1 or more, and needs --shots": chosen.draws < 1 or (chosen.draws > 1 and not chosen.shots),
        "--shots goes without --labelled: what is drawn are to be normals": chosen.shots and chosen.labelled,
        "--on calibrate goes without --labelled: its anomalies are made": chosen.on == "calibrate" and chosen.labelled,
        "--unseen goes without --labelled: of the other sets all is given": chosen.unseen and chosen.labelled,
    }
    for message in (message for message, holds in wrong.items() if holds):
        parser.error(message)
    return chosen


def main() -> None:
    chosen = checked(arguments())
    if chosen.one:
        print(json.dumps(line(chosen, Run(**json.loads(chosen.one)))))
        return
    from benchmarks.image_tables import failures, table

    lines, failed = [], 0
    for run in runs(chosen):
        command = [sys.executable, "-m", "benchmarks.images", *sys.argv[1:], "--one", json.dumps(asdict(run))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{run} failed, see above", file=sys.stderr)
            failed += 1
            continue
        lines.append(json.loads(done.stdout.splitlines()[-1]))
        if chosen.out:
            with chosen.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines), failures(lines), sep="\n")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
