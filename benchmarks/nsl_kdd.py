"""NSL-KDD by regime of labels: what is promised, and what comes out on a test file that is unlike the training file.

    python -m benchmarks.nsl_kdd --data ../shared/data/tabular/nsl_kdd > docs/results/nsl_kdd.md

Of the training file 60 % are to learn from, 20 % to calibrate on, 20 % are held out; the test file is KDDTest+, with
attacks and rates of them that the training file lacks. Thresholds by `false_alarm_rate` from calibration normals
(without any label: from all calibration rows). Nothing here was chosen by a test label.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ALPHA, CONFIDENCE, SEED = 0.01, 0.95, 0
SHARES = {"train": 0.6, "calibrate": 0.2, "held out": 0.2}
# regime: what of the training part is labelled (share of the attacks; normals or not), and the detectors
REGIMES: dict[str, tuple[float | None, bool, tuple[str, ...]]] = {
    "no labels at all": (0.0, False, ("isolation_forest", "auto")),
    "normals only": (None, True, ("isolation_forest", "knn", "ecod", "autoencoder", "auto")),
    "1 % of the attacks, others unlabelled": (0.01, False, ("semi_supervised", "auto")),
    "normals and 1 % of the attacks": (0.01, True, ("semi_supervised", "auto", "smote_classifier")),
    "all labels": (1.0, True, ("semi_supervised", "auto", "smote_classifier")),
}
PAGE = """# NSL-KDD, by regime of labels

Made by `python -m benchmarks.nsl_kdd --data ../shared/data/tabular/nsl_kdd`. {train} rows of KDDTrain+_20Percent to
learn from, {calibrate} to calibrate on, {held} held out; {test} rows of KDDTest+. Promised: with {confidence:.0%}
confidence at most {alpha:.1%} of normals raise an alarm; of normals like those of calibration, that is, as the held-out
ones are. KDDTest+ is another mixture of traffic, and its column says what that does. Intervals: 95 %,
Clopper-Pearson; alarms are those of normals. AUROC is that on KDDTest+.

| labels | detector | promised | alarms, held out | alarms, KDDTest+ | detected, held out | KDDTest+ | AUROC |
|---|---|---|---|---|---|---|---|
{rows}

Without any label nearly half of the training rows are attacks, which then count as usual: no detector can find them
by being rare, and the threshold, set so high that {alpha:.1%} of *all* rows exceed it, gives few false alarms and finds
next to nothing. The same goes for the third regime, whose calibration rows are unlabelled, too: the ranking gains from
labels, the threshold does not. Attacks are not rare in these data; labelled normals are what makes a threshold here.
"""


def read(folder: Path, name: str, fields: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Features of a file, and its labels: 1 for an attack."""
    rows = pd.read_csv(folder / name, header=None, names=[*fields, "attack", "difficulty"])
    return rows[fields], (rows["attack"] != "normal").to_numpy(np.int8)


def view(frame: pd.DataFrame, label: np.ndarray) -> Any:
    from pipeline.protocols import Batch
    from pipeline.samples import View

    rows = pd.DataFrame({"id": [f"row-{i}" for i in range(len(frame))], "label": label, "row": np.arange(len(frame))})
    return View(rows, lambda some: Batch(some["id"].tolist(), frame.iloc[some["row"]], some["label"].to_numpy(np.int8)))


def scores(detector: Any, frame: pd.DataFrame) -> np.ndarray:
    batches = view(frame, np.full(len(frame), -1, np.int8)).batches(1 << 14)
    return np.concatenate([detector.score(batch).sample for batch in batches])


def main() -> None:
    from benchmarks.tables import ours
    from pipeline import metrics, threshold
    from pipeline.plan import Plan
    from pipeline.rules.false_alarm_rate import FalseAlarmRate
    from pipeline.samples import presumed_normal

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with KDDTrain+_20Percent.txt")
    chosen = parser.parse_args()
    fields = [line.split(",")[0] for line in (chosen.data / "Field Names.csv").read_text("utf-8").split()]
    frame, label = read(chosen.data, "KDDTrain+_20Percent.txt", fields)
    test, truth = read(chosen.data, "KDDTest+.txt", fields)
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(frame))
    train, calibrate, held = np.split(order, (np.cumsum(list(SHARES.values()))[:2] * len(order)).astype(int))
    plan, rows = Plan(FalseAlarmRate(ALPHA, CONFIDENCE)), []
    for regime, (share, normals, names) in REGIMES.items():
        known = np.where((label == 0) & normals, 0, -1).astype(np.int8)
        attacks = rng.permutation(train[label[train] == 1])
        known[attacks[: round((share or 0.0) * len(attacks))]] = 1
        seen = train[(known[train] >= 0) | (not normals)]
        for name in names:
            detector = ours(name, {}, SEED).fit(view(frame.iloc[seen], known[seen]))
            usual = calibrate[presumed_normal(np.where((label == 0) & normals, 0, -1)[calibrate])]
            made = threshold.calibrate(plan, threshold.Scored(scores(detector, frame.iloc[usual])), "none")
            cells = []
            for part, own in ((frame.iloc[held], label[held]), (test, truth)):
                found = scores(detector, part)
                figures = metrics.decision_metrics(own, found, made.thresholds["alarm"])
                low, high = figures["false_alarm_rate_low"], figures["false_alarm_rate_high"]
                cells.append((f"{figures['false_alarm_rate']:.2%} ({low:.2%}, {high:.2%})", figures["detection_rate"]))
            told = [regime, name, f"{made.promise:.2%}", cells[0][0], cells[1][0]]
            told += [f"{cells[0][1]:.1%}", f"{cells[1][1]:.1%}", f"{metrics.auroc(truth, found):.3f}"]
            rows.append(f"| {' | '.join(told)} |")
    counts = {"train": len(train), "calibrate": len(calibrate), "held": len(held), "test": len(test)}
    print(PAGE.format(rows="\n".join(rows), alpha=ALPHA, confidence=CONFIDENCE, **counts), end="")


if __name__ == "__main__":
    main()
