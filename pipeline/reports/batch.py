"""The report of one scored batch: what was decided, what raised alarms and why, what could not be read, as a document
for people.

Memory grows by 4 bytes a sample; tables and pictures are bounded, however many alarms there are.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipeline import metrics
from pipeline.files import sha256
from pipeline.model import CALIBRATION
from pipeline.reports import charts, lineage
from pipeline.reports.charts import Series
from pipeline.reports.document import (
    NONE,
    Block,
    Chart,
    Document,
    Facts,
    Gallery,
    Numbers,
    Picture,
    Section,
    Table,
    Text,
    short,
)
from pipeline.reports.passages import because, between, counted, figure, more, over_time, share, spread, thresholds
from pipeline.threshold import Calibration

LISTED = 100  # alarms, samples for review, disagreements
SET_ASIDE = 50  # samples that could not be read
AT_A_TIME = 65_536  # rows read
COLUMNS = ("id", "score", "p_value", "decision", "because")


@dataclass(frozen=True)
class Scored:
    """A scored batch: its folder, its report (see results.py), the calibration that judged it and the folder of the
    model that scored it (None where they are gone), and the batches up to this one that its version scored."""

    folder: Path
    report: dict[str, Any]
    calibration: Calibration | None
    model: Path | None
    history: pd.DataFrame

    @property
    def where(self) -> str:
        """The batch's folder, as seen from the line."""
        return f"scores/{self.folder.name}"

    @cached_property
    def scores(self) -> np.ndarray:
        return pq.read_table(self.folder / "scores.parquet", columns=["score"])["score"].to_numpy().astype(np.float32)


@dataclass(frozen=True)
class Listed:
    """The highest-scored samples of one decision, the highest first."""

    rows: pd.DataFrame

    @classmethod
    def of(cls, path: Path, decisions: tuple[str, ...]) -> dict[str, Self]:
        """For each of `decisions` the first LISTED samples of the scores at `path`, ties in the order of the source."""
        file = pq.ParquetFile(path)
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        kept = {decision: pd.DataFrame(columns=columns) for decision in decisions}
        for part in file.iter_batches(AT_A_TIME, columns=columns):
            rows = part.to_pandas()
            for decision in decisions:
                some = rows[rows["decision"] == decision].nlargest(LISTED, "score", keep="first")
                if len(some):
                    both = pd.concat([kept[decision], some]) if len(kept[decision]) else some
                    kept[decision] = both.sort_values("score", ascending=False, kind="stable").head(LISTED)
        return {decision: cls(rows) for decision, rows in kept.items()}


def build(scored: Scored) -> Document:
    """The report of a batch, whatever it holds: no sample, or alarms only."""
    report = scored.report
    listed = Listed.of(scored.folder / "scores.parquet", ("reject", "review"))
    alarms, review = listed["reject"].rows, listed["review"].rows
    version = f"{report['name']} version {report['version']}"
    source = short(str(report.get("source", NONE)))
    when = str(report.get("started", ""))[:16].replace("T", " ")
    return Document(
        f"{report['name']}: batch {report['batch']}",
        f"{counted(report['samples'], 'sample')} of {source}, scored with {version}, {when}",
        [
            Section("Decision", _decision(scored)),
            Section("Scores and thresholds", _scores(scored)),
            Section("Worst alarms", _pictures(scored, alarms)),
            Section("Alarms", _alarms(scored, alarms)),
            Section("For review", _review(scored, review)),
            Section("Not read", _quarantine(scored)),
            Section("Failed shards", _failed(report)),
            Section("Shadow", _shadow(scored)),
            Section("Over time", over_time(scored.history, version)),
            Section("Lineage", lineage.of_batch(report, scored.model, _digest(scored))),
        ],
        "Made by assay. Everything on this page is in this file; nothing is loaded from elsewhere.",
    )


