"""Models on disk: a folder of safetensors, JSON and, for scikit-learn estimators, skops; never pickle.

detector.json        table key, hyperparameters, wrappers, modality, data hash, versions, `State.meta`, file hashes
state.safetensors    `State.arrays`
estimators/*.skops   `State.estimators`
history.csv          one line per epoch or step of `history_`

Loading runs no code from the folder: classes come from our tables, and skops builds only `ALLOWED` types.
Equal fits give equal bytes. Neither torch nor scikit-learn is imported here; skops imports both, so it is
only imported for a detector that has estimators.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from safetensors.numpy import load_file, save_file

from pipeline import detectors, modalities, params, wrappers
from pipeline.errors import DataError, ModelError, ParamsError
from pipeline.files import sha256, write_json
from pipeline.protocols import Detector, Modality, State
from pipeline.tables import find

FORMAT = 1
CARD, ARRAYS, HISTORY = "detector.json", "state.safetensors", "history.csv"
ESTIMATOR = re.compile(r"estimators/([A-Za-z0-9_]+)\.skops")

# What an estimator may be made of. Trees are not among them: scikit-learn follows their indices without
# looking, so a crafted file could crash the process; pipeline/parts/trees.py keeps them as checked arrays.
ALLOWED = frozenset(
    {
        *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
        *(f"numpy.{name}" for name in ("bool", "dtype", "float32", "float64", "int32", "int64", "ndarray")),
        *(f"numpy.dtypes.{name}DType" for name in ("Bool", "Float32", "Float64", "Int32", "Int64")),
        "sklearn.covariance._empirical_covariance.EmpiricalCovariance",
        "sklearn.covariance._shrunk_covariance.LedoitWolf",
        "sklearn.decomposition._pca.PCA",
        "sklearn.linear_model._logistic.LogisticRegression",
        "sklearn.preprocessing._data.StandardScaler",
    }
)


@dataclass(frozen=True)
class Stored:
    """A model read back: the fitted detector, its table key, the modality it reads and the hash of its data."""

    detector: Detector
    key: str
    kind: str
    modality: Modality
    data: str


@dataclass(frozen=True)
class Card:
    """The content of detector.json. `files` are the content hashes of the files that `load` needs."""

    format: int
    detector: str
    parameters: dict[str, Any]
    around: dict[str, dict[str, Any]]
    kind: str
    options: dict[str, Any]
    data: str
    versions: dict[str, str]
    meta: dict[str, Any]
    files: dict[str, str]


def save(detector: Detector, key: str, folder: Path, *, kind: str, modality: Modality, data: str) -> None:
    """Write a fitted detector into the existing empty `folder`; `data` is the hash of its training data.

    Raises NotFittedError before `fit`, ModelError when the state cannot be stored without pickle."""
    state = detector.state()
    versions = _versions()
    arrays = {name: _plain(name, array, key) for name, array in state.arrays.items()}
    save_file(arrays, folder / ARRAYS)
    names = [ARRAYS]
    for name, estimator in state.estimators.items():
        names.append(f"estimators/{name}.skops")
        (folder / "estimators").mkdir(exist_ok=True)
        (folder / names[-1]).write_bytes(_dump(name, estimator, key))
    _write_history(detector.history_, folder / HISTORY)
    files = {name: sha256(folder / name) for name in names}
    parameters, around = _parameters(detector)
    card = Card(FORMAT, key, parameters, around, kind, _options(modality), data, versions, state.meta, files)
    try:
        write_json(folder / CARD, asdict(card))
    except (TypeError, ValueError) as error:
        raise ModelError(f"the meta of {key} must be plain JSON values without NaN: {error}") from error


def load(folder: Path) -> Stored:
    """Read a model folder back; its detector scores to the same bits as the saved one.

    Raises ModelError when a file is missing, damaged, of another version, or holds what is not allowed."""
    card = _card(folder)
    for name, table in ((card.detector, detectors.TABLE), (card.kind, modalities.TABLE)):
        if name not in table:
            raise ModelError(
                f"{folder / CARD} names {name!r}, which this version of assay does not have: {', '.join(table)}"
            )
    try:
        detector = params.build(find(detectors, card.detector, "detector"), card.parameters, "parameters", CARD)
        detector = params.wrap(detector, card.around, "around", CARD)
        modality = params.build(find(modalities, card.kind, "kind"), card.options, "options", CARD)
    except ParamsError as error:
        raise ModelError(f"{folder / CARD} does not fit this version of assay: {error}") from error
    _verify(folder, card)
    arrays = load_file(folder / ARRAYS)
    found = {name: ESTIMATOR.fullmatch(name) for name in card.files}
    estimators = {match[1]: _load_estimator(folder / name) for name, match in found.items() if match}
    try:
        detector.from_state(State(arrays, card.meta, estimators))
    except (DataError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(f"the state in {folder} does not fit {card.detector} of this version: {error!r}") from error
    return Stored(detector, card.detector, card.kind, modality, card.data)


def _card(folder: Path) -> Card:
    path = folder / CARD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} must be a model folder with a {CARD}; there is none") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} must be readable JSON: {error}") from error
    came = content.get("format") if isinstance(content, dict) else None
    if came != FORMAT:
        raise ModelError(f"{path} must be of format {FORMAT}, which this version of assay reads, got {came!r}")
    try:
        return params.build(Card, content, "model", CARD)
    except ParamsError as error:
        raise ModelError(f"{path} is damaged: {error}") from error


def _verify(folder: Path, card: Card) -> None:
    """Raise ModelError unless the files that the card names are there, as they were written, and no others."""
    stray = [name for name in card.files if name != ARRAYS and not ESTIMATOR.fullmatch(name)]
    if stray or ARRAYS not in card.files:
        raise ModelError(f"{folder / CARD} must name {ARRAYS} and estimators/NAME.skops only, got {sorted(card.files)}")
    for name, digest in card.files.items():
        try:
            came = sha256(folder / name)
        except OSError as error:
            raise ModelError(f"{folder / name} is part of the model and cannot be read: {error.strerror}") from error
        if came != digest:
            raise ModelError(f"{folder / name} is damaged: its content is not what {CARD} says")
    if len(card.files) > 1 and card.versions.get("scikit-learn") != version("scikit-learn"):
        raise ModelError(
            f"the estimators in {folder} need scikit-learn {card.versions.get('scikit-learn')}, "
            f"got {version('scikit-learn')}; train again or install that version"
        )


def _versions() -> dict[str, str]:
    """Versions of what the model was made with; of torch and scikit-learn only where they were imported."""
    modules = {"torch": "torch", "sklearn": "scikit-learn"}
    used = ["assay", "numpy", *(name for module, name in modules.items() if module in sys.modules)]
    return {"python": ".".join(map(str, sys.version_info[:3])), **{name: version(name) for name in used}}


def _parameters(detector: Detector) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Hyperparameters of the innermost detector, and the options of the wrappers around it by their keys."""
    keys = {cls: key for key, cls in wrappers.TABLE.items()}
    around: dict[str, dict[str, Any]] = {}
    while hasattr(detector, "inner"):
        around[keys[type(detector).__name__]] = _options(detector)
        detector = detector.inner
    return _options(detector), {key: around[key] for key in wrappers.TABLE if key in around}


