"""How well defects are found by class and severity, and how groups and categories fare."""

import pandas as pd

from pipeline.label_quality import DECISIONS
from pipeline.protocols import ANOMALOUS, NORMAL
from pipeline.reports.document import Block, Table, Text, short
from pipeline.reports.evaluated import Evaluated
from pipeline.reports.passages import GROUPS, figure, more, rate

UNNAMED = "(no name)"
ALARM = "reject"
FEW = 4  # samples of a value on average, below which only values with errors are listed
SEVERITY = "severity."


def tables(evaluated: Evaluated) -> list[Block]:
    """One table per way in which the test samples are divided; a sentence where they are not."""
    table = evaluated.table[evaluated.table["label"].isin([NORMAL, ANOMALOUS])]
    found = [*_defects(table, evaluated), *_severities(evaluated)]
    for column in ("category", "group"):
        if column in table:
            found += _divided(table, column, evaluated)
    found += _whole_groups(evaluated)
    return found or [Text("The test samples are of one class and of no group, so there is nothing to divide them by.")]


def _defects(table: pd.DataFrame, evaluated: Evaluated) -> list[Block]:
    anomalies = table[table["label"] == ANOMALOUS]
    if not (anomalies["defect"] != "").any():
        return []
    rows = []
    for name, some in anomalies.groupby("defect"):
        counts = [int((some["decision"] == decision).sum()) for decision in DECISIONS]
        area = figure(evaluated.metrics.get(f"defect.{name}.auroc"))
        told = [f"{len(some):,}", *(f"{n:,}" for n in counts), rate(counts[2], len(some)), area]
        rows.append((counts[2] / len(some), [short(str(name)) or UNNAMED, *told]))
    worst = [row for _, row in sorted(rows, key=lambda each: each[0])]
    headings = ["defect", "samples", "accept", "review", "reject", "detected (95 %)", "AUROC"]
    note = more(len(worst), GROUPS, f"{evaluated.where}/metrics.json")
    return [
        Table(headings, worst[:GROUPS], "By class of defect, the least detected first", frozenset(range(1, 7)), note)
    ]


def _severities(evaluated: Evaluated) -> list[Block]:
    found = {key.removeprefix(SEVERITY): value for key, value in evaluated.metrics.items() if key.startswith(SEVERITY)}
    levels = sorted({key.rpartition(".")[0] for key in found if "." in key}, key=float)
    if not levels:
        return []
    rows = [[level, figure(found.get(f"{level}.mean")), figure(found.get(f"{level}.auroc"))] for level in levels]
    told = [f"{name} {figure(found[name])}" for name in ("concordance", "kendall") if name in found]
    caption = "By severity (0: normal)" + (f"; {', '.join(told)}" if told else "")
    return [Table(["severity", "mean score", "AUROC against normals"], rows[:GROUPS], caption, frozenset({1, 2}))]


def _divided(table: pd.DataFrame, column: str, evaluated: Evaluated) -> list[Block]:
    """False alarms and detections by the values of a column, those with most errors first; where a value has few
    samples, only values with errors."""
    named = table[table[column] != ""]
    if named.empty:
        return []
    few = named[column].nunique() * FEW > len(named)
    rows = []
    for name, some in named.groupby(column):
        normal, alarm = some["label"] == NORMAL, some["decision"] == ALARM
        false, good, caught, bad = (int(x.sum()) for x in (normal & alarm, normal, ~normal & alarm, ~normal))
        rows.append(
            (-(false + bad - caught), [short(str(name)), f"{good:,}", rate(false, good), f"{bad:,}", rate(caught, bad)])
        )
    worst = [row for errors, row in sorted(rows, key=lambda each: each[0]) if errors or not few]
    if not worst:
        return []
    headings = [column, "normals", "false alarms (95 %)", "anomalies", "detected (95 %)"]
    note = more(len(worst), GROUPS, f"{evaluated.where}/scores.parquet")
    caption = f"By {column}, most errors first" + (" (only those with any)" if few else "")
    return [Table(headings, worst[:GROUPS], caption, frozenset(range(1, 5)), note)]


def _whole_groups(evaluated: Evaluated) -> list[Block]:
    """How whole groups are judged (see group_metrics.py), where samples belong to any."""
    found = evaluated.metrics
    rows = []
    for count, hit, what in (("n_normal", "specificity", "normal"), ("n_anomalous", "sensitivity", "anomalous")):
        n = found.get(f"group.{count}", 0)
        if n and f"group.{hit}" in found:
            low, high = found[f"group.{hit}_low"], found[f"group.{hit}_high"]
            rows.append([f"{what} groups", f"{n:,}", f"{hit} {found[f'group.{hit}']:.3f} ({low:.3f} to {high:.3f})"])
    area = found.get("group.auroc")
    caption = "Whole groups, judged by all their samples together" + (f"; AUROC {area:.4f}" if area is not None else "")
    return [Table(["groups", "number", "judged right (95 %)"], rows, caption, frozenset({1}))] if rows else []