def _decision(scored: Scored) -> list[Block]:
    report = scored.report
    n, counts = report["samples"], report["decisions"]
    failed = (
        f" {counted(len(report['failed']), 'shard')} failed, so this is not the whole batch."
        if report["failed"]
        else ""
    )
    rows = [
        ("samples", f"{n:,}", ""),
        (
            "alarms",
            f"{counts['reject']:,}",
            f"{share(counts['reject'] / n)} ({between(counts['reject'], n)})" if n else "",
        ),
        ("for review", f"{counts['review']:,}", share(counts["review"] / n) if n else ""),
        ("accepted", f"{counts['accept']:,}", share(counts["accept"] / n) if n else ""),
        ("not read", f"{report['quarantined']:,}", "set aside, with reasons" if report["quarantined"] else ""),
    ]
    said, tone = _against_promise(report)
    return [Text(said + failed, "bad" if failed else tone), Numbers(rows), Text(f"Promise: {report['promise']}.")]


def _against_promise(report: dict[str, Any]) -> tuple[str, Any]:
    """Whether there are more alarms than normals alone would raise, in a sentence; and the tone to say it in."""
    n, alarms, promised = report["samples"], report["decisions"]["reject"], report["promised_rate"]
    if not n:
        return "The batch holds no sample that could be scored.", "bad" if report["quarantined"] else "plain"
    told = f"{counted(alarms, 'alarm')} among {counted(n, 'sample')}: {share(alarms / n)}, "
    told += f"with 95 % certainty {between(alarms, n)}."
    if report["false_discovery_rate"] is not None:
        rate = share(report["false_discovery_rate"])
        return f"{told} On average at most {rate} of all alarms are false.", "bad" if alarms else "good"
    if promised is None:
        return f"{told} No rate of false alarms was promised.", "plain"
    low = metrics.interval(alarms, n)[0]
    if low > promised:
        return (
            f"{told} That is more than the {share(promised)} that normals alone would raise: the batch holds "
            "anomalies, or has become another kind of batch.",
            "bad",
        )
    return f"{told} Normals alone raise up to {share(promised)}, as promised.", "good"


def _scores(scored: Scored) -> list[Block]:
    """The batch's scores over those of the calibration normals, with the thresholds."""
    known = np.zeros(0, np.float32) if scored.calibration is None else scored.calibration.scores
    limits = {} if scored.calibration is None else scored.calibration.thresholds
    if not len(scored.scores) and not len(known):
        return []
    series = [Series("calibration normals", known), Series("this batch", scored.scores, filled=False)]
    chart, beyond = charts.histogram(series, limits)
    alt = f"Histogram of scores: {spread('calibration normals', known)}; "
    alt += f"{spread('samples of this batch', scored.scores)}."
    alt += f" The alarm threshold is {figure(limits['alarm'])}." if limits else ""
    caption = "Scores of the batch, and of the normals that the promise rests on, each as shares of itself."
    caption += f" The last bar holds {counted(beyond, 'score')} beyond the axis." if beyond else ""
    gone = (
        [] if scored.calibration else [Text("The calibration that judged this batch is no longer to be found.", "note")]
    )
    return [Chart(chart, alt, caption), *gone, *(thresholds(scored.calibration) if scored.calibration else [])]


def _pictures(scored: Scored, alarms: pd.DataFrame) -> list[Block]:
    """The pictures that scoring drew, the worst alarm first."""
    paths = scored.report["pictures"]
    if not paths:
        return []
    told = [_told(row) for row in alarms.head(len(paths)).itertuples()]
    told += paths[len(told) :]
    drawn = [Picture(scored.folder / path, said, said) for path, said in zip(paths, told, strict=True)]
    all_alarms = scored.report["decisions"]["reject"]
    which = (
        f"The {len(drawn)} worst of {all_alarms:,} alarms" if all_alarms > len(drawn) else "All alarms, the worst first"
    )
    return [Gallery(drawn, which)]


def _told(row: Any) -> str:
    why = because(getattr(row, "because", ""))
    return f"{short(row.id)}: score {row.score:.4g}, p-value {row.p_value:.3g}" + (f"; {why}" if why else "")


