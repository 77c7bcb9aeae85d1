"""Images: files on disk, laid on a canvas of one size as RGB uint8, with a label for every pixel where it is known."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from os import cpu_count
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from warnings import catch_warnings, simplefilter

import numpy as np
import pandas as pd
from annotated_types import Ge, Gt, Le
from PIL import Image as Pil

from pipeline.errors import DataError
from pipeline.files import link, sha256
from pipeline.parts import image_canvas, image_cuts, image_inline
from pipeline.parts.image_canvas import Canvas, Polygon, Side
from pipeline.parts.image_checks import frame_to_check, suite
from pipeline.parts.image_files import NotAnImage, contrast, marked, opened
from pipeline.parts.image_layouts import Found, listing
from pipeline.parts.image_rows import set_aside, typed, write_png, written
from pipeline.parts.progress import Progress
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN, Batch, Check, Cut, Ingested, Look, Samples, Scores
from pipeline.samples import View

AT_A_TIME = 1024  # images in the hands of the thread pool
LARGEST = 2048  # longer side in pixels of a picture to look at


@dataclass
class Image:
    """Options of the `dataset` section for `kind: image`."""

    shard: ClassVar[int] = 512
    batch: ClassVar[int] = 32
    size: tuple[Side, Side] = (256, 256)
    """Height and width in pixels of the canvas that every image is laid on."""
    fit: Literal["letterbox", "stretch", "native"] = "letterbox"
    """`letterbox` scales an image until it just fits and keeps its aspect, `native` keeps its pixels as they are (for
    larger canvases, with `tiles`), `stretch` squashes it to the canvas. Bars around an image do not count."""
    crop: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of an image's width and height that is kept around its centre."""
    region: list[Polygon] = field(default_factory=list)
    """Region of interest: polygons of (x, y) as shares of the image's width and height; nothing outside counts.
    `python -m pipeline.region MASK.png` gives the polygons of a drawn mask."""
    max_pixels: Annotated[int, Ge(1)] = 50_000_000
    """Images with more pixels than this are quarantined before they are decoded."""
    min_side: Annotated[int, Ge(1)] = 16
    """Shortest side in pixels below which an image fails validation."""
    min_normals: Annotated[int, Ge(1)] = 8
    """Normal images below which the dataset fails validation."""

    def ingest(self, source: Path, out: Path, quarantine: Path) -> Ingested:
        """Decode every image of `source` once (see `image_layouts.listing` for what it may be), link the good ones to
        `out/images`, their masks to `out/masks`, the others to `quarantine/files`.

        Writes manifest.parquet (image_rows.COLUMNS) and rejected.parquet under `out`, and rejected.parquet and
        rejected.csv (id, path below the quarantine, reason) under `quarantine`. Allowed are 8-bit images of
        image_files.MODES; an image whose mask is missing, unreadable or of another size is rejected, too.
        Raises DataError when the layout or manifest makes no sense, or no image is left; of a part of a batch, see
        `cut`, none need be left."""
        part = image_cuts.is_part(source)
        listed = image_cuts.listing(source) if part else listing(source)
        frames: list[pd.DataFrame] = []
        rejected: list[tuple[str, str, str]] = []
        with (
            catch_warnings(),
            ThreadPoolExecutor(cpu_count() or 1, thread_name_prefix="ingest") as pool,
            Progress(len(listed.found), "ingest", "images") as bar,
        ):
            simplefilter("ignore")  # PIL's remarks on odd EXIF data and the like; what matters is rejected
            for start in range(0, len(listed.found), AT_A_TIME):
                some = listed.found[start : start + AT_A_TIME]
                rows = []
                for one, row in zip(some, pool.map(lambda one: self._take(one, out), some), strict=True):
                    if isinstance(row, str):
                        rejected.append((one.id, set_aside(one.path, one.id, quarantine), row))
                    else:
                        rows.append(row)
                    bar.update()
                frames.append(typed(rows))
        rejected += [(name, set_aside(path, name, quarantine), reason) for name, path, reason in listed.odd]
        manifest = pd.concat(frames, ignore_index=True) if frames else typed([])
        if manifest.empty and not part:
            name, _, reason = rejected[0]
            raise DataError(
                f"{source.name} must hold images that can be read, got {len(rejected)} others ({name}: {reason})"
            )
        bad = written(manifest, rejected, out)
        bad.to_parquet(quarantine / "rejected.parquet", index=False)
        bad.to_csv(quarantine / "rejected.csv", index=False, lineterminator="\n")
        return Ingested(manifest, bad)

    def _take(self, one: Found, out: Path) -> dict[str, Any] | str:
        """Decode one image and its mask and link both; its manifest row, or the reason why it is rejected."""
        try:
            image = opened(one.path, self.max_pixels)
        except NotAnImage as why:
            return str(why)
        misfit = self._canvas.misfit(*image.size)
        if misfit:
            return misfit
        row = {name: getattr(one, name) for name in ("id", "label", "defect", "group", "category", "severity", "time")}
        row |= {"split": one.split, "path": f"images/{one.id}", "mask": "", "mask_sha256": ""}
        row |= {"width": image.width, "height": image.height, "mode": image.mode, "contrast": contrast(image)}
        if one.mask is not None:
            try:
                mask = marked(opened(one.mask, self.max_pixels))
            except NotAnImage as why:
                return f"its mask {one.mask.name}: {why}"
            if mask.size != image.size:
                return f"its mask is {mask.width} x {mask.height} pixels, the image {image.width} x {image.height}"
            row["mask"] = f"masks/{one.id}{one.mask.suffix}"
            row["mask_share"] = mask.histogram()[255] / (mask.width * mask.height)
            row["mask_sha256"] = sha256(one.mask)
            link(one.mask, out / row["mask"])
        row["sha256"] = sha256(one.path)
        if one.sha256 not in ("", row["sha256"]):
            return "has changed while the batch was read"
        link(one.path, out / row["path"])
        return row

    def cut(self, source: Path, size: int, out: Path) -> Cut:
        """See parts/image_cuts.py."""
        return image_cuts.cut(source, size, out)

    def describe(self, batch: Batch) -> pd.DataFrame:
        """How bright, how rich in contrast and how sharp each image is: see parts/image_facts.py."""
        from pipeline.parts.image_facts import facts

        return facts(batch)

    def thin(self, folder: Path, wanted: np.ndarray) -> None:
        """Remove the files of the other images, and their rows from the manifest; so those of images that are gone."""
        manifest = pd.read_parquet(folder / "manifest.parquet")
        kept = wanted & np.array([(folder / path).is_file() for path in manifest["path"]], bool)
        for row in manifest[~kept].itertuples():
            for name in filter(None, (row.path, row.mask)):
                (folder / name).unlink(missing_ok=True)
        manifest[kept].to_parquet(folder / "manifest.parquet", index=False)

    @cached_property
    def _canvas(self) -> Canvas:
        return Canvas(self.size, self.fit, self.crop, self.region)

    def samples(self, rows: pd.DataFrame) -> Samples:
        """Batches with x uint8 `(n, 3, h, w)`, the label of every pixel and the region that counts.

        Pixels of an image that is not normal and has no mask are of unknown label.
        A batch raises DataError for an image that has vanished or changed since ingest."""
        return View(rows, self._read)

    def from_frame(self, frame: pd.DataFrame) -> Samples:
        """The images whose local paths stand in the column `path`, or whose files' bytes stand in `image` as base64, of
        unknown label. A column `region` may name a mask for images that lie on their canvas already, `category` and
        `group` what they belong to; others are ignored."""
        files = image_inline.files(frame)
        rows = frame.reindex(columns=["region", "category", "group"]).to_dict("records")
        for number, (row, file) in enumerate(zip(rows, files, strict=True), 1):
            name = str(file) if isinstance(file, Path) else f"in row {number}"
            row |= {"id": name, "path": name, "label": UNKNOWN, "width": 0, "height": 0}
        held = [None if isinstance(file, Path) else file for file in files]
        return View(typed(rows).assign(folder=""), lambda some: self._read(some, [held[i] for i in some.index]))

    def to_frame(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The local paths of the images of manifest rows in a column `path`; `region` and `category` as they are."""

        def local(column: str) -> list[str]:
            return [str(Path(row["folder"], row[column])) if row[column] else "" for _, row in rows.iterrows()]

        return pd.DataFrame({"path": local("path"), "region": local("region"), "category": rows["category"].to_list()})

    def _read(self, rows: pd.DataFrame, held: list[bytes | None] | None = None) -> Batch:
        """Decode the images of some rows: files, or the bytes in `held` where there are."""
        height, width = self.size
        x = np.empty((len(rows), 3, height, width), np.uint8)
        mask = np.full((len(rows), height, width), UNKNOWN, np.int8)
        mask[rows["label"].to_numpy() == NORMAL] = NORMAL
        region = np.ones((len(rows), height, width), bool)
        partly = False
        for index, row in enumerate(rows.itertuples()):
            data = held[index] if held else None
            image = self._reopened(row.id, Path(row.folder, row.path) if data is None else data, row.sha256)
            canvas = Canvas(self.size, "stretch") if row.region else self._canvas
            x[index], inside = canvas.image(image)
            if row.region:
                inside = np.asarray(self._reopened(row.id, Path(row.folder, row.region), "").convert("L")) > 0
            if inside is not None:
                region[index], partly = inside, True
            if row.mask and row.label != NORMAL:
                mask[index] = canvas.mask(marked(self._reopened(row.id, Path(row.folder, row.mask), row.mask_sha256)))
        label = rows["label"].to_numpy(np.int8)
        return Batch(rows["id"].tolist(), x, label, mask, region if partly else None, rows["category"].tolist())

    def _reopened(self, name: str, path: Path | bytes, content: str) -> Pil.Image:
        """The image at `path`, which must still have the hash `content` ("" for not known), or the bytes of one."""
        try:
            if isinstance(path, bytes) or not content:
                return opened(BytesIO(path) if isinstance(path, bytes) else path, self.max_pixels)
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != content:
                raise DataError(f"image {name} has changed since it was ingested ({path}); run ingest again")
            return opened(BytesIO(data), self.max_pixels)
        except FileNotFoundError as error:
            raise DataError(f"image {name} is gone since it was ingested ({path}); run ingest again") from error
        except NotAnImage as why:
            raise DataError(f"image {name} cannot be used: {why}") from why

    def save(self, batches: Iterable[Batch], out: Path) -> pd.DataFrame:
        """PNGs under `out/images`, masks of anomalous images under `out/masks`, regions under `out/regions`, and
        manifest.parquet."""
        frames = [typed([])]
        for batch in batches:
            rows = []
            for index, name in enumerate(batch.ids):
                image = Pil.fromarray(np.ascontiguousarray(batch.x[index].transpose(1, 2, 0)))
                label = int(batch.label[index])
                row = {"id": name, "label": label, "defect": {NORMAL: "good", ANOMALOUS: "synthetic"}.get(label, "")}
                row |= {"split": "train", "width": image.width, "height": image.height, "mode": image.mode}
                row |= {"path": f"images/{name.removesuffix('.png')}.png", "contrast": contrast(image)}
                row["sha256"] = write_png(image, out / row["path"])
                marks = None if batch.mask is None else batch.mask[index] == ANOMALOUS
                if marks is not None and marks.any() and label != NORMAL:
                    row |= {"mask": f"masks/{name.removesuffix('.png')}.png", "mask_share": marks.mean()}
                    row["mask_sha256"] = write_png(Pil.fromarray(marks), out / row["mask"])
                if batch.region is not None:
                    row["region"] = f"regions/{name.removesuffix('.png')}.png"
                    write_png(Pil.fromarray(batch.region[index]), out / row["region"])
                if batch.category is not None:
                    row["category"] = batch.category[index]
                rows.append(row)
            frames.append(typed(rows))
        manifest = pd.concat(frames, ignore_index=True)
        if not manifest["path"].is_unique:
            twice = manifest["id"][manifest["path"].duplicated()].iloc[0]
            raise DataError(f"ids of new images must differ, got {twice!r} twice")
        written(manifest, [], out)
        return manifest

    def checks(self, folder: Path) -> tuple[pd.DataFrame, list[Check]]:
        """One row per image, rejected ones included, and the suite: see parts/image_checks.py."""
        frame = frame_to_check(folder, self.size if self.fit == "stretch" else None)
        return frame, suite(frame, self.min_side, self.min_normals)

    def local_metrics(self, truth: np.ndarray, local: np.ndarray) -> dict[str, float]:
        """Pixel AUROC and AUPRO (false-alarm rate up to 0.3) of maps `(n, h, w)`; none without marked pixels."""
        from pipeline import metrics

        found = {"pixel_auroc": metrics.pixel_auroc(truth, local), "aupro": metrics.aupro(truth, local, limit=0.3)}
        return {name: value for name, value in found.items() if value is not None}

    def local_curves(self, truth: np.ndarray, local: np.ndarray) -> dict[str, pd.DataFrame]:
        """`pro`, the per-region-overlap curve up to a false-alarm rate of 0.3; none without marked pixels."""
        from pipeline import metrics

        found = metrics.pro_curve(truth, local, limit=0.3)
        if found is None:
            return {}
        return {"pro": pd.DataFrame({"false_alarm_rate": found.x, "region_overlap": found.y})}

    def look(self, rows: pd.DataFrame, scores: Scores | None) -> list[Look]:
        """The canvas of each image, as many whole times larger as its file has pixels for, up to LARGEST a side."""
        looks = []
        for index in range(len(rows)):
            row = rows.iloc[[index]].reset_index(drop=True)
            finer = image_canvas.finer(self._canvas, int(row["width"][0]), int(row["height"][0]), LARGEST)
            shown = replace(self, size=finer.size)._read(row)
            heat = None
            if scores is not None and scores.local is not None:
                inside = self._read(row).region
                heat = scores.local[index] if inside is None else np.where(inside[0], scores.local[index], np.nan)
            picture = np.ascontiguousarray(shown.x[0].transpose(1, 2, 0))
            facts = [("file", Path(row["path"][0]).name), ("pixels", f"{row['width'][0]} x {row['height'][0]}")]
            looks.append(Look(picture, None if heat is None else heat.astype(np.float32), facts))
        return looks

    def draw(self, batch: Batch, scores: Scores, threshold: float, out: Path) -> list[Path]:
        """Image, heat map, contour of what is above the threshold and outline of the true mask side by side, one PNG
        per image: see parts/overlays.py."""
        from pipeline.parts.overlays import overlays

        return overlays(batch, scores, threshold, out)
