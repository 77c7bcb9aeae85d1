"""The worst errors of a candidate as pictures, and why its alarms are alarms."""

from pathlib import Path

import pandas as pd

from pipeline.protocols import ANOMALOUS, NORMAL
from pipeline.reports.document import Block, Gallery, Picture, Table, Text, short
from pipeline.reports.evaluated import Evaluated
from pipeline.reports.passages import because, counted, figure, more

OVERLAYS = "overlays"
ALARM = "reject"
REASONS = 30  # alarms that are explained
LABELS = {NORMAL: "normal", ANOMALOUS: "anomalous"}


def pictures(evaluated: Evaluated) -> list[Block]:
    """The highest-scored normals and the lowest-scored anomalies; it is said where these are no errors at all."""
    rising = evaluated.table.sort_values("score", kind="stable")
    normals, anomalies = rising[rising["label"] == NORMAL][::-1], rising[rising["label"] == ANOMALOUS]
    false, escaped = evaluated.metrics["false_alarms"], evaluated.metrics["escapes"]
    found: list[Block] = []
    for folder, rows, wrong, named, none in (
        (
            "normals_scored_highest",
            normals,
            false,
            "false alarm",
            "No normal raised an alarm; these came nearest to one",
        ),
        ("anomalies_scored_lowest", anomalies, escaped, "escape", "No anomaly escaped; these came nearest to that"),
    ):
        drawn = _drawn(evaluated.candidate.report / OVERLAYS / folder, rows)
        if drawn:
            beyond = "; those after came nearest to one" if wrong < len(drawn) else ""
            found.append(Gallery(drawn, f"{counted(wrong, named)}, the worst first{beyond}" if wrong else none))
    return found or [Text("There are no pictures of errors: they need labelled test samples.")]


def _drawn(folder: Path, rows: pd.DataFrame) -> list[Picture]:
    """The pictures in a folder of overlays, the worst first, each with what is known of its sample."""
    index = folder.parent / "index.csv"
    if not index.is_file():
        return []
    drawn = pd.read_csv(index, dtype=str, keep_default_na=False)
    drawn = drawn[drawn["path"].str.startswith(f"{folder.name}/") & drawn["id"].isin(rows["id"])]
    known, found = rows.set_index("id"), []
    for name, path in zip(drawn["id"], drawn["path"], strict=True):
        row = known.loc[name]
        defect = f", {row['defect']}" if row["defect"] else ""
        figures = f"score {row['score']:.4g}, p-value {row['p_value']:.3g}: {row['decision']}"
        said = f"{short(name)}: {LABELS[row['label']]}{defect}; {figures}"
        found.append(Picture(folder.parent / path, said, said))
    return found


def reasons(evaluated: Evaluated) -> list[Block]:
    """The columns behind each alarm, where the detector can tell them; the highest score first."""
    table = evaluated.table
    if "because" not in table:
        return []
    alarms = table[table["decision"] == ALARM].sort_values("score", ascending=False, kind="stable")
    if alarms.empty:
        return [Text("No test sample raised an alarm.")]
    rows = [
        [short(row.id), LABELS.get(row.label, "unknown"), figure(row.score), because(row.because)]
        for row in alarms.head(REASONS).itertuples()
    ]
    caption = "The columns that added most to each alarm's score (+: by how much)"
    note = more(len(alarms), len(rows), f"{evaluated.where}/scores.parquet")
    return [Table(["sample", "true label", "score", "because"], rows, caption, frozenset({2}), note)]
