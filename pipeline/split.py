"""Every sample to one part, train, calibrate or test, so that nothing leaks from one into another.

Samples with the same `group` and samples with identical content (`sha256`) are linked, over any number of
steps, and linked samples stay together:

- Normals go to calibration and test by their shares, the rest to training; stratified by `category`, or the
  oldest to training and the newest to the test with `order: time`.
- Anomalies go to the test, except for the shares that `split.anomalies` gives to training and calibration
  (stratified by `defect`). Normals linked with an anomaly go where it goes: trained on, they would tell the
  detector about a tested item; they count towards the test's share of normals.
- `groups: normals` links groups among normals and among anomalies only, for data in which nearly every item
  has a defect somewhere. Identical content is always linked.
- Samples of unknown label are part of nothing (`unused`): detectors learn from labels 0 and 1, the promise
  needs normals, metrics need labels. Where not one sample is labelled normal, they stand for the normals.

A split column of the data is respected for every sample, unknown ones too; where it links parts, that is an
error. If it has no calibration samples, calibration normals come out of its training normals. The shares of the
anomalies that `split.anomalies` gives to training and calibration come out of its test. The order
within a stratum is that of a hash of seed and id: it does not depend on the order of the rows, and new
samples hardly move old ones.

Samples that people labelled after a batch was scored (`split` LABELLED in the manifest, see labelled.py) are no random
draw: people look at alarms and at the review band first. They go to training and nowhere else:

- Normals among them are mostly such that some model found odd. Calibration normals must be exchangeable with those to
  come, else the promise is void; in the test they would make the false-alarm rate look worse than it is.
- Anomalies among them are mostly those that a champion caught. Tested on, they would flatter its detection rate, and
  the champion beside any candidate that finds others.

The source is split as if they were not there, so that no label moves its samples: taking the siblings of an alarm out
of calibration would bend the draw, too. A labelled sample that is linked with a calibrated or tested one of the source
is therefore `unused`.
"""

import hashlib

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.errors import DataError
from pipeline.params import Split
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN
from pipeline.samples import LABELLED, presumed_normal

GIVEN = {
    "train": "train",
    "calibrate": "calibrate",
    "calibration": "calibrate",
    "val": "calibrate",
    "validation": "calibrate",
    "test": "test",
}


def assign(manifest: pd.DataFrame, split: Split) -> pd.DataFrame:
    """The columns `id, part` for every row of a manifest, sorted by id; part is train, calibrate, test or unused.

    Raises DataError when ids repeat, a given split is incomplete, unknown or leaks, times are missing for
    `order: time`, or a part that the line needs gets no samples."""
    repeated = manifest["id"][manifest["id"].duplicated()]
    if len(repeated):
        raise DataError(f"the manifest's ids must be unique, got {_some(repeated)} more than once")
    rows = manifest.sort_values("id", ignore_index=True)
    back = (rows["split"] == LABELLED).to_numpy(bool)
    part = np.full(len(rows), "train", object)
    part[~back] = _of_source(rows[~back].reset_index(drop=True), split)
    if back.any():
        linked = _link(_keys(rows, split))
        held = linked[~back & np.isin(part, ("calibrate", "test"))]
        part[back & np.isin(linked, held)] = "unused"
    return pd.DataFrame({"id": rows["id"], "part": part})


def _of_source(rows: pd.DataFrame, split: Split) -> np.ndarray:
    """The part of each sample of the source, by its own split or ours."""
    rows["label"] = np.where(presumed_normal(rows["label"].to_numpy()), NORMAL, rows["label"])
    keys = _keys(rows, split)
    linked = _link(keys)
    given = _text(rows["split"])
    if given.notna().any():
        part = _given(rows, given)
        _refuse_leaks(rows, part, keys)
        if not (part == "calibrate").any():
            _calibrate_from_train(rows, part, linked, split)
        if split.anomalies.train or split.anomalies.calibrate:
            _anomalies_from_test(rows, part, linked, split)
    else:
        part = _own(rows, linked, split)
    _refuse_empty(rows, part, split)
    return part


