"""A model folder in use: scores, p-values and decisions by hand, and the calibration that must be its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import store
from pipeline.errors import DataError, ModelError
from pipeline.model import COLUMNS, Model
from pipeline.samples import part
from pipeline.stages import DATASET, SPLIT


@pytest.fixture
def folder(line: Path) -> Path:
    """A model folder with its calibration in it, as MLflow holds it."""
    shutil.copyfile(line / "models/many.calibration.json", line / "models/many/calibration.json")
    return line / "models/many"


@pytest.fixture
def rows(line_that_ran: Path) -> pd.DataFrame:
    return part(line_that_ran / DATASET, line_that_ran / SPLIT, "test")


def test_scores_p_values_and_decisions(folder: Path, rows: pd.DataFrame) -> None:
    model = Model.load(folder)
    samples = model.stored.modality.samples(rows)
    found = model.score(samples)
    assert tuple(found.columns) == COLUMNS
    assert found["id"].tolist() == rows["id"].tolist()
    (batch,) = samples.batches(len(rows))
    raw = store.load(folder).detector.score(batch).sample
    np.testing.assert_array_equal(found["score"].to_numpy(), raw)
    assert found["score"].dtype == np.float32
    card = json.loads((folder / "calibration.json").read_text())
    normals = np.array(card["known"]["normals"], np.float32)
    by_hand = [(1 + int((normals >= s).sum())) / (1 + len(normals)) for s in raw]
    np.testing.assert_array_equal(found["p_value"].to_numpy(), by_hand)
    decisions = ["reject" if s > np.float32(card["thresholds"]["alarm"]) else "accept" for s in raw]
    assert found["decision"].tolist() == decisions
    assert set(decisions) == {"accept", "reject"}


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_batch_size_does_not_matter(size: int, folder: Path, rows: pd.DataFrame) -> None:
    model = Model.load(folder)
    samples = model.stored.modality.samples(rows)
    pd.testing.assert_frame_equal(model.score(samples, size), model.score(samples), check_exact=True)


def test_no_samples_give_no_rows(folder: Path, rows: pd.DataFrame) -> None:
    model = Model.load(folder)
    none = model.score(model.stored.modality.samples(rows.iloc[:0]))
    some = model.score(model.stored.modality.samples(rows.iloc[:2]))
    assert len(none) == 0
    assert none.dtypes.tolist() == some.dtypes.tolist()


def test_a_frame_is_scored_as_the_samples_are_and_keeps_its_index(folder: Path, rows: pd.DataFrame) -> None:
    model = Model.load(folder)
    frame = model.stored.modality.to_frame(rows).set_axis(range(100, 100 + len(rows)))
    found = model.predict(frame)
    expected = model.score(model.stored.modality.samples(rows))
    assert found.columns.tolist() == ["score", "p_value", "decision"]
    assert found.index.tolist() == frame.index.tolist()
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.drop(columns="id"), check_exact=True)


def test_a_frame_of_something_else_is_refused(folder: Path) -> None:
    with pytest.raises(DataError):
        Model.load(folder).predict(pd.DataFrame({"path": ["a.png"]}))


def test_every_sample_is_drawn_once(folder: Path, rows: pd.DataFrame, tmp_path: Path) -> None:
    model = Model.load(folder)
    drawn = model.draw(model.stored.modality.samples(rows.iloc[:3]), tmp_path / "out", batch=2)
    assert len(set(drawn)) == 3
    assert all(path.is_file() and path.is_relative_to(tmp_path / "out") for path in drawn)


def test_the_calibration_may_lie_beside_the_folder(line_that_ran: Path, folder: Path) -> None:
    models = line_that_ran / "models"
    beside = Model.load(models / "many", models / "many.calibration.json")
    np.testing.assert_array_equal(beside.calibration.scores, Model.load(folder).calibration.scores)


def test_another_models_calibration_is_refused(line: Path) -> None:
    models = line / "models"
    with pytest.raises(ModelError, match=r"few\.calibration\.json must be the calibration of the model in .*many"):
        Model.load(models / "many", models / "few.calibration.json")


def test_a_folder_without_calibration_is_refused(line: Path) -> None:
    with pytest.raises(ModelError, match=r"calibration\.json"):
        Model.load(line / "models/many")
