"""Unpack zip and tar archives that come from anywhere: nothing climbs out, nothing explodes.

The limits are held against the bytes that really come out, not against what the headers claim.
"""

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline.errors import DataError

CHUNK = 1 << 20  # bytes
OPENERS: dict[str, Callable[[Path], Any]] = {
    ".zip": zipfile.ZipFile,
    ".tar": FileIO,
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}
BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold: bytes and members in all, and bytes out per byte in.

    The ratio is judged only above `grace` bytes, because small texts may well shrink a thousandfold."""

    size: int = 256 << 30
    members: int = 5_000_000
    ratio: float = 200.0
    grace: int = 64 << 20


class _Meter:
    """Counts what comes out of one archive and refuses to go on past the limits."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self.archive, self.limits = archive, limits
        self.bytes = self.members = 0
        self.packed = max(archive.stat().st_size, 1)

    def add(self, count: int) -> None:
        self.bytes += count
        if self.bytes > self.limits.size:
            self.refuse(f"holds more than the {self.limits.size:,} bytes that are allowed")
        if self.bytes > max(self.limits.grace, self.limits.ratio * self.packed):
            self.refuse(
                f"grows more than the {self.limits.ratio:g} times that are allowed (from {self.packed:,} bytes)"
            )

    def member(self) -> None:
        self.members += 1
        if self.members > self.limits.members:
            self.refuse(f"holds more than the {self.limits.members:,} members that are allowed")

    def refuse(self, why: str) -> None:
        raise DataError(f"archive {self.archive.name} {why}; unpack it by hand if you trust it")


class _Counted:
    """A decompressed stream whose every byte is counted, headers and padding included."""

    def __init__(self, file: IO[bytes], meter: _Meter) -> None:
        self.file, self.meter = file, meter

    def read(self, size: int = CHUNK) -> bytes:
        data = self.file.read(min(size, CHUNK))
        self.meter.add(len(data))
        return data


def is_archive(path: Path) -> bool:
    """Whether the name of `path` ends as that of an archive that `extract` knows."""
    return _suffix(path) is not None


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in OPENERS if path.name.lower().endswith(suffix)), None)


def extract(archive: Path, out: Path, limits: Limits | None = None) -> Path:
    """Unpack `archive` into the new folder `out`; return that folder, or the one file in it if there is just one.

    Refused with a DataError: members that climb out or are absolute, links and devices, members named twice,
    encrypted members, damage, and more than `limits` allow. Left out: the `__MACOSX` folder of macOS archives.
    """
    out.mkdir(parents=True)
    suffix = _suffix(archive)
    meter = _Meter(archive, limits or Limits())
    with _named(archive):
        with OPENERS[suffix or ".zip"](archive) as opened:
            members = _zip_members(opened, meter) if suffix == ".zip" else _tar_members(opened, meter)
            for name, file in members:
                meter.member()
                _write(name, file, out, meter)
        found = list(out.iterdir())
    if not found:
        raise DataError(f"archive {archive.name} is empty")
    return found[0] if len(found) == 1 and found[0].is_file() else out


@contextmanager
def _named(archive: Path) -> Iterator[None]:
    """Say which archive is damaged; a full disk stays what it is."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        name = Path(str(error.filename)).name
        raise DataError(f"archive {archive.name} holds two members named {name!r}, which must differ") from error
    except OSError as error:  # gzip and bz2 report damage as an OSError without a number
        if error.errno:
            raise
        raise DataError(f"archive {archive.name} is damaged: {error}") from error
    except RuntimeError as error:  # zipfile's word for a password
        raise DataError(f"archive {archive.name} must not be encrypted") from error
    except BROKEN as error:
        raise DataError(f"archive {archive.name} is damaged: {error or type(error).__name__}") from error


def _zip_members(archive: zipfile.ZipFile, meter: _Meter) -> Iterator[tuple[str, Any]]:
    for info in archive.infolist():
        if stat.S_ISLNK(info.external_attr >> 16):
            meter.refuse(f"holds the link {info.filename!r}; only files and folders are allowed")
        if info.is_dir():
            yield info.filename, None
        else:
            with archive.open(info) as file:
                yield info.filename, _Counted(file, meter)


def _tar_members(stream: Any, meter: _Meter) -> Iterator[tuple[str, Any]]:
    with tarfile.open(fileobj=_Counted(stream, meter), mode="r|") as archive:  # type: ignore[call-overload]
        for info in archive:
            if not (info.isfile() or info.isdir()):
                meter.refuse(f"holds the link or device {info.name!r}; only files and folders are allowed")
            yield info.name, archive.extractfile(info)


def _write(name: str, file: Any, out: Path, meter: _Meter) -> None:
    inside = PurePosixPath(name.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        meter.refuse(f"holds the member {name!r}, which lies outside of it")
    if inside.parts[:1] == ("__MACOSX",):
        return
    target = out / inside
    if file is None:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as copy:
        while data := file.read(CHUNK):
            copy.write(data)
