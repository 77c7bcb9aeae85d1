"""Samples with the labels that people gave back: raw data of a line, in data/labelled/, versioned by DVC.

`samples/BATCH/SHARD-HASH/` is a dataset folder as a modality's `ingest` writes it, of samples that one labelling added;
the manifest's label and defect are those given. No content is there twice. DVC keeps `samples` (`samples.dvc` for git);
the folder around it always stands, for DVC watches it.

`join` puts them beside the ingested source. What the source says of a content stands:

- A content that the source labels is left out: the source's label counts, and its part of the split.
- Where the source has it without a label, the labelled sample takes the place of the source's.
- Where the source labels no sample normal, its unlabelled samples stand for the normals (`presumed_normal`), and so do
  those given back as normal: label 0 for a few would leave all others unused. A normal that such a source has already
  is left out: taken away from the unlabelled ones because it was an alarm, it would bend the promise of those left.
"""

import shutil
from dataclasses import dataclass, field
from hashlib import sha256 as digest
from pathlib import Path

import pandas as pd

from pipeline.errors import DataError
from pipeline.files import link, scratch_folder
from pipeline.parts.columns import kind
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN, Modality
from pipeline.samples import LABELLED, read_manifest

FOLDER = Path("data/labelled")
SAMPLES = FOLDER / "samples"
WORK = Path(".assay/labelling")
FEW = 32  # samples of the source that are compared with labelled ones
TAKEN_OVER = ("group", "category", "severity", "time")  # what the source knows of a content, where a batch does not


@dataclass(frozen=True)
class Added:
    """How many samples a labelling added to the folder, how many there got another label, and how many are gone since
    they were scored."""

    new: int = 0
    changed: int = 0
    gone: int = 0


@dataclass(frozen=True)
class Joined:
    """What became of the labelled samples at ingest: put in, known to the source already, among them such that the
    source labels otherwise, and folders that do not go with the source, each with a sentence."""

    added: int = 0
    known: int = 0
    contradicted: int = 0
    unfit: list[str] = field(default_factory=list)


def add(line: Path, modality: Modality, given: pd.DataFrame) -> Added:
    """Put labelled samples into the folder of the line: batch, shard, id, sha256, label and defect of each.

    They lie in `scores/BATCH/samples/SHARD`. A content that is there already only gets the label now given. Each
    folder is whole or absent, so that an interrupted call is finished by the same call. A sample whose file is gone is
    left out and counted; raises DataError when a whole shard is."""
    known = _known(line)
    there = given["sha256"].isin(known.keys())
    changed = new = gone = 0
    with scratch_folder(line / WORK) as work:
        for folder, rows in given[there].groupby(given["sha256"].map(known)):
            changed += _relabel(Path(str(folder)), rows, work)
        for (batch, shard), rows in given[~there].groupby(["batch", "shard"]):
            rows = rows.drop_duplicates("sha256", keep="last")
            rows = rows[~rows["sha256"].isin(_known(line).keys())]
            if len(rows):
                kept = _copy(line, modality, str(batch), str(shard), rows, work)
                new, gone = new + kept, gone + len(rows) - kept
    return Added(new, changed, gone)


def _known(line: Path) -> dict[str, str]:
    """The folder of each content that is labelled already."""
    found: dict[str, str] = {}
    for path in sorted((line / SAMPLES).glob("*/*/manifest.parquet")):
        found |= dict.fromkeys(pd.read_parquet(path, columns=["sha256"])["sha256"], str(path.parent))
    return found


def _relabel(folder: Path, given: pd.DataFrame, work: Path) -> int:
    """Give samples that are in `folder` the labels of now; how many had others."""
    manifest = pd.read_parquet(folder / "manifest.parquet")
    after = _labels(manifest, given, "sha256")
    changed = int(((after["label"] != manifest["label"]) | (after["defect"] != manifest["defect"])).sum())
    if changed:
        after.to_parquet(work / "manifest.parquet", index=False)
        (work / "manifest.parquet").replace(folder / "manifest.parquet")
    return changed


def _labels(manifest: pd.DataFrame, given: pd.DataFrame, key: str) -> pd.DataFrame:
    told = given.drop_duplicates(key, keep="last").set_index(key)
    ours = manifest[key].isin(told.index)
    label, defect = manifest["label"].copy(), manifest["defect"].astype("str").fillna("")
    label[ours] = manifest.loc[ours, key].map(told["label"]).astype(label.dtype)
    defect[ours] = manifest.loc[ours, key].map(told["defect"]).astype("str")
    return manifest.assign(label=label, defect=defect)