def _alarms(scored: Scored, alarms: pd.DataFrame) -> list[Block]:
    count = scored.report["decisions"]["reject"]
    return [_list(alarms, count, f"{scored.where}/scores.parquet")] if count else [Text("No sample raised an alarm.")]


def _review(scored: Scored, review: pd.DataFrame) -> list[Block]:
    count = scored.report["decisions"]["review"]
    if not count:
        return []
    said = "Between the two thresholds a person decides: make review shows these samples one by one."
    return [Text(said), _list(review, count, f"{scored.where}/scores.parquet")]


def _list(rows: pd.DataFrame, count: int, where: str) -> Table:
    """Samples with their scores, and why they are alarms where that is known."""
    told = "because" in rows and (rows["because"] != "").any()
    cells = [
        [short(row.id), figure(row.score), f"{row.p_value:.3g}", *([because(row.because)] if told else [])]
        for row in rows.itertuples()
    ]
    headings = ["sample", "score", "p-value", *(["because (+: what it added to the score)"] if told else [])]
    caption = "The highest score first"
    return Table(headings, cells, caption, frozenset({1, 2}), more(count, len(cells), where))


def _quarantine(scored: Scored) -> list[Block]:
    """Reasons with their counts, and the first samples that were set aside."""
    report = scored.report
    if not report["quarantined"]:
        return []
    reasons = sorted(report["reasons"].items(), key=lambda each: -each[1])
    rows = [[short(reason, 300), f"{count:,}"] for reason, count in reasons[:SET_ASIDE]]
    where = f"{scored.where}/quarantine/"
    found: list[Block] = [
        Table(["reason", "samples"], rows, "Why", frozenset({1}), more(len(reasons), len(rows), f"{where}rejected.csv"))
    ]
    path = scored.folder / "quarantine/rejected.parquet"
    if path.exists():
        each = pd.read_parquet(path)
        cells = [[short(str(row.id)), short(str(row.reason), 300)] for row in each.head(SET_ASIDE).itertuples()]
        note = more(len(each), len(cells), f"{where}rejected.csv")
        found.append(Table(["sample", "reason"], cells, f"The samples, as they are kept in {where}", note=note))
    return found


def _failed(report: dict[str, Any]) -> list[Block]:
    failed = report["failed"]
    if not failed:
        return []
    rows = [[f"{each['shard']:,}", short(each["error"], 300)] for each in failed[:SET_ASIDE]]
    note = more(len(failed), len(rows), "report.json")
    said = f"{len(failed):,} of {counted(report['shards'], 'shard')} failed; scoring the batch again does only these."
    return [Text(said, "bad"), Table(["shard", "error"], rows, "", frozenset({0}), note)]


def _shadow(scored: Scored) -> list[Block]:
    """What the challenger would have decided otherwise."""
    shadow = scored.report.get("shadow")
    if shadow is None:
        return []
    if "failed" in shadow:
        return [Text(f"Version {shadow['version']} could not score beside the champion: {shadow['failed']}", "bad")]
    apart = sum(shadow["disagree"].values())
    said = f"Version {shadow['version']}, which decided nothing, agrees on {counted(shadow['agree'], 'sample')} "
    said += f"and differs on {apart:,}."
    if not apart:
        return [Text(said)]
    pairs = [(pair, f"{count:,}") for pair, count in shadow["disagree"].items()]
    rows = [[short(each["id"]), each["decision"], each["shadow_decision"]] for each in shadow["samples"][:LISTED]]
    note = more(apart, len(rows), f"{scored.where}/scores.parquet")
    return [
        Text(said),
        Facts(pairs, "Champion -> shadow"),
        Table(["sample", "champion", "shadow"], rows, "The most anomalous of them", note=note),
    ]


def _digest(scored: Scored) -> str:
    path = None if scored.model is None else scored.model.parent / CALIBRATION
    return sha256(path) if path is not None and path.exists() else ""
