"""Tables by class, category, group and severity, from a test part with errors of our own."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import params
from pipeline.candidate import Candidate
from pipeline.files import write_json
from pipeline.reports import by_class
from pipeline.reports.document import Table
from pipeline.reports.evaluated import Evaluated


@pytest.fixture
def evaluated(line: Path) -> Evaluated:
    """60 normals, of which 3 of the category b raise alarms; 40 anomalies, of which the 10 dents escape."""
    folder = line / "reports/candidates/many"
    label = np.repeat([0, 1], [60, 40])
    decision = np.array(["accept"] * 57 + ["reject"] * 33 + ["accept"] * 10)
    table = pd.DataFrame({"id": [str(i) for i in range(100)], "label": label, "decision": decision, "score": 1.0})
    table["defect"] = np.repeat(["", "", "hole", "dent"], [30, 30, 30, 10])
    table["category"] = np.repeat(["a", "b", "a"], [30, 30, 40])
    table["group"] = [f"g{i // 2}" for i in range(100)]
    table.to_parquet(folder / "scores.parquet", index=False)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {
        "defect.dent.auroc": 0.25,
        "severity.1.mean": 1.0,
        "severity.1.auroc": 0.75,
        "severity.concordance": 0.5,
    }
    metrics |= {
        "group.n_normal": 30,
        "group.specificity": 0.9,
        "group.specificity_low": 0.7,
        "group.specificity_high": 1,
    }
    write_json(folder / "metrics.json", metrics)
    return Evaluated(Candidate(params.read(line / "params.yaml"), line, "many"))


def test_what_is_worst_comes_first(evaluated: Evaluated) -> None:
    found = {block.caption.split(",")[0].split(" (")[0]: block for block in by_class.tables(evaluated)}
    assert all(isinstance(block, Table) for block in found.values())
    defects, severity, category, group, whole = found.values()
    assert [row[:5] for row in defects.rows] == [["dent", "10", "10", "0", "0"], ["hole", "30", "0", "0", "30"]]
    assert [row[6] for row in defects.rows] == ["0.25", "—"]
    assert severity.rows == [["1", "1", "0.75"]]
    assert [row[0] for row in category.rows] == ["a", "b"]
    assert category.rows[1][2].startswith("10\N{NO-BREAK SPACE}% (2.11 to")
    assert [row[0] for row in group.rows] == ["g29", "g45", "g46", "g47", "g48", "g49", "g28"]
    assert "only those with any" in group.caption
    assert whole.rows == [["normal groups", "30", "specificity 0.900 (0.700 to 1.000)"]]


def test_many_classes_are_bounded(evaluated: Evaluated) -> None:
    table = evaluated.table.copy()
    table["defect"] = [f"d{i}" for i in range(100)]
    table["label"] = 1
    table.to_parquet(evaluated.candidate.report / "scores.parquet", index=False)
    defects = by_class.tables(Evaluated(evaluated.candidate))[0]
    assert len(defects.rows) == by_class.GROUPS
    assert defects.note == "and 50 more, in reports/candidates/many/metrics.json"
