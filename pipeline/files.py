"""Files that are whole or absent: atomic writes, links, content hashes."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sha256(path: Path, without: str = "") -> str:
    """Content hash of a file, as hex; of a folder, the hash of its sorted names and content hashes.

    `without` names a file of the folder that does not count."""
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file()]
        lines = [f"{sha256(path / name)}  {name}" for name in names if name != without]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(source: Path, target: Path) -> None:
    """Hard link `source` as the new file `target`, or copy it where the file system cannot link.

    Raises FileExistsError rather than write into a file that may be someone's raw data."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A fresh folder to fill, that becomes `path` when the block ends well and vanishes when it does not.

    A folder that stood there stays until then; if the process is killed between the two renames, the next call puts it
    back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.with_name(f".{path.name}.before")
    if before.exists() and not path.exists():
        before.replace(path)
    shutil.rmtree(before, ignore_errors=True)
    for left_over in path.parent.glob(f".{path.name}.partial-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.partial-"))
    partial.chmod(0o755)
    try:
        yield partial
        if path.exists():
            path.replace(before)
        partial.replace(path)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write, that becomes `path` when the block ends well and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON with sorted keys: equal values, equal bytes. NaN is refused."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """An empty folder for intermediate files, gone when the block ends; what a killed run left there goes first."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
