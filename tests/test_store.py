import hashlib
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline import detectors, store
from pipeline.detectors.table.isolation_forest import IsolationForest
from pipeline.errors import ModelError, NotFittedError
from pipeline.files import sha256
from pipeline.modalities.table import Table
from pipeline.protocols import State
from tests.detectors.table.rows import batch, mixed, view

KEY = "table/isolation_forest"


@pytest.fixture
def fitted() -> IsolationForest:
    return IsolationForest(trees=5, seed=3).fit(view(mixed(50), [0] * 50))


@pytest.fixture
def model(tmp_path: Path, fitted: IsolationForest) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    store.save(fitted, KEY, folder, kind="table", modality=Table(drop=["when"]), data="abc")
    return folder


def change(model: Path, **values: object) -> None:
    card = json.loads((model / "detector.json").read_text())
    (model / "detector.json").write_text(json.dumps({**card, **values}))


def test_loads_what_was_saved(model: Path, fitted: IsolationForest) -> None:
    stored = store.load(model)
    assert (stored.key, stored.kind, stored.data) == (KEY, "table", "abc")
    assert stored.modality == Table(drop=["when"])
    assert stored.detector == fitted  # hyperparameters
    np.testing.assert_array_equal(
        stored.detector.score(batch(mixed(20, seed=1))).sample, fitted.score(batch(mixed(20, seed=1))).sample
    )
    card = json.loads((model / "detector.json").read_text())
    assert card["parameters"] == {"trees": 5, "rows": 256, "columns": 1.0, "seed": 3}
    assert {"python", "numpy", "assay", "scikit-learn"} <= set(card["versions"])
    assert (model / "history.csv").read_text() == "step\n"


def test_saving_the_loaded_model_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    stored = store.load(model)
    (tmp_path / "again").mkdir()
    store.save(
        stored.detector, stored.key, tmp_path / "again", kind="table", modality=stored.modality, data=stored.data
    )
    assert sha256(tmp_path / "again") == sha256(model)


def test_an_unfitted_detector_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        store.save(IsolationForest(), KEY, tmp_path, kind="table", modality=Table(), data="")


