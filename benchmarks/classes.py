"""Kinds of anomaly found without labels: AnomalyNCD beside k-means on frozen features.

    python -m benchmarks.classes --data DIR --split CSV --backbone NAME --weights FILE --out docs/results/classes.md

The anomalies of the split's `test` are clustered into as many classes as they have kinds (transductive, as in the
paper: they are what is learned from, without their kinds), beside the normals of `train`. A line of JSON per method and
seed, then the table. F1 is micro F1 after the best one-to-one match of clusters with kinds (Hungarian), so the share of
images in the right class; NMI and ARI are scikit-learn's. An image without a class is wrong in F1. In NMI and ARI all
such images are one cluster, or each is one of its own, whichever gives less: as one they gain where they are alike, and
one by one NMI counts up (0.4 for 392 images in five kinds of which none has a class). With `--on calibrate` the
anomalies are those that cut-paste and Perlin noise make of the normals of `calibrate`, and their kinds the four ways of
making them: so settings are chosen without a look at a test label.
"""

import argparse
import copy
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.images import KNOWN

# Of the paper on MTD, its set of magnetic tile defects: what it has over the best other with MuSc's maps; what it has
MARK = {"f1": 0.128, "nmi": 0.057, "ari": 0.108}
PAPER = {"f1": (0.509, 0.617), "nmi": (0.268, 0.380), "ari": (0.228, 0.390)}  # with MuSc's, with PatchCore's maps
WHOLE = "k-means, whole image"
OFF: dict[str, dict[str, Any]] = {
    "AnomalyNCD": {},
    "AnomalyNCD, no mask": {"guided": False},
    "AnomalyNCD, no correction": {"correction": 0.0},
    "AnomalyNCD, not trained": {"steps": 0},
}


