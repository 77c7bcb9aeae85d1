"""The calibration that judged a batch, and the reference of its version."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline import downloaded, recalibration, tracking
from pipeline.errors import RegistryError
from pipeline.model import CALIBRATION
from pipeline.monitoring.reference import COUNTS, FOLDER, INPUTS, TAG, Reference
from pipeline.threshold import Calibration
from pipeline.tracking import Registry, Version


def of(report: dict[str, Any]) -> tuple[Calibration, Reference | None]:
    """Of the batch that `report` tells of: its calibration is the one that says what the report promises, even when
    the version has been given another one since. The copies that scoring left on this machine come first, so that a
    version may have vanished from the registry meanwhile. Raises RegistryError when it is nowhere."""
    line = Path(report["folder"]).parents[1]
    for copy in downloaded.copies(line, report):
        if (found := downloaded.judged(copy / CALIBRATION, report)) is not None:
            folder = copy / FOLDER
            return found, Reference.read(folder) if folder.is_dir() else None
    registry = tracking.connect()
    version = registry.version(report["name"], report["version"])
    if version is None:
        raise RegistryError(f"{report['name']} version {report['version']}, which scored the batch, is gone")
    with TemporaryDirectory(prefix="assay-monitor-") as work:
        folder, now = recalibration.download(registry, version, Path(work))
        for path in (now, folder / CALIBRATION):
            if (found := downloaded.judged(path, report)) is not None:
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
