"""The names by which the runs of candidates line up."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

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


def test_pictures_of_an_error_are_shown_on_one_sheet(tmp_path: Path) -> None:
    for kind in ("anomalies_scored_lowest", "normals_scored_highest"):
        (tmp_path / "overlays" / kind).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (90, 30), (50 * index, 0, 0)).save(tmp_path / "overlays" / kind / f"{index}.png")
    order = [
        f"{kind}/{index}.png" for kind in ("normals_scored_highest", "anomalies_scored_lowest") for index in (3, 0, 4)
    ]
    pd.DataFrame({"id": "x", "path": order}).to_csv(tmp_path / "overlays/index.csv", index=False)
    found = run_record.shown_pictures(tmp_path)
    assert list(found) == ["overlays/normals", "overlays/anomalies"]
    sheet = run_record.sheet(found["overlays/normals"])
    assert sheet.size == (90, 90)
    assert [sheet.getpixel((45, y))[0] for y in (15, 45, 75)] == [150, 0, 200]  # the worst first
    assert run_record.sheet(found["overlays/normals"][:1]).size == (90, 30)
    assert run_record.shown_pictures(tmp_path / "none") == {}
