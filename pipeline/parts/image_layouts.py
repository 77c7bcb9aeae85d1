"""The ways in which image sets are laid out: folders that tell the label, or a manifest that does.

Nothing is opened here but the manifest; reading the images is ingest's work.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from pipeline.errors import DataError
from pipeline.parts.image_files import SUFFIXES
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN

GOOD = ("good", "ok", "normal")
BAD = ("bad", "defect", "defects", "defective", "ng", "nok", "anomaly", "anomalous", "anomalies", "abnormal")
MASKS = ("mask", "masks", "ground_truth")
SPLITS = {"train": "train", "validation": "calibrate", "val": "calibrate", "calibrate": "calibrate", "test": "test"}
COLUMNS = ("path", "label", "defect", "mask", "group", "split", "category", "severity", "time")
CLUTTER = ("thumbs.db", "desktop.ini")


@dataclass(frozen=True, slots=True)
class Found:
    """One image that a source names; `id` is its path relative to the source, `defect` "good", a class or ""."""

    id: str
    path: Path
    label: int = UNKNOWN
    defect: str = ""
    mask: Path | None = None
    group: str = ""
    category: str = ""
    severity: float = float("nan")
    time: pd.Timestamp | None = None
    split: str = ""
    sha256: str = ""  # of the file when it was listed; "" where nobody looked


@dataclass(frozen=True)
class Listing:
    """What a source names, in a fixed order; `odd` are files that fit nowhere: (id, path, reason)."""

    found: list[Found]
    odd: list[tuple[str, Path, str]] = field(default_factory=list)


def listing(source: Path) -> Listing:
    """List the images of `source`: a manifest (.csv, .parquet), a folder that holds one, a folder in MVTec layout,
    one with good/bad folders, one with images of unknown label, or a single image.

    Files whose name begins with a dot, Thumbs.db and desktop.ini are no samples; neither are files that do not
    end like an image and lie outside the folders that a layout names (licences, notes).
    Raises DataError when nothing is found, or when a manifest or a folder's name makes no sense."""
    if source.is_file():
        if source.suffix.lower() in {".csv", ".parquet"}:
            return _manifest(source)
        return Listing([Found(source.name, source)])
    while True:
        inside = sorted(p for p in source.iterdir() if not _clutter(p))
        manifest = next((p for p in inside if p.name in {"manifest.csv", "manifest.parquet"}), None)
        if manifest:
            return _manifest(manifest)
        folders = [p.name for p in inside if p.is_dir()]
        if set(folders) & set(SPLITS):
            return _not_empty(_mvtec(source), source)
        if any(name.lower() in {*GOOD, *BAD} for name in folders):
            return _not_empty(_good_bad(source, folders), source)
        if len(inside) == 1 and folders:  # an archive's one folder around everything
            source = inside[0]
            continue
        return _not_empty(Listing([Found(_id(p, source), p) for p in _files(source)]), source)


def _not_empty(found: Listing, source: Path) -> Listing:
    if not found.found:
        raise DataError(f"{source.name} must hold images ({', '.join(SUFFIXES)}), got none")
    return found


