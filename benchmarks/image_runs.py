"""One run of `benchmarks.images`: a detector fitted on some images, what it reaches on others, and what it takes."""

import subprocess
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks import peers, regimes
from benchmarks.machine import processor
from pipeline import metrics, scoring
from pipeline.modalities.image import Image
from pipeline.params import Params, build
from pipeline.parts import features
from pipeline.parts.device import device
from pipeline.parts.features import Backbone

BATCH = 16
TRACKED = ("--porcelain", "--untracked-files=no", "--", "pipeline", "benchmarks")
Line = dict[str, Any]


def measure(chosen: Namespace, name: str, peer: bool, which: str, section: Line, options: Line) -> Line:
    """The detector of a params section on the set `which`, in this process: the mean over the draws."""
    import resource

    def peak_mb() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def make() -> Any:
        own = Params({"candidates": {name: section}}, Path("params.yaml")).detector(name)
        return peers.anomalib(name, section, own, options["size"]) if peer else own

    modality = build(Image, options, "dataset", "benchmark")
    found, result = [], {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        rows = regimes.manifest(chosen, which, modality, Path(folder))
        train, test = regimes.parts(chosen, which, rows, modality, Path(folder))
        samples = modality.samples(test)
        size = len(test) if chosen.whole else BATCH
        ready = made(make, section)
        before_mb = peak_mb()
        for seed in range(chosen.draws):
            some = regimes.drawn(chosen, which, train, seed)
            detector = make() if seed else ready
            started = time.perf_counter()
            detector.fit(modality.samples(some))
            took = time.perf_counter() - started
            one = {"train": len(some), "test": len(test), "fit_s": took, "train_ms": 1000 * took / len(some)}
            if not chosen.quick:
                before = time.perf_counter()
                scoring.score(detector, samples, size, keep_local=False)
                seconds = time.perf_counter() - before
                one |= {"images_per_s": len(test) / seconds, "score_ms": 1000 * seconds / len(test)}
            one |= {"before_mb": before_mb, "peak_mb": peak_mb()}  # maps are not held until then
            if not chosen.quick and seed == 0:
                result |= speeds(detector, options["size"], section) if not peer else {}
                result |= on_gpu(detector, samples, one) if device().type == "cuda" else {}
            judged = size
            if getattr(detector, "at_once", False):
                judged, result["at_once"] = len(test), True
            found.append((one, figures(modality, test, scoring.score(detector, samples, judged, keep_local=True))))
    costs, reached = (mean([pair[at] for pair in found]) for at in (0, 1))
    spread = {"spread": float(np.std([pair[1]["image_auroc"] for pair in found]))} if chosen.draws > 1 else {}
    return {**costs, **result, **reached, **spread}


def made(make: Callable[[], Any], section: Line) -> Any:
    """A detector, with all imported that it needs: ours would import timm when it fits, a peer does when it is made."""
    if section.get("backbone", {}).get("name", features.backbones.FILTERBANK) != features.backbones.FILTERBANK:
        import_module("timm")
    return make()


def revision() -> Line:
    """The commit of the code measured, with + where pipeline/ or benchmarks/ differ from it; empty without git."""
    try:
        head, changed = (_git(*words) for words in (("rev-parse", "--short=12", "HEAD"), ("status", *TRACKED)))
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"revision": head + "+" * bool(changed)}


def _git(*words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parents[1]), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def figures(modality: Any, test: pd.DataFrame, scored: scoring.Scored) -> Line:
    """How well anomalies are told from normals: by category and as the mean over these where there are several."""
    category = test["category"].to_numpy()
    names = list(dict.fromkeys(category))
    if len(names) == 1:
        return _figures(modality, test, scored, np.arange(len(test)))
    each = {name: _figures(modality, test, scored, np.flatnonzero(category == name)) for name in names}
    plain = [{key: value for key, value in own.items() if not key.startswith("auroc.")} for own in each.values()]
    return {**mean(plain), "categories": each}


def _figures(modality: Any, test: pd.DataFrame, scored: scoring.Scored, at: np.ndarray) -> Line:
    label, defect = test["label"].to_numpy()[at], test["defect"].to_numpy()[at]
    scores, local, truth = scored.scores.sample[at], scored.scores.local, scored.truth
    found = {"image_auroc": metrics.auroc(label, scores), "ap": metrics.average_precision(label, scores)}
    if local is not None and truth is not None:
        found |= modality.local_metrics(truth[at], local[at])
    good = scores[label == 0]
    for kind in sorted(set(defect[label == 1])):
        both = np.concatenate([good, scores[(defect == kind) & (label == 1)]])
        found[f"auroc.{kind}"] = metrics.auroc(np.arange(len(both)) >= len(good), both)
    return found


def mean(lines: list[Line]) -> Line:
    """The mean of every number that all lines have, of what is below `categories` too."""
    found: Line = {}
    for key, value in lines[0].items():
        each = [line[key] for line in lines if key in line]
        if len(each) < len(lines):
            continue
        found[key] = mean(each) if isinstance(value, dict) else value if len(set(each)) == 1 else float(np.mean(each))
    return found


def machine() -> str:
    """The processor, and the GPU where there is one."""
    return processor() + (f", {torch.cuda.get_device_name()}" if device().type == "cuda" else "")


def on_gpu(detector: Any, samples: Any, costs: Line) -> Line:
    """Seconds per epoch of training, and images per second of those that lie in memory."""
    (batch,) = samples[:BATCH].batches(BATCH)
    found = {"memory_per_s": rate(lambda: detector.score(batch), len(batch))}
    if hasattr(detector, "steps") and hasattr(detector, "batch"):
        found["epoch_s"] = costs["fit_s"] * costs["train"] / (detector.steps * detector.batch)
    return found


def rate(run: Callable[[], object], images: int, rounds: int = 12) -> float:
    """Images per second of `run`, which looks at some."""
    with torch.inference_mode():
        run()
        started = time.perf_counter()
        for _ in range(rounds):
            run()
    return images * rounds / (time.perf_counter() - started)


def speeds(detector: Any, size: list[int], section: Line) -> Line:
    """Images per second of the bare backbone and, for a bank of patches of its maps, of it and one matrix product."""
    backbone = Backbone(**section.get("backbone", {}))
    if backbone.name == features.backbones.FILTERBANK:
        return {}
    x = np.random.default_rng(0).integers(0, 256, (BATCH, 3, *size), dtype=np.uint8)
    where = device()
    net, images = peers.plain(section["backbone"]).to(where), torch.from_numpy(x).float().to(where)
    ours = features.load(backbone, tuple(backbone.levels or (2, 3)))
    found = {"bare_per_s": rate(lambda: net(images), BATCH), "folded_per_s": rate(lambda: ours.maps(x), BATCH)}
    bank = getattr(detector, "bank_", None)
    maps = ours.maps(x)
    if bank is not None and bank.shape[1] == sum(level.shape[1] for level in maps):  # else of another network's
        patches = torch.rand(BATCH * maps[0].shape[2] * maps[0].shape[3], bank.shape[1], device=where)
        held = torch.as_tensor(bank).to(where)
        found["bound_per_s"] = rate(lambda: (ours.maps(x), patches @ held.T), BATCH)
    return found