# A detector whose state is whatever a test wants to store.
SOURCE = """
from dataclasses import dataclass
from pipeline.protocols import State

@dataclass
class Keeper:
    size: int = 1
    def state(self):
        return self.kept
    def from_state(self, state):
        self.kept = state
        return self
"""


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Saves a state through a detector that only keeps it, and loads it again."""
    module = SimpleNamespace()
    exec(SOURCE, module.__dict__)  # a class of its own module, found through the table as any other
    monkeypatch.setitem(detectors.TABLE, "table/keeper", "Keeper")
    monkeypatch.setitem(sys.modules, "pipeline.detectors.table.keeper", module)
    count = iter(range(100))

    def save(state: State, history: list[dict[str, float]] | None = None) -> Path:
        folder = tmp_path / f"kept-{next(count)}"
        folder.mkdir()
        detector = module.Keeper().from_state(state)
        detector.history_ = history or []
        store.save(detector, "table/keeper", folder, kind="table", modality=Table(), data="")
        return folder

    return save


@pytest.mark.parametrize(
    "array",
    [
        np.array(2.5, np.float32),
        np.zeros((0, 3), np.int64),
        np.array([True, False]),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, ::-1, ::2],
        np.array([np.nan, np.inf, -0.0, 5e-324]),
        np.array([1, 2], ">i4"),
    ],
    ids=["0-d", "empty", "bool", "transposed", "strided", "special", "big-endian"],
)
def test_arrays_come_back_with_their_bits(keep: object, array: np.ndarray) -> None:
    (found,) = store.load(keep(State({"x": array}))).detector.kept.arrays.values()
    assert found.shape == array.shape
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.tobytes() == array.astype(found.dtype).tobytes()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (State({"x": np.array(["a"])}), "the array x of table/keeper must be a numpy array of numbers or booleans"),
        (State({"x": np.array([None])}), "the array x of table/keeper must be a numpy array of numbers or booleans"),
        (State({"x": [1.0]}), "the array x of table/keeper must be a numpy array of numbers or booleans, got list"),
        (State(meta={"x": float("nan")}), "the meta of table/keeper must be plain JSON values without NaN"),
        (State(meta={"x": object()}), "the meta of table/keeper must be plain JSON values without NaN"),
    ],
)
def test_refuses_to_save_what_needs_pickle(keep: object, state: State, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        keep(state)


def test_history_is_one_line_per_step(keep: object) -> None:
    folder = keep(State(), [{"loss": 0.5}, {"loss": 0.25, "rate": 1e-3}])
    assert (folder / "history.csv").read_text() == "step,loss,rate\n0,0.5,\n1,0.25,0.001\n"


def scaler() -> object:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit([[0.0, 1.0], [2.0, 5.0]])


def test_estimators_go_through_skops(keep: object) -> None:
    folder = keep(State(estimators={"scaler": scaler()}))
    found = store.load(folder).detector.kept.estimators["scaler"]
    np.testing.assert_array_equal(found.transform([[3.0, 1.0]]), [[2.0, -1.0]])


def test_refuses_estimators_of_other_types(keep: object) -> None:
    from sklearn.tree import DecisionTreeClassifier

    with pytest.raises(
        ModelError, match=r"holds the type sklearn\.tree\._classes\.DecisionTreeClassifier, which is not"
    ):
        keep(State(estimators={"tree": DecisionTreeClassifier().fit([[0], [1]], [0, 1])}))


def test_refuses_to_load_a_planted_type(keep: object) -> None:
    folder = keep(State(estimators={"scaler": scaler()}))
    path = folder / "estimators" / "scaler.skops"
    with ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    planted = files["schema.json"].replace(b'"StandardScaler"', b'"system"', 1)
    files["schema.json"] = planted.replace(b'"sklearn.preprocessing._data"', b'"os"', 1)
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    path.write_bytes(buffer.getvalue())
    card = json.loads((folder / "detector.json").read_text())
    change(folder, files={**card["files"], "estimators/scaler.skops": hashlib.sha256(buffer.getvalue()).hexdigest()})
    with pytest.raises(ModelError, match=r"holds the type os\.system, which is not among the allowed ones"):
        store.load(folder)


def test_estimators_of_another_scikit_learn_are_refused(keep: object) -> None:
    folder = keep(State(estimators={"scaler": scaler()}))
    card = json.loads((folder / "detector.json").read_text())
    change(folder, versions={**card["versions"], "scikit-learn": "1.0"})
    with pytest.raises(ModelError, match=r"need scikit-learn 1\.0, got .*; train again"):
        store.load(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: (m / "detector.json").unlink(), "must be a model folder with a detector.json; there is none"),
        (lambda m: (m / "detector.json").write_text("{"), "detector.json must be readable JSON"),
        (lambda m: (m / "detector.json").write_text("[]"), "must be of format 1, .* got None"),
        (lambda m: change(m, format=2), "must be of format 1, which this version of assay reads, got 2"),
        (lambda m: change(m, kind=5), "detector.json is damaged: model.kind"),
        (lambda m: change(m, more=5), "detector.json is damaged: model.more is not a known key"),
        (
            lambda m: change(m, detector="table/oracle"),
            "names 'table/oracle', which this version of assay does not have",
        ),
        (lambda m: change(m, kind="smell"), "names 'smell', which this version of assay does not have: image, table"),
        (lambda m: change(m, parameters={"trees": 0}), "parameters.trees must be greater than or equal to 1, got 0"),
        (lambda m: change(m, parameters={"wings": 2}), "parameters.wings is not a known key"),
        (lambda m: change(m, options={"label": 3}), "options.label must be a valid string, got 3"),
        (lambda m: change(m, meta={}), "does not fit table/isolation_forest of this version: KeyError"),
        (lambda m: change(m, files={"../x": ""}), "must name state.safetensors and estimators/NAME.skops only"),
        (lambda m: (m / "state.safetensors").unlink(), "is part of the model and cannot be read: No such file"),
        (lambda m: (m / "state.safetensors").write_bytes(b""), "state.safetensors is damaged"),
    ],
)
def test_a_spoiled_folder_is_refused_in_one_sentence(model: Path, spoil: object, says: str) -> None:
    spoil(model)
    with pytest.raises(ModelError, match=says) as caught:
        store.load(model)
    assert "\n" not in str(caught.value)


def test_one_flipped_bit_is_noticed(model: Path) -> None:
    content = bytearray((model / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "state.safetensors").write_bytes(content)
    assert load_file(model / "state.safetensors")  # safetensors itself would not
    with pytest.raises(
        ModelError, match=re.escape("state.safetensors is damaged: its content is not what detector.json")
    ):
        store.load(model)
