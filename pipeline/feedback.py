"""Labels that people give back for scored samples: checked, joined with what was decided, kept in SQL.

A label given again replaces the one before, which goes to the table `labels_before`. See labelled.py for the samples
themselves and label_quality.py for what labels say about the decisions.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from filelock import FileLock
from sqlalchemy import Column, Connection, Float, Integer, String, Table, Text, and_, func, insert, select, update

from pipeline import database, label_files, sources
from pipeline.files import scratch_folder, whole_file
from pipeline.label_quality import DECISIONS, Stratum, precision, recall

SCORES = Path("scores")
REFUSED = SCORES / "labels-refused.csv"
WORK = Path(".assay/labels")
MANY = 500  # keys in one query
Reports = dict[str, dict[str, Any]]  # the report of each batch by its name


def _columns() -> Iterator[Column[Any]]:
    yield from (Column("name", String(255), primary_key=True), Column("batch", String(255), primary_key=True))
    yield Column("id", Text, primary_key=True)
    yield from (Column("label", Integer, nullable=False), Column("defect", Text, nullable=False))
    yield from (Column("who", Text, nullable=False), Column("given_at", String(32), nullable=False))  # ISO 8601, UTC
    yield from (Column("decision", String(16), nullable=False), Column("score", Float(53), nullable=False))
    yield Column("version", Integer, nullable=False)


LABELS = Table("labels", database.METADATA, *_columns())
BEFORE = Table(
    "labels_before",
    database.METADATA,
    *_columns(),
    Column("replaced", Integer, primary_key=True, autoincrement=False),  # which time, from 1
)
BATCHES = Table(
    "labelled_batches",
    database.METADATA,
    Column("name", String(255), primary_key=True),
    Column("batch", String(255), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("started", String(32), nullable=False),
    *(Column(decision, Integer, nullable=False) for decision in DECISIONS),
)


@dataclass(frozen=True)
class Given:
    """What became of a file of labels. `samples`: the labelled samples, one row each: batch, id, label, defect, and
    shard and sha256 where the sample was kept ("" where not). `older` rows are older than the label that stands."""

    samples: pd.DataFrame
    refused: pd.DataFrame
    new: int
    changed: int
    same: int
    older: int

    @property
    def kept(self) -> pd.DataFrame:
        return self.samples[self.samples["sha256"] != ""]


def give(line: Path, source: str) -> Given:
    """Take the labels in `source`, anything that `sources.fetch` reads, for samples that the line has scored.

    Rows that cannot be used are refused one by one, with a reason each, in `scores/labels-refused.csv` of the line; the
    others are in SQL when this returns. Doing it again changes nothing. Raises DataError for a file that is none,
    RegistryError when the database fails."""
    (line / WORK.parent).mkdir(exist_ok=True)
    with FileLock(line / WORK.with_suffix(".lock")), scratch_folder(line / WORK) as work:
        labels = label_files.read(sources.fetch(source, work / "fetched"), work)
        reports = _reports(line)
        rows, refused = _targets(line, reports, labels.rows)
        refused = label_files.refusals([*labels.refused.itertuples(index=False, name=None), *refused])
        samples, counts = _store(reports, rows)
        if len(refused):
            with whole_file(line / REFUSED) as partial:
                refused.to_csv(partial, index=False, lineterminator="\n")
        else:
            (line / REFUSED).unlink(missing_ok=True)
    return Given(samples, refused, *counts)


def _targets(line: Path, reports: Reports, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[int, str, str, str]]]:
    """The scored samples that the rows mean, one row per sample; and refused rows."""
    scored = _scored(line, list(reports), set(rows["id"]))
    found = rows.merge(scored, on="id", suffixes=("_given", ""))
    found = found[(found["batch_given"] == "") | (found["batch_given"] == found["batch"])]
    content = found["sha256"].where(found["sha256"] != "", None)
    same = (
        found.assign(sha256=content, none=content.isna())
        .groupby("row")
        .agg(
            batches=("batch", "nunique"),
            data=("data_hash", "nunique"),
            contents=("sha256", "nunique"),
            none=("none", "any"),
            where=("batch", lambda names: ", ".join(sorted(names)[:3])),
        )
    )
    why: dict[int, str] = {}
    for row in rows.itertuples():
        if row.batch and row.batch not in reports:
            why[row.row] = f"batch must be one that the line has scored, got {row.batch!r}"
        elif row.row not in same.index:
            where = f"batch {row.batch}" if row.batch else "this line"
            why[row.row] = f"id must be that of a sample scored in {where}, got {row.id!r}"
        elif (one := same.loc[row.row]).data > 1 and (one.none or one.contents > 1):
            why[row.row] = f"id is in {one.batches} batches that differ ({one['where']}): name one in a column batch"
    found = found[~found["row"].isin(why)]
    found["key"] = found["sha256"].where(found["sha256"] != "", found["batch"] + "/" + found["id"])
    for _, some in found[found.groupby("key")["label"].transform("nunique") > 1].groupby("key"):
        if lost := _contradiction(some):
            told = ", ".join(f"{int(one.label)} in row {one.row}" for one in some.drop_duplicates("row").itertuples())
            why |= dict.fromkeys(lost, f"labels of one sample contradict each other ({told}): give each its time")
    found = found[~found["row"].isin(why)].sort_values(["time", "row"], kind="stable")
    newest = found.drop_duplicates("key", keep="last").set_index("key")
    found = found.drop_duplicates(["batch", "id"], keep="last").drop(columns="batch_given")
    for column in ("label", "defect", "who", "time"):  # copies of one content, in one batch or several, agree
        found[column] = found["key"].map(newest[column])
    refused = rows[rows["row"].isin(why)].assign(reason=lambda lost: lost["row"].map(why))
    return found.sort_values(["batch", "id"], ignore_index=True), list(
        refused.astype({"label": "str"})[list(label_files.REFUSED)].itertuples(index=False, name=None)
    )


def _contradiction(some: pd.DataFrame) -> list[int]:
    """The rows to refuse among those that label one content in two ways: none where the latest time tells."""
    latest = some[some["time"] == some["time"].max()]
    told = (some["time"] != "").all() and latest["label"].nunique() == 1
    return [] if told else some["row"].tolist()


def _reports(line: Path) -> Reports:
    """The reports of the line's batches by the batch's name."""
    paths = sorted((line / SCORES).glob("*/report.json"))
    return {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in paths
        if (path.parent / "scores.parquet").exists()
    }


def _scored(line: Path, batches: list[str], ids: set[str]) -> pd.DataFrame:
    """What was decided on the samples with these ids: batch, id, decision, score, version, data_hash, and shard and
    sha256 where the sample was kept."""
    frames = []
    for batch in batches:
        folder = line / SCORES / batch
        wanted = [("id", "in", ids)]
        columns = ["id", "score", "decision", "model_version", "data_hash"]
        rows = pq.read_table(folder / "scores.parquet", columns=columns, filters=wanted).to_pandas()
        kept = [pd.DataFrame({"id": [], "sha256": [], "shard": []}, dtype="str")]
        for path in sorted((folder / "samples").glob("*/manifest.parquet")) if len(rows) else []:
            some = pq.read_table(path, columns=["id", "sha256"], filters=wanted).to_pandas()
            kept.append(some.assign(shard=path.parent.name))
        rows = rows.merge(pd.concat(kept), on="id", how="left").assign(batch=batch)
        frames.append(rows.rename(columns={"model_version": "version"}))
    none = pd.DataFrame(columns=["id", "score", "decision", "version", "data_hash", "sha256", "shard", "batch"])
    found = pd.concat(frames, ignore_index=True) if frames else none
    texts = ["id", "decision", "data_hash", "sha256", "shard", "batch"]
    return found.assign(**{name: found[name].astype("str").fillna("") for name in texts})


def _store(reports: Reports, rows: pd.DataFrame) -> tuple[pd.DataFrame, tuple[int, int, int, int]]:
    """Put labels into SQL; the samples with the labels that stand now; how many are new, changed, as before, older."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    counts = {"new": 0, "changed": 0, "same": 0, "older": 0}
    stands: list[dict[str, Any]] = []
    with database.transaction() as connection:
        for batch, some in rows.groupby("batch"):
            name = _note(connection, str(batch), reports[str(batch)])
            before = _standing(connection, name, str(batch), some["id"].tolist())
            for row in some.to_dict("records"):
                columns = ("batch", "id", "label", "defect", "who", "decision", "score", "version")
                given = {"name": name, **{c: row[c] for c in columns}, "given_at": row["time"] or now}
                what, stood = _upsert(connection, given, before.get(row["id"]), bool(row["time"]))
                counts[what] += 1
                stands.append({**row, "label": stood["label"], "defect": stood["defect"]})
    samples = pd.DataFrame(stands, columns=["batch", "id", "label", "defect", "shard", "sha256"])
    return samples, (counts["new"], counts["changed"], counts["same"], counts["older"])


