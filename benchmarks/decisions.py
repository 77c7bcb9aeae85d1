"""What decisions promise, held against real scores: false alarms, detection, false discoveries, and how fast.

    python -m benchmarks.decisions --data ../shared/data [--quick] [--out FILE.md]

Detectors of ours are trained on a part of the normals of some sets and score the others and the anomalies. For each set
the held-out normals' scores, as they are, are the population: the true false-alarm rate of a threshold is the share of
them above it, known exactly. Calibration scores are drawn from it with replacement, so they are independent and
distributed as the population, which is all that the promises ask for, however few scores it has and however good the
detector is. Such draws have many ties, which only make promises conservative: with ties broken at random, scores are as
good as continuous and the promises exact; but an alarm needs a score strictly above the threshold, so those equal to
it, some of which would then be alarms, are none. Where no threshold of a population has a rate near alpha (0.001 of 269
scores), the promise is kept but hardly tested.

`FalseAlarmRate.find` itself is asked for each resample's threshold. Exit status is 1 when a promise is missed by more
than three standard errors of the simulation, or when something is too slow; not for detection beside that of the
oracle, the lowest threshold whose true rate is at most alpha, which is a figure to reach.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.image_tables import header
from benchmarks.images import KNOWN
from benchmarks.machine import processor
from pipeline import detectors, metrics, threshold
from pipeline.parts.progress import tracked
from pipeline.plan import Plan
from pipeline.rules.conformal import Known, order
from pipeline.rules.f1 import F1
from pipeline.rules.false_alarm_rate import FalseAlarmRate
from pipeline.tables import find

TABLES = {
    "shuttle": ("32_shuttle.npz", "table/isolation_forest"),
    "mammography": ("23_mammography.npz", "table/isolation_forest"),
    "nsl_kdd": ("nsl_kdd", "table/isolation_forest"),
    "optdigits": ("26_optdigits.npz", "table/knn"),
    "satellite": ("30_satellite.npz", "table/knn"),
    "thyroid": ("38_thyroid.npz", "table/knn"),
    "cardio": ("6_cardio.npz", "table/knn"),
}
IMAGES = {"kolektorsdd": "image/patchcore", "magnetic_tile": "image/patchcore"}  # the first alone with --quick
NETWORK = "mobilenetv2_100"
ROWS, PICTURES = 5_000, 64  # that are trained on at most, of half of the normals

ALPHAS = (0.001, 0.01, 0.05)
COUNTS = (1_000, 3_000)  # calibration normals; 0.001 with confidence needs 2,995
SURE = 0.95
ERRORS = 3  # standard errors of the simulation
COMPARED = 0.01  # the false-alarm rate in the comparison of methods, at the first of COUNTS
CLOSE = 2  # points below the oracle's detection
DISCOVERIES, BATCH, ODD = 0.1, 1_000, 50  # rate of false discoveries; samples of a batch, anomalies among them
SPEED = {"calibrate": 2.0, "p_values": 1.0}  # seconds at most

HOW = {SURE: f"with {SURE:.0%} confidence", None: "on average"}
SETS, ORACLE = "Score sets", "Detection beside the oracle's"
CONFIDENT, AVERAGE = (f"Promised {how}" for how in HOW.values())
METHODS = f"Methods that are to keep {COMPARED:.0%}, from {COUNTS[0]:,} normals"
BATCHES = f"Benjamini-Hochberg at {DISCOVERIES:g}, batches of {BATCH:,} with {ODD} anomalies"
MORE = f" and {ERRORS} standard errors"
SECTIONS = {
    SETS: "The population's scores, and how many of them are different.",
    CONFIDENT: f"Share of resamples whose true rate is above alpha: at most {1 - SURE:.0%}{MORE}.",
    AVERAGE: f"Mean true rate: at most alpha{MORE}.",
    ORACLE: "Points of mean detection above (+) or below (-) that of the lowest threshold of a true rate within alpha.",
    METHODS: "Share of resamples whose true rate is above it / mean detection rate. A rate promised on average may be"
    " above it every second time. F1 is given a tenth as many labelled anomalies as normals, or what the set has.",
    BATCHES: f"Mean false-discovery proportion, at most {DISCOVERIES:g}{MORE} / mean power.",
}


@dataclass(frozen=True, eq=False)
class ScoreSet:
    """Sorted float32 scores of a set's held-out normals, the population, and of its anomalies."""

    name: str
    detector: str
    trained: int
    normals: np.ndarray
    anomalies: np.ndarray

    def generator(self, *seed: int) -> np.random.Generator:
        """Random numbers of this set's own."""
        return np.random.default_rng([*seed, *self.name.encode()])


