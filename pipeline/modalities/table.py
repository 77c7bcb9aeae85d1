"""Tables: one row is one sample; a CSV, Parquet or NPZ file becomes typed columns and a manifest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from annotated_types import Ge
from pandas.api import types
from pyarrow import parquet

from pipeline.errors import DataError
from pipeline.parts import table_checks, table_cuts, table_files, table_pictures, table_rows, times
from pipeline.parts.columns import TEXT, TIME, kind, names
from pipeline.parts.table_rows import ROLES, row_id, typed
from pipeline.parts.table_types import feature, texts
from pipeline.protocols import ANOMALOUS, UNKNOWN, Batch, Check, Cut, Ingested, Look, Samples, Scores
from pipeline.samples import View, read_manifest

PLAIN: Mapping[str, Any] = MappingProxyType({})  # options of Parquet files that stay
# and of those that are read once, soon
QUICK: Mapping[str, Any] = MappingProxyType({"compression": "lz4", "use_dictionary": False, "write_statistics": False})


@dataclass
class Table:
    """Options of the `dataset` section for `kind: table`.

    A column named here is no feature. Batches to score may lack all of them; a dataset to train on that lacks a
    named one fails validation, but for the label: without one all rows are of unknown label. Missing values are
    allowed in features: the detectors' encoder fills them."""

    shard: ClassVar[int] = 25_000
    batch: ClassVar[int] = 12_500

    label: str | None = "label"
    """Column with 0 (normal), 1 (anomalous), -1 or nothing (unknown), or false and true; null for none."""
    anomalous: list[str] = field(default_factory=list)
    """Values of the label column, as text, that mean anomalous; all others then mean normal."""
    id: str | None = "id"
    """Column with a unique name for each row; where it is absent rows are called row-0000001 and so on."""
    defect: str | None = None
    """Column with the kind of anomaly, for results per kind."""
    group: str | None = None
    """Column whose equal values must not be both trained and tested on, such as a charge or a patient."""
    category: str | None = None
    """Column to stratify by, such as a product."""
    severity: str | None = None
    """Column with a number for how bad an anomaly is."""
    time: str | None = None
    """Column with dates (ISO 8601), or seconds since 1970. When a row was recorded belongs here: as a feature, each
    later batch would look odd."""
    split: str | None = None
    """Column with the part (train, calibrate, test) that each row is meant for."""
    sensitive: str | None = None
    """Column that must not decide, such as sex or site: evaluation compares false alarms by its values, and
    `calibrate.by: sensitive` gives each value thresholds of its own."""
    drop: list[str] = field(default_factory=list)
    """Columns to leave out."""
    min_normals: Annotated[int, Ge(1)] = 8
    """Normal rows below which the dataset fails validation."""

    def ingest(self, source: Path, out: Path, quarantine: Path) -> Ingested:
        """Read a CSV, Parquet or NPZ (`X`, `y`) file, or a folder with one, once.

        Writes table.parquet (features), manifest.parquet (table_rows.COLUMNS) and rejected.parquet under `out`, and
        rejected.parquet and rejected.csv (id, path, reason, raw) under `quarantine`. Rejected are rows with a label,
        time or severity that is none, an id that comes twice, text among numbers, infinity, too many or few fields.
        Raises DataError when the file as a whole cannot be understood, or no row is left."""
        raw = table_files.read(table_files.find(source), self.label or "label")
        bad = table_rows.Rejected(raw.number)
        annotations = table_rows.annotations(raw, self._roles(), self.anomalous, bad)
        features = table_rows.features(raw, {*self._roles().values(), *self.drop}, bad, raw.name)
        good = bad.reason == ""
        lost = [(annotations["id"].iloc[i], raw.name, bad.reason[i], raw.line(i)) for i in np.flatnonzero(~good)]
        lost += [
            (raw.prefix + row_id(number), raw.name, f"{reason} (row {number})", line)
            for number, reason, line in raw.rejected
        ]
        rejected = pd.DataFrame(lost, columns=["id", "path", "reason", "raw"], dtype="str")
        if not good.any() and not raw.is_part:
            why = rejected["reason"].iloc[0]
            raise DataError(f"{raw.name} must hold rows that can be used, got {len(rejected)} others, the first: {why}")
        rejected.to_parquet(quarantine / "rejected.parquet", index=False)
        rejected.to_csv(quarantine / "rejected.csv", index=False, lineterminator="\n")
        manifest = typed(annotations, len(good))
        if not good.all():
            manifest, features = (frame[good].reset_index(drop=True) for frame in (manifest, features))
        return _write(manifest, features, rejected[["id", "path", "reason"]], out, QUICK if raw.is_part else PLAIN)

    def cut(self, source: Path, size: int, out: Path) -> Cut:
        """Parts of a table file, or of all those in a folder, see parts/table_cuts.py."""
        return table_cuts.cut(source, size, out, self.label or "label", self._roles(), self.drop)

    def describe(self, batch: Batch) -> pd.DataFrame:
        """The batch's columns (n, c), its ids as index: numbers, booleans, and dates as seconds since 1970, as float64
        with NaN for missing ones; categories as texts, None for missing ones."""
        return pd.DataFrame({name: _described(batch.x[name]) for name in batch.x.columns}, index=batch.x.index)

    def _roles(self) -> dict[str, str]:
        """The columns that are no features by what they are for."""
        return {role: getattr(self, role) for role in ROLES if getattr(self, role) is not None}

    def samples(self, rows: pd.DataFrame) -> Samples:
        """Batches with x a DataFrame of n rows, indexed by id. Tables are read when the first batch is."""
        rows = rows.reset_index(drop=True)
        lock = Lock()
        tables: list[pd.DataFrame] = []

        def read(some: pd.DataFrame) -> Batch:
            with lock:
                if not tables:
                    tables.append(_joined(rows))
            return _batch(some, tables[0].iloc[some.index.to_numpy()])

        return View(rows, read)

    def thin(self, folder: Path, wanted: np.ndarray) -> None:
        """Take the other rows out of table.parquet and the manifest."""
        manifest = pd.read_parquet(folder / "manifest.parquet")[wanted]
        table = pd.read_parquet(folder / "table.parquet").iloc[manifest["row"].to_numpy()]
        table.reset_index(drop=True).to_parquet(folder / "table.parquet", index=False)
        manifest.assign(row=np.arange(len(manifest))).to_parquet(folder / "manifest.parquet", index=False)

    def from_frame(self, frame: pd.DataFrame) -> Samples:
        """Rows of unknown label; a column of ids is honoured, other named columns are left out.

        Raises DataError for a column of other things than numbers, booleans, texts and dates, or a name that comes
        twice."""
        frame = frame.set_axis(names(frame), axis=1).reset_index(drop=True)
        name = self.id or "id"
        ids = texts(frame[name]) if name in frame else [row_id(number + 1) for number in range(len(frame))]
        used = {name, *self._roles().values(), *self.drop}
        wanted = [column for column in frame.columns if column not in used]
        features = pd.DataFrame({c: feature(frame[c], False)[0] for c in wanted}, index=frame.index)
        given = {"id": ids, "sha256": table_files.content(features), "label": UNKNOWN}
        for role in ("group", "category", "sensitive"):
            if self._roles().get(role) in frame:
                given[role] = texts(frame[self._roles()[role]])
        return View(typed(given, len(frame)), lambda some: _batch(some, features.iloc[some["row"].to_numpy()]))

    def to_frame(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The features of manifest rows behind a column of ids; categories as plain texts."""
        frame = table_files.plain(_joined(rows.reset_index(drop=True)))
        frame.insert(0, self.id or "id", rows["id"].tolist())
        return frame

    def save(self, batches: Iterable[Batch], out: Path) -> pd.DataFrame:
        """table.parquet, manifest.parquet and an empty rejected.parquet; also for no batch at all."""
        given = list(batches)
        ids = pd.Series([name for batch in given for name in batch.ids], dtype="str")
        if ids.duplicated().any():
            raise DataError(f"ids of new rows must differ, got {ids[ids.duplicated()].iloc[0]!r} twice")
        label = np.concatenate([np.zeros(0, np.int8), *(batch.label for batch in given)])
        kinds = {"defect": np.where(label == ANOMALOUS, "synthetic", ""), "split": "train"}
        rejected = pd.DataFrame(columns=["id", "path", "reason"], dtype="str")
        table = table_files.stacked([batch.x for batch in given]).reset_index(drop=True)
        return _write(typed({"id": ids, "label": label, **kinds}, len(ids)), table, rejected, out).manifest

    def checks(self, folder: Path) -> tuple[pd.DataFrame, list[Check]]:
        """One row per row of the table with facts about it (see table_checks.facts), and the suite."""
        rows, rejected = read_manifest(folder), pd.read_parquet(folder / "rejected.parquet")
        asked = {role: name for role, name in self._roles().items() if (role, name) != ("id", "id")}
        return table_checks.suite(_joined(rows), rows, len(rejected), asked, self.min_normals)

    def local_metrics(self, truth: np.ndarray, local: np.ndarray) -> dict[str, float]:
        """None: a row has no places."""
        return {}

    def local_curves(self, truth: np.ndarray, local: np.ndarray) -> dict[str, pd.DataFrame]:
        """None: a row has no places."""
        return {}

    def look(self, rows: pd.DataFrame, scores: Scores | None) -> list[Look]:
        """The columns of each row and their values."""
        table = _joined(rows.reset_index(drop=True))
        named = [str(name) for name in table.columns]
        return [
            Look(fields=[(name, table_pictures.text(table[name].iloc[at])) for name in named])
            for at in range(len(table))
        ]

    def draw(self, batch: Batch, scores: Scores, threshold: float, out: Path) -> list[Path]:
        """One PNG per row: its score, the threshold, its columns and values."""
        return table_pictures.draw(batch, scores, threshold, out)


def _described(column: pd.Series) -> pd.Series:
    found = TEXT if isinstance(column.dtype, pd.CategoricalDtype | pd.StringDtype) else kind(column)
    if found == TEXT:
        return column.astype(object).where(column.notna(), None)
    if found != TIME and not types.is_datetime64_any_dtype(column.dtype):
        return pd.Series(column.to_numpy(np.float64, na_value=np.nan), index=column.index)
    since = times.microseconds(column)
    return pd.Series(np.where(since == times.MISSING, np.nan, since / 1e6), index=column.index)


def _write(
    manifest: pd.DataFrame,
    table: pd.DataFrame,
    rejected: pd.DataFrame,
    out: Path,
    options: Mapping[str, Any] = PLAIN,
) -> Ingested:
    manifest = manifest.assign(sha256=pd.Series(table_files.content(table), dtype="str"), row=np.arange(len(manifest)))
    table.to_parquet(out / "table.parquet", index=False, **options)
    manifest.to_parquet(out / "manifest.parquet", index=False, **options)
    rejected.to_parquet(out / "rejected.parquet", index=False)
    return Ingested(manifest, rejected)


def _joined(rows: pd.DataFrame) -> pd.DataFrame:
    """The features of manifest rows, from all their folders, in their order. Raises DataError when one is gone."""
    tables, order = [], []
    for folder, some in rows.groupby("folder", sort=False):
        path = Path(str(folder), "table.parquet")
        try:
            # column by column, each given up by Arrow once it is pandas': a large table is never held twice
            table = parquet.read_table(path).to_pandas(split_blocks=True, self_destruct=True)
            wanted = some["row"].to_numpy()
            whole = np.array_equal(wanted, np.arange(len(table)))
            tables.append(table if whole else table.iloc[wanted])
        except (OSError, ValueError, IndexError) as error:
            raise DataError(f"{path} does not hold what its manifest says ({error}); run ingest again") from error
        order.append(some.index.to_numpy())
    if len(tables) == 1 and not any(isinstance(dtype, pd.CategoricalDtype) for dtype in tables[0].dtypes):
        return tables[0].reset_index(drop=True)  # without the copies that joining makes
    together = table_files.stacked(tables)
    return together.iloc[np.argsort(np.concatenate(order))].reset_index(drop=True) if order else together


def _batch(rows: pd.DataFrame, features: pd.DataFrame) -> Batch:
    ids = rows["id"].tolist()
    category = rows["category"].tolist() if "category" in rows else None
    return Batch(ids, features.set_axis(ids, axis=0), rows["label"].to_numpy(np.int8), category=category)
