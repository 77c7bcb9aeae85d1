"""The names by which the runs of candidates line up."""

from pathlib import Path

import pytest

from pipeline import run_record


@pytest.mark.parametrize(
    ("key", "page"),
    [
        ("auroc", "auroc"),
        ("defect.hole.auroc", "defect/hole.auroc"),
        ("defect.a/b.auroc", "defect/a/b.auroc"),
        ("group.sensitivity_low", "group/sensitivity_low"),
        ("history/loss", "history/loss"),
    ],
)
def test_a_figure_is_found_again_by_its_own_name(key: str, page: str) -> None:
    assert run_record.sectioned(key) == page
    assert run_record.plain(page) == key


def test_a_curve_keeps_its_name() -> None:
    assert run_record.plain("curve/roc") == "curve/roc"


def test_some_pictures_of_each_kind_are_shown(tmp_path: Path) -> None:
    for kind in ("anomalies_scored_lowest", "normals_scored_highest"):
        (tmp_path / "overlays" / kind).mkdir(parents=True)
        for index in range(5):
            (tmp_path / "overlays" / kind / f"{index}.png").touch()
    found = run_record.shown_pictures(tmp_path)
    assert [(name, step, path.name) for name, step, path in found[:4]] == [
        ("overlays/anomalies_scored_lowest", 0, "0.png"),
        ("overlays/anomalies_scored_lowest", 1, "1.png"),
        ("overlays/anomalies_scored_lowest", 2, "2.png"),
        ("overlays/normals_scored_highest", 0, "0.png"),
    ]
    assert run_record.shown_pictures(tmp_path / "none") == []
