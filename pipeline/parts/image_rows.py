"""Images on disk and the rows of their manifest."""

import hashlib
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image as Pil

from pipeline.files import link
from pipeline.protocols import MANIFEST

COLUMNS = {
    **MANIFEST,
    "path": "str",  # below the dataset's folder, as is `mask` ("" without one)
    "mask": "str",
    "mask_sha256": "str",
    "mask_share": "float64",  # marked pixels of the mask, 0 to 1; NaN without one
    "width": "int32",
    "height": "int32",
    "mode": "str",
    "contrast": "float64",  # standard deviation of the grey levels
    "region": "str",  # below the folder: which pixels of an image that lies on its canvas already count; "" for a file
}


def typed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Manifest rows as a frame with COLUMNS and their types, also for no rows at all."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    for name, kind in COLUMNS.items():
        if kind == "str":
            frame[name] = frame[name].astype("str").fillna("")
    frame["time"] = pd.to_datetime(frame["time"], utc=True)
    return frame.astype(COLUMNS)


def written(manifest: pd.DataFrame, rejected: list[tuple[str, str, str]], out: Path) -> pd.DataFrame:
    """Write manifest.parquet and rejected.parquet; the latter as a frame."""
    bad = pd.DataFrame(rejected, columns=["id", "path", "reason"], dtype="str")
    manifest.to_parquet(out / "manifest.parquet", index=False)
    bad.to_parquet(out / "rejected.parquet", index=False)
    return bad


def set_aside(path: Path, name: str, quarantine: Path) -> str:
    """Link a rejected file into the quarantine; its path there, or "" when there is no file to be had."""
    target = quarantine / "files" / name
    try:
        link(path, target)
    except (FileNotFoundError, PermissionError, shutil.SpecialFileError, IsADirectoryError):
        return ""
    return target.relative_to(quarantine).as_posix()


def write_png(image: Pil.Image, path: Path) -> str:
    """Write a PNG; return its content hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    path.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()
