"""Publish a line's candidates: one MLflow run and one registered version per candidate, once per content.

The content hash covers the model folder, its calibration, its metrics and the params that made them. What is
registered under that hash already is left alone; what a killed publication left half-done is made whole.
"""

import re
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import tracking
from pipeline.candidate import Candidate, flat, git_state, hash_of_test
from pipeline.errors import ParamsError, RegistryError
from pipeline.files import link, scratch_folder
from pipeline.golden import Golden, max_difference
from pipeline.model import CALIBRATION
from pipeline.monitoring import reference
from pipeline.params import Params
from pipeline.run_record import Record, shown_curves, shown_pictures
from pipeline.stages import VALIDATION
from pipeline.tracking import Registry, Version

PUBLISHING = Path(".assay/publish")
SMALL = 20 * 2**20  # bytes of validation pages, or of a git diff, that go along with a run
CHECKED, UNUSABLE = "golden_max_difference", "unusable"
# what a model can need where it is served, besides assay itself: import name, package
PACKAGES = {
    "mlflow": "mlflow",
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "skops": "skops",
    "timm": "timm",
    "torch": "torch",
    "torchvision": "torchvision",
    "tqdm": "tqdm",
}


def publish(params: Params, line: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Register every candidate of `params` with what the stages left in the folder `line`.

    Returns the receipt, `{"name": ..., "candidates": {NAME: {"version", "run_id", "content_hash"}}}`, which is the
    same however often it is asked for, and for every candidate `registered` or `already there`.
    Raises RegistryError when MLflow cannot be reached, or gives back a model that scores the golden batch
    differently (that version is tagged `unusable`)."""
    name = params.promote.name
    if re.search(r"[/:'\"`\\]", name):
        raise ParamsError(f"promote.name must hold no slash, colon or quote, got {name!r} (params.yaml)")
    candidates = [Candidate(params, line, candidate) for candidate in params.candidates]
    for candidate in candidates:
        candidate.must_be_complete()
    registry = tracking.connect()
    receipt: dict[str, Any] = {"name": name, "candidates": {}}
    status: dict[str, str] = {}
    with registry.exclusive(), scratch_folder(line / PUBLISHING) as work:
        golden = Golden(params, line, work / "golden")
        normal = reference.Source(params, line)
        for candidate in candidates:
            version, status[candidate.name] = _publish(registry, candidate, golden, normal, work / candidate.name)
            receipt["candidates"][candidate.name] = {
                "version": version.number,
                "run_id": version.run_id,
                "content_hash": candidate.content_hash,
            }
    return receipt, status


def missing_versions(receipt: dict[str, Any], registry: Registry | None = None) -> list[str]:
    """The candidates of a receipt whose version the registry does not hold (it is new, or was emptied)."""
    registry = registry or tracking.connect()
    missing = []
    for candidate, entry in receipt["candidates"].items():
        found = registry.version(receipt["name"], entry["version"])
        if found is None or found.tags.get("content_hash") != entry["content_hash"] or not registry.has_files(found):
            missing.append(candidate)
    return missing


def _publish(
    registry: Registry, candidate: Candidate, golden: Golden, normal: reference.Source, work: Path
) -> tuple[Version, str]:
    """The version that holds this content, registered now or found, and which of the two."""
    name = candidate.params.promote.name
    found = [v for v in registry.find(name, candidate.content_hash) if registry.has_files(v)]
    whole = [v for v in found if CHECKED in v.tags and UNUSABLE not in v.tags]
    if whole:
        return whole[0], "already there"
    expected = candidate.loaded.score(candidate.loaded.stored.modality.samples(golden.rows))
    version = found[0] if found else _register(registry, candidate, golden, normal, expected, work)
    _check(registry, version, candidate, golden, expected)
    return version, "already there" if found else "registered"


def _check(registry: Registry, version: Version, candidate: Candidate, golden: Golden, expected: pd.DataFrame) -> None:
    """Load `version` back and score the golden batch with it; tag the largest difference from `expected`."""
    came = registry.load(version).predict(candidate.loaded.stored.modality.to_frame(golden.rows))
    difference = max_difference(expected, came)
    if difference != 0:
        registry.tag(version, {CHECKED: repr(difference), UNUSABLE: "scores the golden batch differently"})
        raise RegistryError(
            f"{version.name} version {version.number} ({candidate.name}), loaded back from the registry, must score "
            f"the golden batch exactly as the trained model does, got a difference of {difference:g}; it is tagged "
            f"{UNUSABLE} and cannot be promoted"
        )
    if UNUSABLE in version.tags:
        registry.untag(version, UNUSABLE)
    registry.log_metric(version, CHECKED, difference)
    registry.tag(version, {CHECKED: repr(difference)})


def _register(
    registry: Registry,
    candidate: Candidate,
    golden: Golden,
    normal: reference.Source,
    expected: pd.DataFrame,
    work: Path,
) -> Version:
    from pipeline import mlflow_model  # after `tracking`, which keeps MLflow quiet

    name = candidate.params.promote.name
    registry.drop_runs(name, candidate.content_hash)  # of an earlier attempt that was killed
    model, artifacts = work / "model", work / "artifacts"
    _link_folder(candidate.model, model)
    link(candidate.calibration, model / CALIBRATION)
    _link_folder(candidate.report, artifacts / "report")
    _link_folder(golden.folder, artifacts / "golden")
    expected.to_parquet(artifacts / "golden/scores.parquet", index=False)
    known = normal.of(candidate.loaded.stored)
    known.write(artifacts / reference.FOLDER)
    for file in ("params.yaml", "dvc.lock"):
        if (candidate.line / file).exists():
            link(candidate.line / file, artifacts / file)
    validation = candidate.line / VALIDATION
    if validation.is_dir() and sum(p.stat().st_size for p in validation.rglob("*") if p.is_file()) <= SMALL:
        _link_folder(validation, artifacts / "validation")
    commit, diff = git_state(candidate.line)
    if diff:
        (artifacts / "git.diff").write_bytes(diff[:SMALL])
    tags = {
        **candidate.filters,
        "content_hash": candidate.content_hash,
        "test_hash": hash_of_test(candidate.line),
        "git_commit": commit,
        "git_dirty": str(bool(diff)).lower(),
        reference.TAG: str(len(known.inputs)),
    }
    record = Record(
        title=candidate.name,
        params=flat(candidate.sections),
        metrics=candidate.metrics,
        steps=candidate.history(),
        tags=tags,
        artifacts=artifacts,
        model=model,
        script=Path(mlflow_model.__file__),
        requirements=requirements(),
        curves=shown_curves(candidate.report),
        pictures=shown_pictures(candidate.report),
        about=candidate.about,
    )
    return registry.register(name, record, tags)


def _link_folder(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            link(path, target / path.relative_to(source))


def requirements() -> list[str]:
    """The packages that this process used, pinned: enough to serve the model where assay is installed."""
    return [
        f"{package}=={installed(package).partition('+')[0]}"
        for module, package in PACKAGES.items()
        if module in sys.modules
    ]
