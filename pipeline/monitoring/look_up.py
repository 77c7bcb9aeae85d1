"""The calibration that judged a batch, and the reference of its version."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline import recalibration, threshold, tracking
from pipeline.batch import MODELS
from pipeline.errors import ModelError, RegistryError
from pipeline.model import CALIBRATION
from pipeline.monitoring.reference import COUNTS, FOLDER, INPUTS, TAG, Reference
from pipeline.threshold import Calibration
from pipeline.tracking import Registry, Version


def of(report: dict[str, Any]) -> tuple[Calibration, Reference | None]:
    """Of the batch that `report` tells of: its calibration is the one that says what the report promises, even when
    the version has been given another one since. Raises RegistryError when it is nowhere."""
    registry = tracking.connect()
    version = registry.version(report["name"], report["version"])
    if version is None:
        raise RegistryError(f"{report['name']} version {report['version']}, which scored the batch, is gone")
    line = Path(report["folder"]).parents[1]
    with TemporaryDirectory(prefix="assay-monitor-") as work:
        for path in _places(registry, version, line, Path(work)):
            try:
                found = threshold.read(path)
            except ModelError:
                continue
            if found.says() == report["promise"]:
                return found, reference_of(registry, version)
    raise RegistryError(
        f"the calibration that judged batch {report['batch']} of {version.name} version {version.number} is gone"
    )


def reference_of(registry: Registry, version: Version) -> Reference | None:
    """The reference of a registered version; None for one that was published before there were any.

    Raises RegistryError when it should be there and cannot be read."""
    if TAG not in version.tags:
        return None
    with TemporaryDirectory(prefix="assay-reference-") as work:
        for name in (INPUTS, COUNTS):
            path = registry.artifact(version, f"{FOLDER}/{name}", Path(work))
        try:
            return Reference.read(path.parent)
        except (OSError, ValueError, KeyError) as error:
            raise RegistryError(f"{version.name} version {version.number} has a damaged {FOLDER}: {error}") from error


def _places(registry: Registry, version: Version, line: Path, work: Path) -> Iterator[Path]:
    """Calibration files of a version: those on this machine, that in force, that it was registered with."""
    kept = (line / MODELS / version.name).glob(f"v{version.number}-*/{CALIBRATION}")
    yield from sorted(kept, key=lambda path: path.stat().st_mtime, reverse=True)
    folder, now = recalibration.download(registry, version, work)
    yield now
    yield folder / CALIBRATION
