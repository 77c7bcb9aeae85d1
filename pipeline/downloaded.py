"""Models that scoring brought to this machine, in a line's folder: `.assay/models/NAME/vVERSION-.../`, each with its
calibration beside it. A version has several where it was given other thresholds."""

from pathlib import Path
from typing import Any

from pipeline import threshold
from pipeline.errors import ModelError
from pipeline.model import CALIBRATION
from pipeline.threshold import Calibration

MODELS = Path(".assay/models")


def copies(line: Path, report: dict[str, Any]) -> list[Path]:
    """Folders that hold the version which a batch's report names, the one used last first."""
    found = (line / MODELS / report["name"]).glob(f"v{report['version']}-*/{CALIBRATION}")
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def judged(path: Path, report: dict[str, Any]) -> Calibration | None:
    """The calibration at `path`, if it promises what the report says: a version may have been given others since."""
    try:
        found = threshold.read(path)
    except ModelError:
        return None
    return found if found.says() == report.get("promise") else None