class Cell(NamedTuple):
    """One figure of one set: where it stands, whether it is as it should be, and what to say of a broken promise."""

    section: str
    row: str
    text: str
    kept: bool = True
    says: str = ""


class Ready(NamedTuple):
    """Labelled samples, an unfitted detector, what to call it, how many to train on at most, and to score at a time."""

    samples: Any
    detector: Any
    called: str
    most: int
    batch: int


def score_sets(data: Path, weights: Path | None, names: list[str], seed: int) -> Iterator[ScoreSet]:
    """Train on a part of the normals of each set, score the rest."""
    for name in tracked(names, len(names), "train and score", "sets"):
        ready = table(data, name) if name in TABLES else images(data, name, weights)
        normals = np.random.default_rng(seed).permutation(np.flatnonzero(ready.samples.label == 0))
        train = np.isin(np.arange(len(ready.samples)), normals[: min(ready.most, len(normals) // 2)])
        detector, rest = ready.detector.fit(ready.samples[train]), ready.samples[~train]
        scores = np.concatenate([detector.score(batch).sample for batch in rest.batches(ready.batch)])
        scored = (np.sort(scores[rest.label == label]) for label in (0, 1))
        yield ScoreSet(name, ready.called, int(train.sum()), *scored)


def table(data: Path, name: str) -> Ready:
    """An .npz file, or the folder of NSL-KDD."""
    from pipeline.modalities.table import Table

    path, key = data / "tabular" / TABLES[name][0], TABLES[name][1]
    if path.is_dir():
        columns = pd.read_csv(path / "Field Names.csv", header=None)[0].tolist()
        rows = pd.read_csv(path / "KDDTrain+_20Percent.txt", header=None, names=[*columns, "attack", "difficulty"])
        label, frame = rows["attack"] != "normal", rows[columns]
    else:
        with np.load(path) as file:
            label, frame = file["y"], pd.DataFrame(file["X"]).add_prefix("x")
    samples = Table().from_frame(frame)
    samples.rows["label"] = np.asarray(label, np.int8)
    return Ready(samples, find(detectors, key, "detector")(), key, ROWS, 1 << 13)


def images(data: Path, name: str, weights: Path | None) -> Ready:
    """The images that the set's file in splits/ lists, at 224 x 224."""
    from pipeline.modalities.image import Image
    from pipeline.parts.backbones import Backbone

    rows = pd.read_csv(data / "splits" / f"{name}.csv")
    frame = pd.DataFrame({"path": [str(data / path) for path in rows["path"]]})
    samples = Image(size=(224, 224), fit="stretch").from_frame(frame)
    samples.rows["label"] = rows["label"].to_numpy(np.int8)
    backbone = Backbone(NETWORK, str(weights), **KNOWN[NETWORK]) if weights else Backbone()
    detector = find(detectors, IMAGES[name], "detector")(backbone=backbone)
    return Ready(samples, detector, f"{IMAGES[name]}, {backbone.name}", PICTURES, 16)


def above(scores: np.ndarray, thresholds: np.ndarray | float) -> np.ndarray:
    """The exact share of sorted float32 `scores` strictly above each threshold, as `threshold.decide` compares them."""
    return (len(scores) - np.searchsorted(scores, np.float32(thresholds), side="right")) / len(scores)


def oracle(normals: np.ndarray, alpha: float) -> float:
    """The lowest threshold that at most a share `alpha` of the sorted population `normals` exceeds."""
    return float(normals[len(normals) - 1 - floor(Fraction(repr(alpha)) * len(normals))])


def drawn(own: ScoreSet, n: int, resamples: int, seed: int) -> list[Known]:
    """Calibration sets of `n` normals, and of a tenth as many anomalies where the set has them, for F1."""
    rng = own.generator(seed, n)
    normals = np.sort(rng.choice(own.normals, (resamples, n)), axis=1)
    anomalies = np.sort(rng.choice(own.anomalies, (resamples, min(n // 10, len(own.anomalies)))), axis=1)
    return [Known(*both) for both in zip(normals, anomalies, strict=True)]


def outcome(own: ScoreSet, known: list[Known], method: Callable[[Known], float]) -> tuple[np.ndarray, np.ndarray]:
    """True false-alarm rates and detection rates `(resamples,)` of the thresholds that a method sets."""
    thresholds = np.array([method(one) for one in known])
    return above(own.normals, thresholds), above(own.anomalies, thresholds)


def by_rule(rule: Any) -> Callable[[Known], float]:
    return lambda known: rule.find(known, "calibrate").threshold


def discovered(own: ScoreSet, n: int, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """False-discovery proportions and power `(resamples,)` on contaminated batches, each with `n` normals of its own to
    calibrate on: the mean over both is what is promised."""
    rng, false, power = own.generator(seed, n, BATCH), np.zeros(resamples), np.zeros(resamples)
    for i in range(resamples):
        batch = np.concatenate([rng.choice(own.normals, BATCH - ODD), rng.choice(own.anomalies, ODD)])
        alarm = threshold.discoveries(threshold.p_values(rng.choice(own.normals, n), batch), DISCOVERIES)
        false[i], power[i] = alarm[:-ODD].sum() / max(alarm.sum(), 1), alarm[-ODD:].mean()
    return false, power


def allowed(promise: float, deviation: float, resamples: int) -> float:
    """The most that a mean over resamples may be, by the standard deviation of one."""
    return promise + ERRORS * deviation / sqrt(resamples)


def measure(own: ScoreSet, resamples: int, seed: int, rule: type) -> Iterator[Cell]:
    """All figures of one set."""
    label = np.repeat([0, 1], [len(own.normals), len(own.anomalies)])
    area = metrics.auroc(label, np.concatenate([own.normals, own.anomalies]))
    told = {"detector": own.detector, "trained on": f"{own.trained:,}", "population": f"{len(own.normals):,}"}
    told |= {"different": f"{len(np.unique(own.normals)):,}", "anomalies": f"{len(own.anomalies):,}"}
    yield from (Cell(SETS, *each) for each in {**told, "AUROC": f"{area:.3f}"}.items())
    breaks = allowed(1 - SURE, sqrt(SURE * (1 - SURE)), resamples)
    known = {n: drawn(own, n, resamples, seed) for n in COUNTS}
    for sure, n, alpha in ((s, n, alpha) for s in HOW for n in COUNTS for alpha in ALPHAS if order(n, alpha, s)):
        rates, detected = outcome(own, known[n], by_rule(rule(alpha, sure)))
        row = f"alpha {alpha:g}, {n:,} normals"
        if sure is None:
            mean, most = float(rates.mean()), allowed(alpha, float(rates.std(ddof=1)), resamples)
            says = f"{row}, {HOW[sure]}: the mean true rate is {mean:.4%}, at most {most:.4%} may be"
            yield Cell(AVERAGE, row, f"{mean:.3%}", mean <= most, says)
        else:
            share = float(np.mean(rates > alpha))
            says = f"{row}, {HOW[sure]}: {share:.2%} of resamples break it, at most {breaks:.2%} may"
            yield Cell(CONFIDENT, row, f"{share:.1%}", share <= breaks, says)
        gap = 100 * float(detected.mean() - above(own.anomalies, oracle(own.normals, alpha)))
        yield Cell(ORACLE, f"{row}, {HOW[sure]}", f"{gap:+.1f}", gap >= -CLOSE)
    methods = {f"ours, {how}": by_rule(rule(COMPARED, sure)) for sure, how in HOW.items()}
    methods["F1-adaptive"] = by_rule(F1())
    methods["mean + 3 sigma"] = lambda known: known.normals.mean() + 3 * known.normals.std()
    methods["99th percentile"] = lambda known: np.quantile(known.normals, 1 - COMPARED)
    for name, method in methods.items():
        rates, detected = outcome(own, known[COUNTS[0]], method)
        yield Cell(METHODS, name, f"{np.mean(rates > COMPARED):.1%} / {detected.mean():.1%}")
    for n in COUNTS:
        false, power = discovered(own, n, resamples, seed)
        mean, most = float(false.mean()), allowed(DISCOVERIES, float(false.std(ddof=1)), resamples)
        says = f"false discoveries at {DISCOVERIES:g}, {n:,} normals: {mean:.2%} on average, at most {most:.2%} may be"
        yield Cell(BATCHES, f"{n:,} normals", f"{mean:.1%} / {power.mean():.1%}", mean <= most, says)


def report(sets: list[ScoreSet], resamples: int, seed: int, rule: type = FalseAlarmRate) -> tuple[str, list[str]]:
    """Tables in Markdown, and a sentence for each promise, of `rule` and of Benjamini-Hochberg, that is broken."""
    found: dict[str, dict[str, list[str]]] = {section: {} for section in SECTIONS}
    broken: list[str] = []
    for own in tracked(sets, len(sets), "resample", "sets"):
        for cell in measure(own, resamples, seed, rule):
            found[cell.section].setdefault(cell.row, []).append(cell.text if cell.kept else f"**{cell.text}**")
            broken += [f"{own.name}: {cell.says}"] if cell.says and not cell.kept else []
    parts = []
    for section, said in SECTIONS.items():
        for how in HOW.values() if section == ORACLE else ():
            cells = [cell for row, cells in found[section].items() if row.endswith(how) for cell in cells]
            far = sum(cell.startswith("**") for cell in cells)
            said += f" {how.capitalize()}, {far} of {len(cells)} are more than {CLOSE} points below (bold)."
        parts += [f"## {section}\n", f"{said}\n", *header("", *(own.name for own in sets))]
        parts += [f"| {' | '.join([row, *cells])} |" for row, cells in found[section].items()] + [""]
    return "\n".join(parts), broken


def speeds(count: int, seed: int) -> tuple[str, list[str]]:
    """Seconds, best of three, for `count` calibration scores and as many samples; a sentence for each that is slow."""
    from benchmarks.parts import seconds

    normals, samples = np.random.default_rng(seed).normal(size=(2, count)).astype(np.float32)
    plan = Plan.read({"rule": "false_alarm_rate"})
    runs = {
        "calibrate": lambda: threshold.calibrate(plan, threshold.Scored(normals), "benchmark"),
        "p_values": lambda: threshold.p_values(normals, samples),
    }
    took = {name: seconds(run, 3) for name, run in runs.items()}
    rows = [f"## Speed\n\n{count:,} calibration scores, as many samples; best of three; {processor()}.\n"]
    rows += header("", "seconds", "at most")
    rows += [f"| {name} | {took[name]:.3f} | {most:g} |" for name, most in SPEED.items()]
    slow = [f"{n} takes {took[n]:.2f} s for {count:,} scores, at most {m:g} s" for n, m in SPEED.items() if took[n] > m]
    return "\n".join(rows) + "\n", slow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with tabular/, splits/ and the image sets")
    parser.add_argument("--weights", type=Path, help=f"of {NETWORK}; DIR/../weights/{NETWORK}.safetensors by default")
    parser.add_argument("--quick", action="store_true", help="200 resamples instead of 1,000, one image set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the page to this file, too")
    chosen = parser.parse_args()
    started, usual = time.perf_counter(), chosen.data.resolve().parent / "weights" / f"{NETWORK}.safetensors"
    weights = chosen.weights or (usual if usual.is_file() else None)  # the filter bank will do without
    names = [*TABLES, *list(IMAGES)[: 1 if chosen.quick else None]]
    sets, resamples = list(score_sets(chosen.data, weights, names, chosen.seed)), 200 if chosen.quick else 1_000
    (tables, broken), (fast, slow) = report(sets, resamples, chosen.seed), speeds(1_000_000, chosen.seed)
    told = "\n".join(f"- {each}" for each in broken + slow) or "All are kept."
    title = "# Decisions on real scores\n\n`python -m benchmarks.decisions --data DIR`: "
    page = f"{title}{resamples:,} resamples, seed {chosen.seed}\n\n{tables}\n{fast}\n## Promises"
    print(page := f"{page}\n\n{told}\n\nTook {time.perf_counter() - started:.0f} s.")
    if chosen.out:
        chosen.out.write_text(page + "\n", encoding="utf-8")
    if broken or slow:
        sys.exit("\n".join(broken + slow))


if __name__ == "__main__":
    main()