def _text(column: pd.Series) -> pd.Series:
    """The column as text, with None for what is empty or missing."""
    text = column.astype("str").str.strip()
    return text.where(column.notna() & (text != ""), None)


def _keys(rows: pd.DataFrame, split: Split) -> dict[str, pd.Series]:
    """What links samples: two rows with an equal value in one of these columns belong together."""
    group = _text(rows["group"])
    if split.groups == "normals":
        group = group + np.where(rows["label"] == ANOMALOUS, " (anomalous)", " (normal)")
    return {"group": group, "content": _text(rows["sha256"])}


def _link(keys: dict[str, pd.Series]) -> np.ndarray:
    """A number per row, int `(n,)`, equal for linked rows: connected components over groups and contents."""
    sample, value, size = [], [], len(keys["group"])
    for column in keys.values():
        codes = pd.factorize(column)[0]
        present = np.flatnonzero(codes >= 0)
        sample.append(present)
        value.append(codes[present] + size)
        size += codes.max(initial=-1) + 1
    ends = np.concatenate(sample), np.concatenate(value)
    graph = coo_array((np.ones(len(ends[0]), bool), ends), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(keys["group"])]


def _given(rows: pd.DataFrame, given: pd.Series) -> np.ndarray:
    """The parts that the data's own split column names."""
    part = given.str.lower().map(GIVEN)
    if part.isna().any():
        lost = rows["id"][part.isna()]
        came = given[part.isna()].iloc[0]
        what = "nothing" if pd.isna(came) else repr(came)
        raise DataError(f"split must be one of {', '.join(GIVEN)} for every sample, got {what} for {_some(lost)}")
    return part.to_numpy(object)


def _refuse_leaks(rows: pd.DataFrame, part: np.ndarray, keys: dict[str, pd.Series]) -> None:
    mend = {
        "group": "mend the split, or set split.groups to normals if only anomalies cross (params.yaml)",
        "content": "mend the split or remove the duplicates",
    }
    for name, key in keys.items():
        parts = pd.Series(part).groupby(key).nunique()
        crossing = parts.index[parts > 1]
        if len(crossing):
            ours = key == crossing[0]
            into = " and ".join(sorted(set(part[ours])))
            which = f"group {crossing[0]}" if name == "group" else "identical content"
            raise DataError(
                f"the given split must keep samples of {which} in one part, got {_some(rows['id'][ours])} in {into} "
                f"({len(crossing)} such {name}{'s' if len(crossing) > 1 else ''}); {mend[name]}"
            )


def _calibrate_from_train(rows: pd.DataFrame, part: np.ndarray, linked: np.ndarray, split: Split) -> None:
    """Move a share of the given training normals, linked with no anomaly, to calibration (in place)."""
    train = part == "train"
    barred = linked[train & (rows["label"] == ANOMALOUS)]
    normal = train & (rows["label"] == NORMAL)
    free = normal & ~np.isin(linked, barred)
    moved = _walk(rows, linked, free, "category", split, {"calibrate": split.calibrate * normal.sum()})
    chosen = np.unique(linked[free & (moved == "calibrate")])
    part[train & np.isin(linked, chosen)] = "calibrate"


def _anomalies_from_test(rows: pd.DataFrame, part: np.ndarray, linked: np.ndarray, split: Split) -> None:
    """Move shares of the given test's anomalies, linked with none of its other samples, to training and calibration
    (in place)."""
    test, shares = part == "test", split.anomalies
    anomalous = test & (rows["label"] == ANOMALOUS).to_numpy()
    free = anomalous & ~np.isin(linked, linked[test & ~anomalous])
    train, calibrate = shares.train * anomalous.sum(), shares.calibrate * anomalous.sum()
    if train + calibrate > free.sum():
        raise DataError(
            f"split.anomalies asks for {train + calibrate:.0f} of the given test's {anomalous.sum()} anomalies, but"
            f" only {free.sum()} share no group and no content with its normals; set split.groups to normals, or give"
            " less (params.yaml)"
        )
    wanted = {"test": free.sum() - train - calibrate, "calibrate": calibrate}
    part[free] = _walk(rows, linked, free, "defect", split, wanted)[free]