def _note(connection: Connection, batch: str, report: dict[str, Any]) -> str:
    """Keep how many samples of a batch were decided how; the name of its model."""
    key = {"name": report["name"], "batch": batch}
    told = {"version": report["version"], "started": report.get("started", "")}
    told |= {decision: report["decisions"].get(decision, 0) for decision in DECISIONS}
    where = and_(*(BATCHES.c[column] == value for column, value in key.items()))
    if not connection.execute(update(BATCHES).where(where).values(told)).rowcount:
        connection.execute(insert(BATCHES).values(key | told))
    return report["name"]


def _standing(connection: Connection, name: str, batch: str, ids: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(ids), MANY):
        asked = and_(LABELS.c.name == name, LABELS.c.batch == batch, LABELS.c.id.in_(ids[start : start + MANY]))
        for row in connection.execute(select(LABELS).where(asked)).mappings():
            found[row["id"]] = dict(row)
    return found


def _upsert(
    connection: Connection, given: dict[str, Any], before: dict[str, Any] | None, dated: bool
) -> tuple[str, dict[str, Any]]:
    """Insert or replace one label: what happened, and the label that stands. An empty defect or name takes none away
    from an equal label."""
    if before is None:
        connection.execute(insert(LABELS).values(given))
        return "new", given
    if dated and given["given_at"] < before["given_at"]:
        return "older", before
    if given["label"] == before["label"]:
        given |= {column: given[column] or before[column] for column in ("defect", "who")}
    if all(given[column] == before[column] for column in ("label", "defect", "who")):
        return "same", before
    key = and_(*(LABELS.c[column] == given[column] for column in ("name", "batch", "id")))
    times = select(func.count()).where(and_(*(BEFORE.c[column] == given[column] for column in ("name", "batch", "id"))))
    connection.execute(insert(BEFORE).values(before | {"replaced": connection.execute(times).scalar_one() + 1}))
    connection.execute(update(LABELS).where(key).values(given))
    return "changed", given