def _copy(line: Path, modality: Modality, batch: str, shard: str, given: pd.DataFrame, work: Path) -> int:
    """Bring the samples of one shard into a folder of their own, with their labels; how many are still there."""
    source, partial = line / "scores" / batch / "samples" / shard, work / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _mirror(source, partial)
        wanted = pd.read_parquet(partial / "manifest.parquet", columns=["id"])["id"].isin(given["id"])
        modality.thin(partial, wanted.to_numpy(bool))
    except (FileNotFoundError, DataError) as error:
        raise DataError(f"samples of batch {batch} have vanished meanwhile ({error}); run it again") from error
    manifest = pd.read_parquet(partial / "manifest.parquet")
    if manifest.empty:
        return 0
    _labels(manifest, given, "id").assign(split="").to_parquet(partial / "manifest.parquet", index=False)
    (partial / "rejected.parquet").unlink(missing_ok=True)
    name = digest("\n".join(sorted(manifest["id"])).encode()).hexdigest()[:8]
    place = line / SAMPLES / batch / f"{shard}-{name}"
    place.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(place)
    return len(manifest)


def _mirror(source: Path, target: Path) -> None:
    """A copy of a dataset folder: tables are copied, for they will change; what they name is linked."""
    target.mkdir(parents=True)
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        below = path.relative_to(source)
        if len(below.parts) == 1:
            shutil.copyfile(path, target / below)
        else:
            link(path, target / below)


def join(modality: Modality, own: pd.DataFrame, folder: Path, dataset: Path, work: Path) -> Joined:
    """Put the labelled samples below `folder` (a line's SAMPLES) into the folder `dataset` that was just ingested.

    `own` is the manifest of the latter; see above for what is left out. Their rows stand behind those of the source,
    with ids that begin with `labelled/BATCH/`, `split` LABELLED and, in a column `below`, the folder in which they lie.

    A folder whose samples cannot be read together with the source's (other columns, changed files) stays out."""
    places = sorted(path.parent for path in folder.glob("*/*/manifest.parquet"))
    if not places:
        return Joined()
    first = _first(modality, own, dataset, work / "first")
    label = own.drop_duplicates("sha256").set_index("sha256")["label"]
    label.update(own[own["label"] != UNKNOWN].drop_duplicates("sha256").set_index("sha256")["label"])
    presumed = not (own["label"] == NORMAL).any()
    frames: list[pd.DataFrame] = []
    unfit: list[str] = []
    known = contradicted = 0
    for place in places:
        rows = read_manifest(place)
        if why := _misfit(modality, first, rows):
            unfit.append(f"{place.relative_to(folder).as_posix()}: {why}")
            continue
        says = rows["sha256"].map(label)
        stands = says.isin([NORMAL, ANOMALOUS])
        contradicted += int((stands & (says != rows["label"])).sum())
        left_out = stands | (says.notna() & (rows["label"] == NORMAL) & presumed)
        known += int(left_out.sum())
        below = Path(LABELLED, place.relative_to(folder)).as_posix()
        rows["id"] = f"{LABELLED}/{place.parent.name}/" + rows["id"]
        rows.loc[(rows["label"] == NORMAL) & presumed, "label"] = UNKNOWN
        if not left_out.all():
            _mirror(place, dataset / below)
            (dataset / below / "manifest.parquet").unlink()
            frames.append(rows[~left_out].assign(split=LABELLED, below=below))
    if frames:
        _put(own, frames, dataset)
    return Joined(sum(map(len, frames)), known, contradicted, unfit)


def _first(modality: Modality, own: pd.DataFrame, dataset: Path, place: Path) -> pd.DataFrame:
    """Manifest rows of a few samples of the source, in a small folder of their own: a table is read only once."""
    place.mkdir(parents=True)
    few = modality.samples(own.head(FEW).assign(folder=str(dataset)))
    modality.save(few.batches(FEW), place)
    return read_manifest(place)


def _misfit(modality: Modality, first: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Why labelled samples cannot stand beside the source's, "" where they can: all of them are decoded."""
    try:
        for _ in modality.samples(rows).batches(modality.batch):
            pass
        ours, theirs = modality.to_frame(first), modality.to_frame(rows)
        kinds = {name: {kind(frame[name]) for frame in (ours, theirs)} - {None} for name in set(ours) & set(theirs)}
        if odd := sorted(name for name, found in kinds.items() if len(found) > 1):
            return f"column {odd[0]!r} must hold values of one kind in both, got {' and '.join(sorted(kinds[odd[0]]))}"
        modality.to_frame(pd.concat([first, rows], ignore_index=True))
    except DataError as error:
        return str(error)
    return ""


def _put(own: pd.DataFrame, frames: list[pd.DataFrame], dataset: Path) -> None:
    """Write the manifest of source and labelled samples; of a content without label only the labelled one is left."""
    back = pd.concat(frames, ignore_index=True).drop(columns="folder")
    own = own.assign(below="")
    back = back.reindex(columns=own.columns)
    before = own.drop_duplicates("sha256").set_index("sha256").reindex(back["sha256"]).set_axis(back.index)
    for name, dtype in own.dtypes.items():
        if name in TAKEN_OVER:
            empty = back[name].isna() | (back[name].astype("str") == "")
            back[name] = back[name].where(~empty, before[name])
        back[name] = back[name].fillna("") if dtype == "str" else back[name]
    rows = pd.concat([own[~own["sha256"].isin(back["sha256"])], back.astype(own.dtypes)], ignore_index=True)
    rows.to_parquet(dataset / "manifest.parquet", index=False)
