"""The worst errors of a candidate as pictures, and why its alarms are alarms."""

import hashlib
import re
from pathlib import Path

import pandas as pd

from pipeline.evaluation import WORST
from pipeline.protocols import ANOMALOUS, NORMAL
from pipeline.reports.document import Block, Gallery, Picture, Table, Text, short
from pipeline.reports.evaluated import Evaluated
from pipeline.reports.passages import because, counted, figure, more

OVERLAYS = "overlays"
ALARM = "reject"
CUT = 60  # characters from which a file's name may be a part of an id
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
    """The pictures in a folder, the worst first, each with what is known of its sample. A picture is named after its
    sample's id, in a form that is safe for files; one that goes by no id comes last."""
    files = sorted(folder.glob("*.png")) if folder.is_dir() else []
    found = []
    for place, row in enumerate(rows.head(WORST).itertuples()):
        file = next((file for file in files if _named_after(file.stem, row.id, place)), None)
        if file is not None:
            files.remove(file)
            defect = f", {row.defect}" if row.defect else ""
            said = f"{LABELS[row.label]}{defect}; score {row.score:.4g}, p-value {row.p_value:.3g}: {row.decision}"
            found.append(Picture(file, f"{short(row.id)}: {said}", f"{short(row.id)}: {said}"))
    return [*found, *(Picture(file, file.stem, file.stem) for file in files)]


def _named_after(stem: str, name: str, place: int) -> bool:
    """Whether a file's name is a safe form of an id: other characters are `_` or `__`, a long one lost its beginning or
    its end; where that is not enough to tell ids apart, the id's hash or its place among the drawn follows."""
    plain, own = _plain("".join(c if re.match(r"[A-Za-z0-9.-]", c) else "_" for c in name)), _plain(stem)
    rest, _, more = stem.rpartition("-")
    told_apart = more in (hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8], str(place))
    return _is_of(own, plain) or (told_apart and _is_of(_plain(rest), plain))


def _is_of(own: str, plain: str) -> bool:
    """Whether a name is an id, or enough of it."""
    return own == plain or (len(own) >= CUT and (plain.startswith(own) or plain.endswith(own)))


def _plain(text: str) -> str:
    return re.sub("_+", "_", text).strip("_.-")


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
