"""The scores of every batch as one data set: a Parquet file per batch, in folders that Hive, pandas and DuckDB read."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

from annotated_types import MinLen

from pipeline.errors import DeliveryError, ParamsError
from pipeline.urls import clean, shown

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

NAME = "scores.parquet"
PARTIAL = f".{NAME}.partial-"  # readers of a data set pass by names that begin with a dot
BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class Parquet:
    """Writes `TO/name=NAME/batch=BATCH/scores.parquet`, where `to` is a folder, which a relative path names as seen
    from the line's folder, or an fsspec URL. It appears under that name when it is whole, as far as the file system can
    do so; a batch that is delivered again replaces it."""

    to: Annotated[str, MinLen(1)]
    """A folder, as seen from the line's, or an fsspec URL."""

    def __post_init__(self) -> None:
        if "://" in self.to and urlsplit(self.to).password:
            raise ParamsError(
                "to of the sink parquet must not hold a password, fsspec takes it from the environment or from its own"
                f" configuration; got {shown(self.to)} with one (params.yaml)"
            )

    def deliver(self, scores: Path, report: dict[str, Any]) -> str:
        from fsspec.core import url_to_fs

        to = self.to
        if "://" not in to:
            to = str(Path(report["folder"]).parents[1] / Path(to).expanduser())
        inside = "/".join(f"{key}={quote(str(report[key]), safe='')}" for key in ("name", "batch"))
        told = f"{shown(to).rstrip('/') if '://' in to else to}/{inside}/{NAME}"
        try:
            files, root = url_to_fs(to)
            files.invalidate_cache()
            folder = f"{root.rstrip('/')}/{inside}"
            if _same(files, f"{folder}/{NAME}", scores):
                return f"the scores were in {told} already"
            files.makedirs(folder, exist_ok=True)
            _forget(files, folder)
            _write(files, scores, folder)
        except Exception as error:  # each file system has errors of its own
            raise DeliveryError(f"the scores cannot be written to {told}: {clean(error, to)}") from None
        return f"wrote the scores to {told}"


def _same(files: "AbstractFileSystem", target: str, scores: Path) -> bool:
    """Whether `target` holds the bytes of `scores`."""
    if not files.exists(target) or files.info(target)["size"] != scores.stat().st_size:
        return False
    with files.open(target, "rb") as there, scores.open("rb") as ours:
        while block := ours.read(BLOCK):
            if there.read(len(block)) != block:
                return False
    return True


def _forget(files: "AbstractFileSystem", folder: str) -> None:
    """Remove what deliveries left that did not end."""
    for path in files.find(folder, maxdepth=1):
        if path.rpartition("/")[2].startswith(PARTIAL):
            files.rm_file(path)


def _write(files: "AbstractFileSystem", scores: Path, folder: str) -> None:
    partial, target = f"{folder}/{PARTIAL}{uuid4().hex[:8]}", f"{folder}/{NAME}"
    try:
        files.put_file(str(scores), partial)
        size, came = scores.stat().st_size, files.info(partial)["size"]
        if came != size:
            raise OSError(f"{came} of {size} bytes arrived")
        try:
            files.mv(partial, target)
        except OSError:  # some file systems do not rename onto a file
            if not files.exists(target):
                raise
            files.rm_file(target)
            files.mv(partial, target)
    finally:
        with suppress(Exception):
            if files.exists(partial):
                files.rm_file(partial)