def _clutter(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in CLUTTER


def _files(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and not _clutter(p) and not any(x.startswith(".") for x in p.relative_to(folder).parts)
    )


def _id(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix()


def _mvtec(source: Path) -> Listing:
    """train/good, test/CLASS, ground_truth/CLASS/STEM_mask.png (or STEM.png); validation/good calibrates."""
    found, masks, odd = [], [], []
    for path in _files(source):
        parts = path.relative_to(source).parts
        if parts[0] in SPLITS and len(parts) > 2:
            good = parts[1].lower() in GOOD
            label, defect = (NORMAL, "good") if good else (ANOMALOUS, parts[1])
            found.append(Found(_id(path, source), path, label, defect, split=SPLITS[parts[0]]))
        elif parts[0] in MASKS:
            masks.append((_key(path, source / parts[0]), path))
        elif path.suffix.lower() in SUFFIXES:
            reason = f"lies outside of {'/CLASS, '.join(SPLITS)}/CLASS and ground_truth/CLASS"
            odd.append((_id(path, source), path, reason))
    return _with_masks(
        source, [(one, _key(one.path, source / one.path.relative_to(source).parts[0])) for one in found], masks, odd
    )


def _good_bad(source: Path, folders: list[str]) -> Listing:
    """good/, bad/ (or bad/CLASS/) and masks/, under the names in GOOD, BAD and MASKS."""
    strange = [name for name in folders if name.lower() not in {*GOOD, *BAD, *MASKS}]
    if strange:
        raise DataError(
            f"folder {source.name}/{strange[0]} says neither good ({', '.join(GOOD)}), bad ({', '.join(BAD)})"
            f" nor mask ({', '.join(MASKS)}); put classes of defects into test/CLASS or bad/CLASS"
        )
    found, masks, odd = [], [], []
    for path in _files(source):
        parts = path.relative_to(source).parts
        top = parts[0].lower() if len(parts) > 1 else ""
        if top in GOOD:
            found.append((Found(_id(path, source), path, NORMAL, "good"), ""))
        elif top in BAD:
            defect = parts[1] if len(parts) > 2 else ""
            found.append((Found(_id(path, source), path, ANOMALOUS, defect), _key(path, source / parts[0])))
        elif top in MASKS:
            masks.append((_key(path, source / parts[0]), path))
        elif path.suffix.lower() in SUFFIXES:
            odd.append((_id(path, source), path, "lies outside of the folders that tell good from bad"))
    return _with_masks(source, found, masks, odd)


def _key(path: Path, folder: Path) -> str:
    """What an image and its mask have in common: the way below their folder, without suffix and `_mask`."""
    return path.relative_to(folder).with_suffix("").as_posix().removesuffix("_mask")


def _with_masks(
    source: Path,
    found: list[tuple[Found, str]],
    masks: Iterable[tuple[str, Path]],
    odd: list[tuple[str, Path, str]],
) -> Listing:
    """Give each defective image the mask of its key, or else of its stem where no two share it."""
    at: dict[str, Path] = {}
    for key, path in masks:
        at.setdefault(key, path)
    stems = Counter(key.rpartition("/")[2] for one, key in found if one.label == ANOMALOUS)
    listed, used = [], set()
    for one, key in found:
        stem = key.rpartition("/")[2]
        mask = at.get(key) or (at.get(stem) if stems[stem] == 1 else None) if one.label == ANOMALOUS else None
        if mask:
            used.add(mask)
            one = Found(one.id, one.path, one.label, one.defect, mask, split=one.split)
        listed.append(one)
    left = [
        (_id(path, source), path, "a mask that belongs to no defective image") for _, path in masks if path not in used
    ]
    return Listing(listed, [*odd, *left])


def _manifest(path: Path) -> Listing:
    """A CSV or Parquet file with the columns in COLUMNS, of which only `path` must be there.

    Paths are relative to the manifest's folder or, where nothing lies there, to that folder's parent."""
    frame = _read(path)
    if "path" not in frame.columns:
        raise DataError(f"{path.name} must have a column path, got {', '.join(map(str, frame.columns))}")
    for column in frame.columns:
        near = get_close_matches(str(column), [c for c in COLUMNS if c not in frame.columns], n=1, cutoff=0.8)
        if column not in COLUMNS and near:
            raise DataError(f"{path.name} has a column {column!r}, did you mean {near[0]}?")
    if frame.empty:
        raise DataError(f"{path.name} must name at least one image, got no rows")
    values = {column: frame[column].map(_text).tolist() for column in COLUMNS if column in frame.columns}
    found: list[Found] = []
    seen: dict[str, int] = {}
    for index in range(len(frame)):
        given = {column: value[index] for column, value in values.items()}
        one = _row(path, index + 1, given)
        if one.id in seen:
            raise DataError(
                f"{path.name}, rows {seen[one.id]} and {index + 1}, column path: {one.id!r} must stand there only once"
            )
        seen[one.id] = index + 1
        found.append(one)
    return Listing(found)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, OSError) as error:  # pandas' and pyarrow's errors are ValueErrors
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(
            f"{path.name} cannot be read as a {path.suffix[1:]} table: {' '.join(str(error).split())}"
        ) from error


def _text(value: Any) -> str:
    """A cell as text: missing is "", and 1.0 is 1 (a column of whole numbers with gaps comes as floats)."""
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _row(manifest: Path, number: int, given: dict[str, str]) -> Found:
    def wrong(column: str, must: str) -> DataError:
        return DataError(f"{manifest.name}, row {number}, column {column}: must be {must}, got {given[column]!r}")

    label_text = given.get("label", "")
    if label_text not in {"0", "1", "-1", "0.0", "1.0", "-1.0", ""}:
        raise wrong("label", "0 (good), 1 (defective), or -1 or empty (unknown)")
    label = int(float(label_text or UNKNOWN))
    defect = given.get("defect", "")
    if label == NORMAL:
        if defect.lower() not in {*GOOD, "none", ""}:
            raise wrong("defect", 'empty or "good" where label is 0')
        defect = "good"
    split = given.get("split", "").lower()
    if split and split not in SPLITS:
        raise wrong("split", f"empty or one of {', '.join(SPLITS)}")
    try:
        severity = float(given.get("severity") or "nan")
    except ValueError:
        raise wrong("severity", "a number or empty") from None
    time = None
    if given.get("time"):
        try:
            time = pd.Timestamp(given["time"])
        except ValueError:
            raise wrong("time", "a date and time such as 2026-01-31T12:00:00 or empty") from None
        time = time.tz_localize("UTC") if time.tz is None else time.tz_convert("UTC")
    inside = {}
    for column in ("path", "mask"):
        relative = PurePosixPath(given.get(column, "").replace("\\", "/"))
        if relative.is_absolute() or ".." in relative.parts or (column == "path" and not relative.parts):
            raise wrong(column, "a path below the manifest's folder or its parent, relative, without ..")
        inside[column] = relative
    return Found(
        id=inside["path"].as_posix(),
        path=_place(manifest, inside["path"]),
        label=label,
        defect=defect,
        mask=_place(manifest, inside["mask"]) if inside["mask"].parts else None,
        group=given.get("group", ""),
        category=given.get("category", ""),
        severity=severity,
        time=time,
        split=SPLITS.get(split, ""),
    )


def _place(manifest: Path, relative: PurePosixPath) -> Path:
    below = manifest.parent / relative
    above = manifest.parent.parent / relative
    return above if not below.exists() and above.exists() else below
