"""Curves of different runs stand on one grid, and never say more than was reached."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline import curves, metrics

ROC, PR = curves.CURVES["roc"], curves.CURVES["pr"]


def test_a_step_has_the_best_that_was_reached_up_to_it() -> None:
    points = pd.DataFrame({"false_alarm_rate": [0, 0, 0.025, 0.025, 1], "detection_rate": [0, 0.5, 0.5, 0.75, 1]})
    rows = curves.on_grid(points, ROC)
    assert list(rows["step"]) == list(range(101))
    assert list(rows["y"][[0, 2, 3, 99, 100]]) == [0.5, 0.5, 0.75, 0.75, 1.0]
    assert rows["x"][29] == 0.29


def test_precision_is_that_of_the_first_threshold_that_reaches_a_recall() -> None:
    points = pd.DataFrame({"recall": [0.5, 0.5, 1.0, 1.0], "precision": [1.0, 0.5, 0.67, 0.4]})
    rows = curves.on_grid(points, PR)
    assert list(rows["y"][[0, 50, 51, 100]]) == [1.0, 1.0, 0.67, 0.67]


def test_the_grid_keeps_the_area(tmp_path: Path) -> None:
    label = [0, 0, 1, 0, 1, 1, 0, 1, 0, 0]
    scores = pd.Series([0.1, 0.4, 0.35, 0.8, 0.9, 0.7, 0.2, 0.6, 0.3, 0.05]).to_numpy()
    found = metrics.roc_curve(pd.Series(label).to_numpy(), scores)
    pd.DataFrame({"false_alarm_rate": found.x, "detection_rate": found.y}).to_csv(tmp_path / "roc.csv", index=False)
    (rows,) = curves.read(tmp_path).values()
    assert rows["y"][:-1].mean() == pytest.approx(metrics.auroc(pd.Series(label).to_numpy(), scores), abs=0.01)


def test_only_the_curves_that_a_report_holds_come(tmp_path: Path) -> None:
    assert curves.read(tmp_path) == {}
    (tmp_path / "pr.csv").write_text("recall,precision\n")
    assert curves.read(tmp_path) == {}
    (tmp_path / "pro.csv").write_text("false_alarm_rate,region_overlap\n0,0\n0.01,0.5\n0.3,1\n")
    (rows,) = curves.read(tmp_path).values()
    assert list(rows["step"][:4]) == [0, 5, 10, 15]
    assert list(rows["y"][[0, 1, 2, 60]]) == [0, 0, 0.5, 1]