def reached(kind: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """F1, NMI and ARI of clusters `found` (-1: none) against the kinds, both `(n,)`. Those of none are one cluster or
    as many as they are, whichever gives less."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    kinds, true = np.unique(kind, return_inverse=True)
    table = np.zeros((max(int(found.max()) + 1, 1), len(kinds)), int)
    np.add.at(table, (found[found >= 0], true[found >= 0]), 1)
    rows, columns = linear_sum_assignment(-table)
    f1 = float(table[rows, columns].sum() / len(kind))
    alone = np.where(found < 0, found.max() + 1 + np.arange(len(found)), found)
    return {
        "f1": f1,
        "nmi": min(float(normalized_mutual_info_score(true, each)) for each in (found, alone)),
        "ari": min(float(adjusted_rand_score(true, each)) for each in (found, alone)),
    }


def k_means(vectors: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Clusters `(n,)` of standardised `vectors` `(n, d)`."""
    from sklearn.cluster import KMeans

    spread = vectors.std(axis=0)
    return KMeans(classes, n_init=10, random_state=seed).fit_predict((vectors - vectors.mean(axis=0)) / (spread + 1e-9))


def of_regions(detector: Any, odd: Any, classes: int, seed: int) -> np.ndarray:
    """k-means on what a fitted AnomalyNCD sees, untrained, of the largest region of each image, looked at once; -1
    without one."""
    once, vectors, whose, at = copy.copy(detector), [], [], 0
    once.views = 1
    for batch in odd.batches(16):
        seen, image, area = once.regions(batch)
        for i in np.unique(image):
            own = np.flatnonzero(image == i)
            vectors.append(seen[own[area[own].argmax()], 0])
            whose.append(at + i)
        at += len(batch)
    found = np.full(len(odd), -1)
    found[whose] = k_means(np.stack(vectors), classes, seed)
    return found


def measured(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """A line per method and seed."""
    from benchmarks import regimes
    from pipeline.modalities.image import Image
    from pipeline.params import Params, build

    backbone: dict[str, Any] = {"name": chosen.backbone, **KNOWN.get(chosen.backbone, {})}
    if chosen.weights:
        backbone["weights"] = str(chosen.weights.resolve())
    size = [int(side) for side in chosen.size.split("x")]
    modality = build(Image, {"size": size, "fit": "stretch"}, "dataset", "benchmark")
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        rows = regimes.manifest(chosen, Path(chosen.split).stem, modality, Path(folder))
        train, test = regimes.parts(chosen, Path(chosen.split).stem, rows, modality, Path(folder))
        if chosen.normals:
            train = train.iloc[np.unique(np.linspace(0, len(train) - 1, chosen.normals).round().astype(int))]
        odd = test[test["label"] == 1].reset_index(drop=True)
        kind, samples = odd["defect"].to_numpy(), modality.samples(odd)
        both = modality.samples(pd.concat([train, odd.assign(mask="", defect="")]).reset_index(drop=True))
        classes = len(set(kind))
        more = {"classes": classes, **(yaml.safe_load(chosen.options) if chosen.options else {})}

        def add(method: str, seed: int, cluster: Callable[[], np.ndarray]) -> None:
            started = time.perf_counter()
            found = cluster()
            one = {"method": method, "set": Path(chosen.split).stem, "on": chosen.on, "seed": seed, "images": len(kind)}
            one |= {"classes": classes, "without": int((found < 0).sum()), **reached(kind, found)}
            lines.append({**one, "seconds": time.perf_counter() - started})
            print(json.dumps(lines[-1]), flush=True)

        for seed in range(chosen.seeds):
            for method in [name for name in OFF if name in chosen.methods.split(";")] if chosen.methods else OFF:
                section = {"detector": "image/anomalyncd", **more, **OFF[method], "seed": seed, "backbone": backbone}
                detector = Params({"candidates": {"x": section}}, Path("params.yaml")).detector("x")

                def found(own: Any = detector) -> np.ndarray:
                    own.fit(both)
                    return np.concatenate([own.classify(batch) for batch in samples.batches(16)])

                add(method, seed, found)
                if method == "AnomalyNCD":
                    whole = np.concatenate([detector.embed(batch) for batch in samples.batches(16)])
                    add(WHOLE, seed, lambda x=whole, s=seed: k_means(x, classes, s))
                    add(
                        "k-means, region under its mask",
                        seed,
                        lambda d=detector, s=seed: of_regions(d, samples, classes, s),
                    )
                if method == "AnomalyNCD, no mask":
                    add("k-means, region", seed, lambda d=detector, s=seed: of_regions(d, samples, classes, s))
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """Means and spreads over the seeds, as Markdown; gains over the best of its k-means in each metric."""
    frame = pd.DataFrame(lines)
    plain = frame[frame["method"].str.startswith("k-means")].groupby("method")[list(MARK)].mean().max()
    rows = ["| method | F1 | NMI | ARI | without a class |", "|---|---|---|---|---|"]
    for method in sorted(set(frame["method"]), key=lambda name: (name.startswith("Anomaly"), name)):
        own = frame[frame["method"] == method]
        cells = [f"{100 * own[key].mean():.1f} ± {100 * own[key].std(ddof=0):.1f}" for key in MARK]
        rows.append(f"| {method} | {' | '.join(cells)} | {own['without'].mean():.0f} of {own['images'].iloc[0]} |")
    if (frame["method"] == "AnomalyNCD").any():
        ours = frame[frame["method"] == "AnomalyNCD"][list(MARK)].mean()
        whole = frame[frame["method"] == WHOLE][list(MARK)].mean()
        for words, other in ((f"gain over {WHOLE}", whole), ("gain over the best k-means above", plain)):
            gains = [f"{100 * (ours[key] - other[key]):+.1f}" for key in MARK]
            rows.append(f"| {words} | {' | '.join(gains)} | |")
    gains = [f"{100 * MARK[key]:+.1f}" for key in MARK]
    rows.append(f"| the paper's gain over the best other, on MTD | {' | '.join(gains)} | |")
    for i, maps in enumerate(("MuSc", "PatchCore")):
        cells = [f"{100 * PAPER[key][i]:.1f}" for key in PAPER]
        rows.append(f"| the paper's, maps of {maps}, on MTD | {' | '.join(cells)} | |")
    return "\n".join(rows) + "\n"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that the split's paths are relative to")
    parser.add_argument("--split", required=True, help="CSV: path,label,defect,mask,group,split")
    parser.add_argument("--backbone", default="filterbank", help="a timm name")
    parser.add_argument("--weights", type=Path, help="its .safetensors file")
    parser.add_argument("--size", default="224x224", help="height x width of the images")
    parser.add_argument("--on", default="test", choices=("test", "calibrate"))
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--normals", type=int, default=0, help="how many of the normals of train; 0: all")
    parser.add_argument("--methods", help=f"some of {'; '.join(OFF)}, with semicolons; all by default")
    parser.add_argument("--options", help="params of AnomalyNCD, as YAML: {steps: 100}")
    parser.add_argument("--out", type=Path, help="write the table to this page")
    parser.set_defaults(together=False, unseen=False, labelled=0.0)
    return parser


def main() -> None:
    chosen = arguments().parse_args()
    found = table(measured(chosen))
    print(found)
    if chosen.out:
        command = shlex.join(["python", "-m", "benchmarks.classes", *sys.argv[1:]])
        chosen.out.write_text(page(command, found), encoding="utf-8")


def page(command: str, found: str) -> str:
    """The page of results."""
    return f"""# Kinds of anomaly, found without labels

Made by `{command}`.

AnomalyNCD (Huang et al., CVPR 2025, https://arxiv.org/abs/2410.14379) clusters anomalies into kinds. Here it sees the
anomalies of the test part (with `--on calibrate`, those made of the normals of `calibrate`) without their kinds, beside
the normals of training, as in the paper. The k-means of the table see the same frozen features: of the whole image, of
what is cut out around the image's largest region, or of that region under its mask, as their names say. Means over the
seeds, in percent, and the standard deviation between them; the best k-means is that of each metric.

{found}
k-means of regions has the first half of the method, binarisation and masks, and lacks the second, what is learned.
What is learned begins at centres of k-means, of regions looked at in several ways. The default settings were chosen on
the 119 anomalies of mvtec_screw, of five kinds, on two uneven draws of these, and on synthetic anomalies, so figures of
other anomalies do not flatter, and those of mvtec_screw do.
F1 is micro F1 after the best one-to-one match of clusters with kinds; an image without a class is wrong in it. NMI and
ARI of the table count such images as one cluster or as one each, whichever gives less. The paper's figures are of its
own set of magnetic tile defects (MTD), with DINO's ViT-B/8, which it trains further, with labelled defects of another
data set, and with the normals of the test part as a kind of their own; ours are of the backbone of the command, which
stays as it is, and without both.
"""


if __name__ == "__main__":
    main()
