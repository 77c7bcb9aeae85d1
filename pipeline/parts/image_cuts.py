"""A batch of images cut into parts: each part is a small Parquet file that says which images it holds.

Such a file holds local paths, so it is no manifest that people write; its schema's metadata tell it apart.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from hashlib import sha256 as hasher
from itertools import islice
from os import cpu_count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import sha256
from pipeline.parts import image_layouts
from pipeline.parts.image_layouts import Found, Listing
from pipeline.protocols import Cut

MARK = {b"assay": b"part of a batch of images"}
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "path")),
        ("label", pa.int8()),
        *((name, pa.string()) for name in ("defect", "mask", "group", "category")),
        ("severity", pa.float64()),
        ("time", pa.timestamp("us", "UTC")),
        *((name, pa.string()) for name in ("split", "sha256", "odd")),
    ],
    MARK,
)


def cut(source: Path, size: int, out: Path) -> Cut:
    """Parts of at most `size` images of `source`; files that fit nowhere are in the first, to be rejected with it.

    `content` is a hash of the names and content hashes of all files, whatever their folder is called. Raises DataError
    as `image_layouts.listing` does, but for a folder without any file: that is a batch without samples."""
    out.mkdir(parents=True, exist_ok=True)
    listed = image_layouts.listing(source) if not _empty(source) else Listing([])
    whole, parts = hasher(), []
    rows = _rows(listed)
    with ThreadPoolExecutor(cpu_count() or 1, thread_name_prefix="hash") as pool:
        while some := list(islice(rows, size + (0 if parts else len(listed.odd)))):
            for row, digest in zip(some, pool.map(_digest, (row["path"] for row in some)), strict=True):
                row["sha256"] = digest
                whole.update(f"{digest}  {row['id']}\n".encode())
            parts.append(out / f"{len(parts):05d}.parquet")
            pq.write_table(pa.Table.from_pylist(some, SCHEMA), parts[-1])
    return Cut(parts, whole.hexdigest())


def _empty(source: Path) -> bool:
    return source.is_dir() and not any(path.is_file() for path in source.rglob("*"))


def _rows(listed: Listing) -> Iterator[dict[str, object]]:
    for name, path, reason in listed.odd:
        yield {"id": name, "path": str(path), "odd": reason}
    for one in listed.found:
        row = {f.name: getattr(one, f.name) for f in fields(Found)}
        yield row | {"path": str(one.path), "mask": "" if one.mask is None else str(one.mask), "odd": ""}


def _digest(path: object) -> str:
    """The content hash of a file; "" for one that is gone or cannot be read, as ingest will say."""
    try:
        return sha256(Path(str(path)))
    except OSError:
        return ""


def is_part(source: Path) -> bool:
    """Whether `source` is a part that `cut` wrote."""
    if source.suffix != ".parquet" or not source.is_file():
        return False
    try:
        return MARK.items() <= (pq.read_schema(source).metadata or {}).items()
    except (OSError, pa.ArrowInvalid):
        return False


def listing(part: Path) -> Listing:
    """What a part holds."""
    found, odd = [], []
    for row in pq.read_table(part).to_pylist():
        reason, path, mask = row.pop("odd"), Path(row.pop("path")), row.pop("mask")
        if reason:
            odd.append((row["id"], path, reason))
        else:
            found.append(Found(path=path, mask=Path(mask) if mask else None, **row))
    return Listing(found, odd)
