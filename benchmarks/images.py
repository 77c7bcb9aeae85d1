"""Image detectors on a labelled set: how well, how fast, how large; beside anomalib's on the same split and weights.

    python -m benchmarks.images --data DIR --split CSV --detectors patchcore,padim --backbone NAME --weights FILE \\
        --peer anomalib --out FILE.jsonl
    python -m benchmarks.images --data DIR --split CSV --line examples/mvtec_screw --out FILE.jsonl

One JSON line per detector, each measured in a process of its own. `--line` takes the candidates and the `dataset`
options of a params.yaml. Trained on the split's `train`, measured on its `test`; its `calibrate` is only looked at with
`--on calibrate`: then those normals are told from cut-paste and Perlin anomalies made of them, which is how settings
are chosen without a look at a test label. `--labelled` gives a share of the test's defects to training instead; with
`--on given` half of them are, and the other half is told from the normals of `calibrate`: the same, for lines that have
some (with `--withheld` all are told and none given).
The peer (pip install -e ".[bench]") gets its images squashed to `--size`, as its defaults do.

`images_per_s` counts decoding, resizing, forward and head. `bare_per_s` is timm's own network on images in memory, at
the same batch size; `folded_per_s` the same network as this project runs it; with a bank,
`bound_per_s` is the latter and one matrix product of patches by bank. `before_mb` is the peak memory before training
starts: Python, torch, timm and what else was imported; `peak_mb` that at the end.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from pipeline import detectors
from pipeline.tables import find

BATCH = 16
MOBILENET = {"levels": [2, 3], "mean": [0.5] * 3, "std": [0.5] * 3, "extra": {"pad_type": "same", "bn_eps": 1e-5}}
KNOWN = {"mobilenetv2_100": MOBILENET}  # what goes with the weights in ../shared/weights (its README)


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
        own = more.get(name, {})
        sections[name] = {"detector": f"image/{name}", **own}
        if any(field.name == "backbone" for field in fields(find(detectors, f"image/{name}", "--detectors"))):
            sections[name]["backbone"] = {**backbone, **own.get("backbone", {})}
        if "bank" in own:
            sections[name]["bank"] = {**own["bank"], "backbone": backbone}
    return {"size": [height, width], "fit": chosen.fit}, sections


def measure(chosen: argparse.Namespace, name: str, peer: bool) -> dict[str, Any]:
    """One detector, in this process."""
    import resource

    import numpy as np
    import pandas as pd
    import torch

    from benchmarks import peers
    from pipeline import metrics, scoring
    from pipeline.modalities.image import Image
    from pipeline.params import Params, build
    from pipeline.samples import read_manifest

    options, sections = candidates(chosen)
    if peer:
        options = {"size": options["size"], "fit": "stretch"}
        detector = peers.anomalib(name, sections[name])
    else:
        detector = Params({"candidates": sections}, Path("params.yaml")).detector(name)
    modality = build(Image, options, "dataset", "benchmark")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for one in chosen.data.resolve().iterdir():  # a manifest must lie beside its images
            (out / "source" / one.name).parent.mkdir(exist_ok=True)
            (out / "source" / one.name).symlink_to(one)
        source = out / "source" / "this_split.csv"
        source.write_bytes(chosen.split.read_bytes())
        modality.ingest(source, out, out)
        rows = read_manifest(out)
        train, test = rows[rows["split"] == "train"], rows[rows["split"] == "test"]
        if chosen.on == "calibrate":
            test = synthetic(modality, rows[rows["split"] == "calibrate"], out)
        if chosen.labelled:
            given = test[test["label"] == 1].groupby("defect").sample(frac=chosen.labelled, random_state=0)
            test = test.drop(given.index)
            if chosen.on == "given":
                taught = (given.groupby("defect").cumcount() % 2 == 1) & (not chosen.withheld)
                train = pd.concat([train, given[taught]])
                test = pd.concat([rows[rows["split"] == "calibrate"], given[~taught]])
            elif not chosen.withheld:
                train = pd.concat([train, given.assign(mask="") if chosen.unmasked else given])
        before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        detector.fit(modality.samples(train.reset_index(drop=True)))
        fit_s = time.perf_counter() - started
        test = test.reset_index(drop=True)
        samples = modality.samples(test)
        result = {"detector": name, "by": "anomalib" if peer else "assay", "set": chosen.split.stem, "on": chosen.on}
        result |= {"params": told(sections[name]), "dataset": options, "train": len(train), "test": len(test)}
        result |= {"labels": labels(chosen)} if chosen.labelled else {}
        if not chosen.quick:
            before = time.perf_counter()
            scoring.score(detector, samples, BATCH, keep_local=False)
            result["images_per_s"] = len(test) / (time.perf_counter() - before)
        result["fit_s"], result["before_mb"] = fit_s, before_mb
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # maps are not held until then
        if not peer and not chosen.quick:
            result |= speeds(detector, options["size"], sections[name], torch)
        scored = scoring.score(detector, samples, BATCH, keep_local=True)
        label, scores = test["label"].to_numpy(), scored.scores.sample
        result |= {"image_auroc": metrics.auroc(label, scores), "ap": metrics.average_precision(label, scores)}
        if scored.scores.local is not None:
            result |= modality.local_metrics(scored.truth, scored.scores.local)
        good = scores[label == 0]
        for defect in sorted(set(test["defect"][label == 1])):
            both = np.concatenate([good, scores[(test["defect"] == defect) & (label == 1)]])
            result[f"auroc.{defect}"] = metrics.auroc(np.arange(len(both)) >= len(good), both)
    result["threads"], result["torch"], result["machine"] = torch.get_num_threads(), torch.__version__, machine()
    return result


def told(section: dict[str, Any]) -> dict[str, Any]:
    """A params section with the name of its weights file, not where it lies."""
    found = {key: told(value) if isinstance(value, dict) else value for key, value in section.items()}
    return {**found, "weights": Path(found["weights"]).name} if "weights" in found else found


def machine() -> str:
    """The processor's name and the number of cores."""
    info = Path("/proc/cpuinfo")
    names = (
        [row.split(":")[1] for row in info.read_text().splitlines() if row.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{(names or [platform.processor()])[0].strip()}, {os.cpu_count()} cores"


def labels(chosen: argparse.Namespace) -> str:
    """What training was given of the test's defects."""
    if chosen.on == "given":
        return f"{chosen.labelled:.0%} of the defects, {'all' if chosen.withheld else 'half given, half'} told"
    given = "not given" if chosen.withheld else "given without masks" if chosen.unmasked else "given with masks"
    return f"{chosen.labelled:.0%} of the defects {given}"


def synthetic(modality: Any, normals: Any, out: Path) -> Any:
    """Manifest rows of `normals` and of the anomalies that both augmenters make of them, plain ones and faint ones."""
    import pandas as pd

    from pipeline.augmenters.cutpaste import CutPaste
    from pipeline.augmenters.perlin import Perlin
    from pipeline.samples import read_manifest

    makers = {
        "perlin": Perlin(share=1.0),
        "cutpaste": CutPaste(share=1.0),
        "faint": Perlin(share=1.0, opacity=(0.1, 0.4), finest=6, seed=1),
        "scar": CutPaste(share=1.0, shape="scar", seed=1),
    }
    made = [normals]
    for name, augmenter in makers.items():
        folder = out / name
        folder.mkdir()
        modality.save(augmenter.augment(modality.samples(normals)), folder)
        rows = read_manifest(folder)
        made.append(rows.assign(defect=name, id=name + "/" + rows["id"]))
    return pd.concat(made)


def speeds(detector: Any, size: list[int], section: dict[str, Any], torch: Any) -> dict[str, float]:
    """Images per second of the bare backbone and, for a bank, of backbone and one matrix product."""
    import numpy as np

    from benchmarks.peers import plain
    from pipeline.parts import features
    from pipeline.parts.features import Backbone

    backbone = Backbone(**section.get("backbone", {}))
    if backbone.name == features.backbones.FILTERBANK:
        return {}
    x = np.random.default_rng(0).integers(0, 256, (BATCH, 3, *size), dtype=np.uint8)
    net, images = plain(section["backbone"]), torch.from_numpy(x).float()
    ours = features.load(backbone, tuple(backbone.levels or (2, 3)))

    def rate(run: Callable[[], object], rounds: int = 12) -> float:
        with torch.inference_mode():
            run()
            started = time.perf_counter()
            for _ in range(rounds):
                run()
        return BATCH * rounds / (time.perf_counter() - started)

    found = {"bare_per_s": rate(lambda: net(images)), "folded_per_s": rate(lambda: ours.maps(x))}
    bank = getattr(detector, "bank_", None)
    if bank is not None:
        maps = ours.maps(x)
        patches = torch.rand(BATCH * maps[0].shape[2] * maps[0].shape[3], bank.shape[1])
        found["bound_per_s"] = rate(lambda: (ours.maps(x), patches @ bank.T))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that the split's paths are relative to")
    parser.add_argument("--split", type=Path, required=True, help="CSV: path,label,defect,mask,group,split")
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
    parser.add_argument("--peer", choices=("anomalib",), help="measure its models, too")
    parser.add_argument("--quick", action="store_true", help="no speeds")
    parser.add_argument("--out", type=Path, help="append the lines to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        by, name = chosen.one.split(":")
        print(json.dumps(measure(chosen, name, by == "peer")))
        return
    if chosen.on == "given" and not chosen.labelled:
        parser.error("--on given needs --labelled")
    if not chosen.line and not chosen.detectors:
        parser.error("--detectors or --line is needed")
    from benchmarks.page import table

    lines = []
    for name in candidates(chosen)[1]:
        for by in ("own", "peer") if chosen.peer else ("own",):
            command = [sys.executable, "-m", "benchmarks.images", *sys.argv[1:], "--one", f"{by}:{name}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                print(f"{by} {name} failed, see above", file=sys.stderr)
                continue
            lines.append(json.loads(done.stdout.splitlines()[-1]))
            if chosen.out:
                with chosen.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))
    if not lines:
        sys.exit(1)


if __name__ == "__main__":
    main()
