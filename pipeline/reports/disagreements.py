"""Test samples that two candidates decide differently, drawn by both: models are loaded only where there are any."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.candidate import Candidate
from pipeline.errors import AssayError
from pipeline.files import scratch_folder
from pipeline.protocols import ANOMALOUS, NORMAL
from pipeline.reports.document import NONE, Block, Gallery, Picture, Table, Text, short
from pipeline.reports.evaluated import Evaluated
from pipeline.reports.passages import because, counted, figure
from pipeline.samples import part
from pipeline.stages import DATASET, SPLIT

SHOWN = 12  # samples that are drawn
SCRATCH = Path(".assay/compared")
TRUTH = {NORMAL: "normal", ANOMALOUS: "anomalous"}


def find(tables: dict[str, pd.DataFrame], reference: str) -> list[tuple[str, str]]:
    """Samples (id, the candidate that disagrees most with `reference`), the most different p-values first.

    `tables` have a row per sample, indexed by id."""
    here = tables[reference]
    apart = []
    for name, table in tables.items():
        both = paired(here, table)
        differ = both[both["decision"] != both["decision_other"]]
        gap = (differ["p_value"] - differ["p_value_other"]).abs()
        apart += [(-value, sample, name) for sample, value in gap.items()]
    first: dict[str, str] = {}
    for _, sample, name in sorted(apart):
        first.setdefault(sample, name)
    return list(first.items())


def blocks(evaluated: dict[str, Evaluated], tables: dict[str, pd.DataFrame], reference: str) -> list[Block]:
    """A sentence of how many there are, then each of the first ones as both candidates see it."""
    found = find(tables, reference)
    if not found:
        return [Text("All candidates decide the same about every test sample.")]
    some = found[:SHOWN]
    said = f"{counted(len(found), 'test sample')} of {len(tables[reference]):,}: {reference} decides otherwise than"
    said += " another candidate. Those whose p-values differ most come first."
    rows = [row for sample, name in some for row in _rows(tables, sample, (reference, name))]
    width = 7 if any(row[6] != NONE for row in rows) else 6  # without the reasons, where no detector tells any
    listed = Table(
        ["sample", "true label", "candidate", "score", "p-value", "decision", "because"][:width],
        [row[:width] for row in rows],
        "",
        frozenset({3, 4}),
        f"and {len(found) - SHOWN:,} more, in scores.parquet of both" if len(found) > SHOWN else "",
    )
    pictures = _drawn(evaluated, [sample for sample, _ in some], reference, dict(some))
    return [
        Text(said),
        listed,
        *(block for sample, name in some for block in _pair(tables, pictures, sample, reference, name)),
    ]


def _rows(tables: dict[str, pd.DataFrame], sample: str, names: tuple[str, str]) -> list[list[str]]:
    rows = []
    for name in names:
        row = tables[name].loc[sample]
        truth = TRUTH.get(int(row["label"]), "unknown") + (f", {row['defect']}" if row["defect"] else "")
        why = because(row["because"]) if "because" in row and row["decision"] == "reject" else ""
        rows.append(
            [short(sample), truth, name, figure(row["score"]), f"{row['p_value']:.3g}", row["decision"], why or NONE]
        )
    return rows


def _pair(
    tables: dict[str, pd.DataFrame],
    pictures: dict[tuple[str, str], bytes | str],
    sample: str,
    reference: str,
    name: str,
) -> list[Block]:
    """The same sample by both candidates, beside each other; a sentence in place of what cannot be drawn."""
    drawn: list[Picture] = []
    missing = []
    for one in (reference, name):
        row = tables[one].loc[sample]
        told = f"{one}: {row['decision']}, score {figure(row['score'])}, p-value {row['p_value']:.3g}"
        image = pictures.get((one, sample), "it was not drawn")
        if isinstance(image, bytes):
            drawn.append(Picture(image, f"{short(sample)} as {told}", told))
        else:
            missing.append(Text(f"{short(sample)} as {told}: no picture, since {image}.", "note"))
    truth = TRUTH.get(int(tables[reference].loc[sample, "label"]), "of unknown label")
    return [*([Gallery(drawn, f"{short(sample)}, {truth}")] if drawn else []), *missing]


def _drawn(
    evaluated: dict[str, Evaluated], samples: list[str], reference: str, other: dict[str, str]
) -> dict[tuple[str, str], bytes | str]:
    """PNG bytes per candidate and sample, or why there are none."""
    wanted = {reference: samples} | {
        name: [sample for sample in samples if other[sample] == name] for name in sorted(set(other.values()))
    }
    found: dict[tuple[str, str], bytes | str] = {}
    for name, ids in wanted.items():
        candidate = evaluated[name].candidate
        try:
            rows = part(candidate.line / DATASET, candidate.line / SPLIT, "test").set_index("id", drop=False)
            candidate.loaded  # noqa: B018  a model that is damaged spares the samples
        except (AssayError, OSError) as error:
            found |= {(name, sample): str(error).rstrip(".") for sample in ids}
            continue
        with scratch_folder(candidate.line / SCRATCH) as out:
            for place, sample in enumerate(ids):
                found[name, sample] = _one(candidate, rows, sample, out / str(place))
    return found


def _one(candidate: Candidate, rows: pd.DataFrame, sample: str, out: Path) -> bytes | str:
    if sample not in rows.index:
        return "the sample is not in the dataset any more"
    out.mkdir()
    try:
        samples = candidate.loaded.stored.modality.samples(rows.loc[[sample]].reset_index(drop=True))
        paths = candidate.loaded.draw(samples, out, 1)
        return paths[0].read_bytes()
    except (AssayError, OSError, IndexError) as error:
        return str(error).rstrip(".") or type(error).__name__


def paired(here: pd.DataFrame, there: pd.DataFrame) -> pd.DataFrame:
    """The samples that are in both tables, the columns of `there` ending in `_other`."""
    return here.merge(there, left_index=True, right_index=True, suffixes=("", "_other"))


def by_id(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of test samples by id, as `find` takes them."""
    known = table.assign(label=table["label"].astype(np.int64))
    return known.set_index("id")
