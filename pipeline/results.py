"""The results of a batch, put together from its shards; memory does not grow with their number.

scores.parquet   id, score, p_value, decision, in tables `because` of alarms (see explanation.py), with a shadow its
                 score, p_value and decision, model_name, model_version, data_hash; rows in the order of the source
report.json      counts, rates, the promise, what failed and why
inputs.parquet   facts about some of the samples, for monitoring
alarms/          pictures of the worst alarms
quarantine/      what could not be read, with reasons
samples/         the samples themselves, one dataset folder per shard, as `score.keep` says
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import shards, threshold
from pipeline.files import link, write_json
from pipeline.model import Model
from pipeline.operation import Score
from pipeline.samples import read_manifest
from pipeline.shards import Shard

PICTURES = 50  # alarms that are drawn, and disagreements with a shadow that are listed
DECISIONS = ("accept", "review", "reject")


def write(out: Path, model: Model, done: Path, found: list[Shard], report: dict[str, Any], score: Score) -> None:
    """Fill the folder `out` of a batch from its shards in `done`; completes `report`, which goes there, too."""
    good = [shard for shard in found if not shard.error]
    shadow = report.pop("shadow", None)
    broken = next((shard.shadow_failed for shard in good if shard.shadow_failed), None)
    if shadow is not None and broken:
        shadow = {"version": shadow["version"], "failed": broken}
    with_shadow = shadow is not None and "failed" not in shadow
    limit = _limit(done, good, score)
    counts: Counter[str] = Counter()
    worst = pd.DataFrame(columns=["shard", "id", "score"])
    apart = _Apart()
    empty = shards.nothing({"model_name": "", "model_version": 0, "data_hash": ""})
    writer: pq.ParquetWriter | None = None
    try:
        for shard, table in (
            _tables(done, good) if good else [(None, pa.Table.from_pandas(empty, preserve_index=False))]
        ):
            if limit is not None:
                table = pa.Table.from_pandas(_decided(table.to_pandas(), model, limit), preserve_index=False)
            if with_shadow:
                apart.note(table.to_pandas())
            else:
                table = table.drop_columns([name for name in table.column_names if name.startswith("shadow_")])
            for each in pc.value_counts(table["decision"]).to_pylist():
                counts[each["values"]] += each["counts"]
            if shard is not None:
                alarms = table.filter(pc.equal(table["decision"], "reject")).select(["id", "score"]).to_pandas()
                worst = _worst(worst, alarms.assign(shard=shard.number))
            if writer is None:
                writer = pq.ParquetWriter(out / "scores.parquet", table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    _gather(out, done, good, score)
    pictures = _draw(out, model, done, worst, score)
    samples, quarantined = sum(counts.values()), sum(shard.quarantined for shard in good)
    reasons: Counter[str] = Counter()
    for shard in good:
        reasons.update(shard.reasons)
    report |= {
        "samples": samples,
        "decisions": {name: counts.get(name, 0) for name in DECISIONS},
        "quarantined": quarantined,
        "reasons": dict(sorted(reasons.items())),
        "shards": len(found),
        "failed": [{"shard": shard.number, "error": shard.error} for shard in found if shard.error],
        "alarm_rate": counts.get("reject", 0) / samples if samples else None,
        "promised_rate": model.calibration.promised_false_alarms,
        "promised_escape_rate": model.calibration.promised_escapes,
        "false_discovery_rate": score.false_discovery_rate,
        "promise": model.calibration.says(),
        "pictures": [path.relative_to(out).as_posix() for path in pictures],
    }
    if shadow is not None:
        report["shadow"] = shadow | (apart.told(samples) if with_shadow else {})
    write_json(out / "report.json", report)


def _tables(done: Path, good: list[Shard]) -> Iterator[tuple[Shard, pa.Table]]:
    for shard in good:
        yield shard, pq.read_table(done / f"{shard.number:05d}.parquet")


def _limit(done: Path, good: list[Shard], score: Score) -> float | None:
    """The p-value up to which all of the batch is an alarm, where a false discovery rate decides; 8 bytes a sample."""
    if score.false_discovery_rate is None:
        return None
    each = [pq.read_table(done / f"{s.number:05d}.parquet", columns=["p_value"])["p_value"].to_numpy() for s in good]
    p = np.concatenate([np.zeros(0), *each])
    alarms = p[threshold.discoveries(p, score.false_discovery_rate)]
    return float(alarms.max()) if len(alarms) else -1.0


def _decided(rows: pd.DataFrame, model: Model, limit: float | None) -> pd.DataFrame:
    """With a false discovery rate, `reject` is what that leaves over the whole batch, and what is above the alarm
    threshold only is for review where there is such a band."""
    if limit is None:
        return rows
    alarm = (rows["p_value"] <= limit).to_numpy()
    spared = "accept" if model.calibration.thresholds["review"] is None else "review"
    before = rows["decision"].to_numpy(object)
    rows["decision"] = np.where(alarm, "reject", np.where(before == "reject", spared, before)).astype(str)
    if "because" in rows:
        rows["because"] = rows["because"].where(alarm, "")
    return rows


def _worst(kept: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    both = pd.concat([kept, more[kept.columns]], ignore_index=True) if len(kept) else more[kept.columns]
    return both.sort_values("score", ascending=False, kind="stable").head(PICTURES)


def _draw(out: Path, model: Model, done: Path, worst: pd.DataFrame, score: Score) -> list[Path]:
    """Pictures of the worst alarms, the worst first, from the samples that their shards kept."""
    if worst.empty:
        return []
    modality = model.stored.modality
    rows = pd.concat(
        [
            _manifest(done / f"{int(number):05d}.samples", set(some["id"]))
            for number, some in worst.groupby("shard", sort=False)
        ]
    )
    rows = rows.set_index("id", drop=False).loc[worst["id"]].reset_index(drop=True)
    return model.draw(modality.samples(rows), out / "alarms", score.batch or modality.batch)


def _manifest(folder: Path, wanted: set[str]) -> pd.DataFrame:
    rows = read_manifest(folder)
    return rows[rows["id"].isin(wanted)]


def _gather(out: Path, done: Path, good: list[Shard], score: Score) -> None:
    """Link what shards kept and set aside into the batch's folder."""
    rejected, described = [], []
    for shard in good:
        name = f"{shard.number:05d}"
        for path in _files(done / f"{name}.quarantine"):
            inside = path.relative_to(done / f"{name}.quarantine")
            if len(inside.parts) > 1:
                link(path, out / "quarantine" / inside)
            elif inside.name == "rejected.parquet":
                rejected.append(pd.read_parquet(path))
        if score.keep != "none":
            for path in _files(done / f"{name}.samples"):
                link(path, out / "samples" / name / path.relative_to(done / f"{name}.samples"))
        if (done / f"{name}.inputs.parquet").exists():
            described.append(pd.read_parquet(done / f"{name}.inputs.parquet"))
    if rejected:
        bad = pd.concat(rejected, ignore_index=True)
        (out / "quarantine").mkdir(exist_ok=True)
        bad.to_parquet(out / "quarantine/rejected.parquet", index=False)
        bad.to_csv(out / "quarantine/rejected.csv", index=False, lineterminator="\n")
    if described:
        pd.concat(described).to_parquet(out / "inputs.parquet")


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


class _Apart:
    """Where a shadow decides otherwise than the champion."""

    def __init__(self) -> None:
        self.pairs: Counter[str] = Counter()
        self.listed = pd.DataFrame(columns=["id", "decision", "shadow_decision", "nearest"])

    def note(self, rows: pd.DataFrame) -> None:
        apart = rows[rows["decision"] != rows["shadow_decision"]]
        self.pairs.update((apart["decision"] + " -> " + apart["shadow_decision"]).value_counts().to_dict())
        nearest = np.minimum(apart["p_value"], apart["shadow_p_value"])
        more = apart[["id", "decision", "shadow_decision"]].assign(nearest=nearest)
        both = pd.concat([self.listed, more], ignore_index=True) if len(self.listed) else more
        self.listed = both.sort_values("nearest", kind="stable").head(PICTURES)

    def told(self, samples: int) -> dict[str, Any]:
        return {
            "agree": samples - sum(self.pairs.values()),
            "disagree": {str(pair): int(count) for pair, count in sorted(self.pairs.items())},
            "samples": self.listed[["id", "decision", "shadow_decision"]].to_dict("records"),
        }