def _options(configured: Any) -> dict[str, Any]:
    """The constructor's arguments of a dataclass as JSON values."""
    values = asdict(configured)
    return {f.name: values[f.name] for f in fields(configured) if f.init}


def _plain(name: str, array: np.ndarray, key: str) -> np.ndarray:
    """`array` in C order, as safetensors wants it (it would silently scramble a transposed view)."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        came = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ModelError(f"the array {name} of {key} must be a numpy array of numbers or booleans, got {came}")
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _write_history(history: list[dict[str, float]], path: Path) -> None:
    """One line per step, numbered from 0, with the values named in any of them; only the header when there is none."""
    names = list(dict.fromkeys(["step", *(name for line in history for name in line)]))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({"step": step, **line} for step, line in enumerate(history))


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """All typed nodes of a skops schema, in order of appearance."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "__class__" in node:
                yield node
            waiting += reversed(node.values())
        elif isinstance(node, list):
            waiting += reversed(node)


def _dump(name: str, estimator: Any, key: str) -> bytes:
    """`estimator` as a skops archive that is the same in every process.

    skops names objects and files after memory addresses and stamps the time; here both are numbered in
    order of appearance and the date is fixed. Constants lose their number, which nothing refers to.
    """
    import skops.io

    if not re.fullmatch("[A-Za-z0-9_]+", name):
        raise ModelError(f"the estimator {name!r} of {key} must be named with letters, digits and _")
    with ZipFile(io.BytesIO(skops.io.dumps(estimator))) as archive:
        schema = json.loads(archive.read("schema.json"))
        content = {member: archive.read(member) for member in archive.namelist() if member != "schema.json"}
    _refuse(schema, f"the estimator {name} of {key}")
    numbers: dict[int, int] = {}
    names: dict[str, str] = {}
    for node in _nodes(schema):
        if node["__loader__"] == "JsonNode":
            node.pop("__id__", None)
        elif "__id__" in node:
            node["__id__"] = numbers.setdefault(node["__id__"], len(numbers) + 1)
        if "file" in node:
            node["file"] = names.setdefault(node["file"], f"{len(names) + 1}{Path(node['file']).suffix}")
    files = {names[member]: data for member, data in content.items()}
    files["schema.json"] = json.dumps(schema, indent=1).encode()
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for member in sorted(files):
            entry = ZipInfo(member, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # the same on every platform
            archive.writestr(entry, files[member])
    return buffer.getvalue()


def _refuse(schema: Any, where: str) -> None:
    """Raise ModelError for the first type in a skops schema that is not `ALLOWED`."""
    for node in _nodes(schema):
        name = f"{node.get('__module__')}.{node['__class__']}"
        if name not in ALLOWED:
            raise ModelError(f"{where} holds the type {name}, which is not among the allowed ones (pipeline/store.py)")


def _load_estimator(path: Path) -> Any:
    try:
        with ZipFile(path) as archive:
            _refuse(json.loads(archive.read("schema.json")), str(path))
        import skops.io

        return skops.io.load(path, trusted=sorted(ALLOWED))
    except ModelError:
        raise
    except Exception as error:  # a crafted archive can fail in any way
        raise ModelError(f"{path} must be a skops archive that this version reads: {error!r}") from error
