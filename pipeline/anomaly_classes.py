"""Which kinds of anomaly the test part holds, by a candidate that can tell: a table, and a picture with a row per kind.

    python -m pipeline.anomaly_classes --line DIR --candidate NAME

Looks at the anomalies of the test part and at what the candidate alarmed for, as its report has them, and writes
`classes.csv` (id, class, label, defect, decision, score) and `classes.png` into that report.
"""

import argparse
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from pipeline import params, store
from pipeline.ending import one_sentence
from pipeline.errors import DataError, LineError
from pipeline.protocols import ANOMALOUS, Batch, Modality, Samples
from pipeline.samples import part
from pipeline.stages import CANDIDATES, DATASET, MODELS, SPLIT

TABLE, SHEET = "classes.csv", "classes.png"
NONE = -1  # the class of a sample without one
BATCH = 16  # samples looked at together
ACROSS = 8  # pictures of a row
SIDE = 160  # pixels of a picture
MARGIN = 4  # pixels around it
TITLE = 18  # pixels of the line above a row


@runtime_checkable
class Classifies(Protocol):
    """A detector that tells kinds of anomaly apart."""

    def classify(self, batch: Batch) -> np.ndarray:
        """The class of each sample, int64 `(n,)`; -1 without one."""


def write(line: Path, name: str) -> tuple[pd.DataFrame, list[Path]]:
    """The table of classes of the candidate `name`, and the files written into its report.

    Raises LineError when the candidate has no model or report yet, DataError when its detector cannot classify or there
    is nothing to classify."""
    given = params.read(line / "params.yaml")
    report = line / CANDIDATES / name
    for path in (line / MODELS / name, report / "scores.parquet"):
        if not path.exists():
            raise LineError(f"{path} is needed to tell the classes of {name} and is missing; run dvc repro first")
    stored = store.load(line / MODELS / name)
    if not isinstance(stored.detector, Classifies):
        raise DataError(f"{name} must be a detector that tells classes, such as image/anomalyncd, got {stored.key}")
    scores = pd.read_parquet(report / "scores.parquet")
    wanted = ((scores["label"] == ANOMALOUS) | (scores["decision"] == "reject")).to_numpy()
    if not wanted.any():
        raise DataError(f"{report} must have an anomaly or an alarm to classify, got none among {len(scores)} samples")
    rows = part(line / DATASET, line / SPLIT, "test").set_index("id").loc[scores["id"][wanted]].reset_index()
    samples = given.modality.samples(rows)
    found = np.concatenate([stored.detector.classify(batch) for batch in samples.batches(BATCH)])
    table = scores[wanted].assign(**{"class": found})[["id", "class", "label", "defect", "decision", "score"]]
    table = table.sort_values(["class", "score", "id"], ascending=[True, False, True], ignore_index=True)
    table.to_csv(report / TABLE, index=False, lineterminator="\n")
    sheet(table, samples, given.modality, report / SHEET)
    return table, [report / TABLE, report / SHEET]


def sheet(table: pd.DataFrame, samples: Samples, modality: Modality, out: Path) -> None:
    """A row of pictures per class, those of highest score first."""
    from PIL import Image, ImageDraw

    classes = list(table.groupby("class", sort=True))
    picture = Image.new("RGB", (ACROSS * (SIDE + MARGIN), len(classes) * (SIDE + TITLE + MARGIN)), "white")
    draw = ImageDraw.Draw(picture)
    rows = samples.rows.set_index("id", drop=False)
    for down, (number, own) in enumerate(classes):
        top = down * (SIDE + TITLE + MARGIN)
        kinds = ", ".join(f"{kind or '?'} {count}" for kind, count in own["defect"].value_counts().head(4).items())
        draw.text(
            (MARGIN, top + 2), f"{'no class' if number == NONE else f'class {number}'}: {len(own)} ({kinds})", "black"
        )
        looks = modality.look(rows.loc[own["id"][:ACROSS]].reset_index(drop=True), None)
        for across, look in enumerate(looks):
            if look.picture is not None:
                small = Image.fromarray(look.picture)
                small.thumbnail((SIDE, SIDE))
                picture.paste(small, (across * (SIDE + MARGIN), top + TITLE))
    picture.save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.anomaly_classes", description=__doc__.splitlines()[0])
    parser.add_argument("--line", type=Path, default=Path(), help="the line's folder")
    parser.add_argument("--candidate", required=True, help="one of params.yaml, trained and evaluated")
    chosen = parser.parse_args()
    table, files = write(chosen.line, chosen.candidate)
    print(table.groupby("class").size().rename("samples").to_string())
    print(f"written: {', '.join(map(str, files))}")


if __name__ == "__main__":
    with one_sentence():
        main()