def quality(name: str, version: int | None = None) -> pd.DataFrame:
    """Precision and recall of the model `name` by the labels that came back, one row per batch with any, the oldest
    first; see label_quality.py for when they are right.

    Columns: batch, version, started; alarms, reviews, accepted and, of them, labelled_alarms, labelled_reviews,
    labelled_accepted; true_alarms; precision, precision_low, precision_high, recall, recall_low, recall_high (NaN where
    labels do not tell), and the same with `cumulated_` for this and all earlier rows. Raises RegistryError."""
    asked = BATCHES.c.name == name if version is None else and_(BATCHES.c.name == name, BATCHES.c.version == version)
    grouped = (LABELS.c.batch, LABELS.c.decision)
    counted = select(*grouped, func.count(), func.sum(LABELS.c.label)).where(LABELS.c.name == name).group_by(*grouped)
    with database.transaction() as connection:
        batches = connection.execute(select(BATCHES).where(asked).order_by(BATCHES.c.started, BATCHES.c.batch))
        listed = [dict(row) for row in batches.mappings()]
        labelled = {(batch, decision): (n, int(k)) for batch, decision, n, k in connection.execute(counted)}
    rows, sums = [], dict.fromkeys(DECISIONS, Stratum())
    for one in listed:
        each = {name: Stratum(one[name], *labelled.get((one["batch"], name), (0, 0))) for name in DECISIONS}
        sums = {name: sums[name] + each[name] for name in DECISIONS}
        rows.append(
            {**{key: one[key] for key in ("batch", "version", "started")}, **_told(each), **_told(sums, "cumulated_")}
        )
    none = dict.fromkeys(DECISIONS, Stratum())
    columns = ["batch", "version", "started", *_told(none), *_told(none, "cumulated_")]
    return pd.DataFrame(rows, columns=columns)


def _told(strata: dict[str, Stratum], before: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for decision, plural in (("reject", "alarms"), ("review", "reviews"), ("accept", "accepted")):
        found |= {plural: strata[decision].samples, f"labelled_{plural}": strata[decision].labelled}
    found["true_alarms"] = strata["reject"].anomalous
    for what, one in (("precision", precision(strata["reject"])), ("recall", recall(strata))):
        ends = (float("nan"),) * 3 if one is None else (one.value, one.low, one.high)
        found |= dict(zip((what, f"{what}_low", f"{what}_high"), ends, strict=True))
    return {before + key: value for key, value in found.items()}
