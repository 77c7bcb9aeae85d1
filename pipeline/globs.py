"""Globs: which files a pattern names, and under which names they are taken along."""

from collections.abc import Callable, Iterable
from glob import iglob
from pathlib import Path, PurePosixPath

from pipeline.errors import DataError
from pipeline.files import link, whole_folder

MAGIC = "*?["


def parted(pattern: str, exists: Callable[[str], bool], magic: str = MAGIC) -> tuple[str, str] | None:
    """The fixed part of a pattern (a folder) and the rest, from the first component with a wildcard on; None without.

    A component that is there as it is written, such as a folder `[raw]`, is no wildcard."""
    parts = pattern.split("/")
    for place, part in enumerate(parts):
        if set(part) & set(magic) and not exists("/".join(parts[: place + 1])):
            fixed = "/".join(parts[:place]) or ("/" if pattern.startswith("/") else "")
            return fixed, "/".join(parts[place:])
    return None


def taken(names: Iterable[str], rest: str, shown: str) -> list[str]:
    """`names` of files, relative to the fixed part, sorted, each once, without hidden ones that `rest` does not name.

    Raises DataError when nothing is left, or when a name leads out of the folder. `shown` is the pattern, for this."""
    hidden = rest.startswith(".") or "/." in rest
    found = sorted({name for name in names if hidden or not any(part.startswith(".") for part in name.split("/"))})
    if not found:
        raise DataError(f"source {shown} matches no file")
    return [inside(name, shown) for name in found]


def inside(name: str, shown: str) -> str:
    """`name`, if it stays below the folder that it is relative to. Raises DataError else."""
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise DataError(f"source {shown} must name files below its folder, without .., got {name[:200]!r}")
    return name


def linked(fixed: str, rest: str, out: Path, shown: str) -> Path:
    """Hard links (or copies, where those do not work) of all local files that match, as the folder `out`.

    A folder that matches stands for all files in it. Raises DataError, showing `shown`, when nothing matches."""
    folder = Path(fixed or ".")
    if not folder.is_dir():
        raise DataError(f"source {shown} matches no file: the folder in which it begins does not exist")
    inside(rest, shown)
    names = taken(_names(folder, rest), rest, shown)
    with whole_folder(out) as partial:
        for name in names:
            try:
                link(folder / name, partial / name)
            except FileNotFoundError:  # it was moved away since; what is gone is no sample
                continue
    return out


def _names(folder: Path, rest: str) -> Iterable[str]:
    whole = set()  # folders that match: what is below them comes along, once
    for name in iglob(rest, root_dir=folder, recursive=True):
        path = folder / name
        if not path.is_dir():
            if path.is_file():
                yield name
        elif not whole & {path, *path.parents}:
            whole.add(path)
            yield from (p.relative_to(folder).as_posix() for p in path.rglob("*") if p.is_file())
