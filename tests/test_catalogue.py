"""The tables of detectors: what counts, what is left out, and what the words promise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import catalogue, detectors
from pipeline.errors import DataError
from pipeline.params import build
from pipeline.tables import find
from tests.detectors.table.rows import mixed, view

IMAGES, TABLES = catalogue.KINDS["image"], catalogue.KINDS["table"]


def image(**more: Any) -> dict[str, Any]:
    row = {"set": "a", "on": "test", "dataset": {"size": [224, 224], "fit": "stretch"}, "params": {"detector": "x"}}
    return row | {"train": 100, "fit_s": 2.0, "images_per_s": 100.0, "image_auroc": 0.9, "aupro": 0.5} | more


def test_of_several_rows_of_a_set_the_one_nearest_to_the_defaults_counts() -> None:
    rows = [image(params={"detector": "x", "coreset": 0.1}, image_auroc=0.8), image(backbone={"name": "y"})]
    rows.append(image(set="b", image_auroc=0.7))
    assert IMAGES.cells(rows, rows) == ["0.900 / 0.500", "0.700 / 0.500"]
    assert IMAGES.cells(rows[:2], rows) == ["0.900 / 0.500", ""]


def test_other_sizes_settings_on_calibration_normals_and_given_defects_are_apart() -> None:
    plain, given = IMAGES.regimes.values()
    assert plain(image())
    assert not plain(image(on="given"))
    assert not plain(image(dataset={"size": [448, 448], "fit": "stretch"}))
    masked = image(labels="10% of the defects given with masks")
    assert given(masked)
    assert not plain(masked)
    assert plain(image(params={"detector": "x", "backbone": {"name": "mobilenetv2_100"}}))
    assert not plain(image(params={"detector": "x", "backbone": {"name": "resnet18"}}))


def test_other_regimes_ablations_and_peers_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = [{}, {"regime": "all-class"}, {"ablation": "no maps"}]
    rows = [image(by="assay", **one) for one in more] + [image(by="anomalib")]
    (tmp_path / IMAGES.file).write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(catalogue, "RESULTS", tmp_path)
    assert IMAGES.rows() == rows[:1]


@pytest.mark.parametrize(
    ("fit_s", "per_s", "says"),
    [(2.0, 100.0, "fast (30&nbsp;ms)"), (10.0, 100.0, "medium (110&nbsp;ms)"), (50.0, 10.0, "slow (600&nbsp;ms)")],
)
def test_the_speed_of_an_image_detector_is_what_an_image_takes(fit_s: float, per_s: float, says: str) -> None:
    assert IMAGES.speed([image(fit_s=fit_s, images_per_s=per_s)]) == says


def test_without_a_figure_no_speed_is_named() -> None:
    row = image()
    del row["fit_s"]
    assert IMAGES.speed([row]) == TABLES.speed([]) == "not measured"


def test_the_speed_of_a_table_detector_is_that_on_the_largest_set() -> None:
    rows = [{"rows": 10, "seconds": 5.0, "options": {}}, {"rows": 1000, "seconds": 0.25, "options": {}}]
    assert TABLES.speed(rows) == "medium (0.25&nbsp;s)"


def test_a_mean_over_some_of_the_sets_is_not_shown() -> None:
    rows = [{"set": name, "auroc": [0.8, 0.9], "ap": [0.5, 0.7]} for name in "ab"]
    assert TABLES.cells(rows, rows) == ["0.850", "0.600"]
    assert TABLES.cells(rows[:1], rows) == ["", ""]


def test_the_tables_hold_every_detector() -> None:
    for path in (catalogue.README, catalogue.PAGE):
        text = path.read_text(encoding="utf-8")
        assert [key for key in detectors.TABLE if f"`{key}`" not in text] == []


TABLE_KEYS = [key for key in detectors.TABLE if key.split("/")[0] == "table"]


@pytest.mark.parametrize("key", TABLE_KEYS)
def test_those_that_need_labels_refuse_to_learn_without_and_no_others_do(key: str) -> None:
    cls: Any = find(detectors, key, "detector")
    own = [row for row in TABLES.rows() if row["detector"] == key.partition("/")[2] and row["labels"] == 0]
    options = {"steps": 20} if hasattr(cls, "steps") else {}
    detector = build(cls, options, "candidates.x")
    frame = mixed(60)
    train = view(frame, [0] * 60)
    if catalogue._labels(cls, own) == "needed":
        with pytest.raises(DataError, match="anomal"):
            detector.fit(train)
    else:
        assert np.isfinite(detector.fit(train).score(next(iter(train.batches(60)))).sample).all()