def _own(rows: pd.DataFrame, linked: np.ndarray, split: Split) -> np.ndarray:
    label = rows["label"].to_numpy()
    shares = split.anomalies
    count = np.sum(label == ANOMALOUS)
    part = np.full(len(rows), "unused", object)
    part[label == ANOMALOUS] = _walk(
        rows,
        linked,
        label == ANOMALOUS,
        "defect",
        split,
        {"test": (1 - shares.train - shares.calibrate) * count, "calibrate": shares.calibrate * count},
    )[label == ANOMALOUS]
    where = dict(zip(linked[label == ANOMALOUS], part[label == ANOMALOUS], strict=True))
    free = (label == NORMAL) & ~np.isin(linked, list(where))
    bound = (label == NORMAL) & ~free
    part[bound] = [where[number] for number in linked[bound]]
    test = max(0.0, split.test * np.sum(label == NORMAL) - np.sum(part[bound] == "test"))
    rest = max(0.0, free.sum() - test) * split.calibrate / (1 - split.test)  # as large against training as asked
    part[free] = _walk(rows, linked, free, "category", split, {"test": test, "calibrate": rest})[free]
    return part


def _walk(
    rows: pd.DataFrame, linked: np.ndarray, chosen: np.ndarray, stratum: str, split: Split, wanted: dict[str, float]
) -> np.ndarray:
    """A part for each of the `chosen` rows: linked sets, in order, fill the `wanted` counts, the rest is train.

    Strata are dealt out evenly: a set's place is its share of the way through its own stratum, so that
    every stretch of the walk holds each stratum in proportion. With `order: time` the newest go first, a set
    being as new as its newest sample."""
    some = pd.DataFrame({"id": rows["id"], "set": linked, "stratum": _text(rows[stratum]).fillna("")})[chosen]
    if split.order == "time":
        some["time"] = pd.factorize(rows["time"][chosen], sort=True)[0]
        if (some["time"] < 0).any():
            raise DataError(
                f"split.order time needs a time for every sample, got none for {_some(some['id'][some['time'] < 0])}"
            )
    sets = some.groupby("set").agg(id=("id", "min"), stratum=("stratum", "min"), size=("id", "size"))
    sets["hash"] = [hashlib.sha256(f"{split.seed}:{name}".encode()).hexdigest() for name in sets["id"]]
    sets = sets.sort_values("hash")
    if split.order == "time":
        sets["place"] = -some.groupby("set")["time"].max()
    else:
        within = sets.groupby("stratum")["size"]
        sets["place"] = (within.cumsum() - sets["size"] / 2) / within.transform("sum")
    sets = sets.sort_values(["place", "hash"])
    middle = sets["size"].cumsum() - sets["size"] / 2
    bounds = np.cumsum(list(wanted.values()))
    names = np.array([*wanted, "train"], object)
    part_of = np.full(len(rows), None, object)
    part_of[sets.index] = names[np.searchsorted(bounds, middle, side="right")]
    return part_of[linked]


def _refuse_empty(rows: pd.DataFrame, part: np.ndarray, split: Split) -> None:
    label = rows["label"].to_numpy()
    normal, anomalous, unknown = (int(np.sum(label == value)) for value in (NORMAL, ANOMALOUS, UNKNOWN))
    came = f"of {normal} normal, {anomalous} anomalous and {unknown} unlabelled samples"
    for name in ("train", "calibrate"):
        if not ((part == name) & (label == NORMAL)).any():
            tested = np.sum((part == "test") & (label == NORMAL))
            raise DataError(
                f"split leaves no normal samples to {name}: {came}, {tested} normals go to the test; give more "
                "normals, or set split.groups to normals where groups mix normals and anomalies "
                f"(split.calibrate {split.calibrate}, split.test {split.test}, params.yaml)"
            )
    if not ((part == "test") & (label != UNKNOWN)).any():
        raise DataError(f"split leaves nothing to test: {came}, split.test is {split.test} (params.yaml)")


def _some(ids: pd.Series) -> str:
    """The first five ids, and how many there are."""
    shown = ", ".join(str(name) for name in ids.iloc[:5])
    return shown if len(ids) <= 5 else f"{shown} and {len(ids) - 5} more"
