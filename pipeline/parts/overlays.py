"""Pictures of image scores: the image, its heat map, and the true defect's outline, side by side."""

import hashlib
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.protocols import ANOMALOUS, UNKNOWN, Batch, Scores

SIDE = 224  # smallest height of a panel, in pixels
GAP = 4
TITLE = 18  # height of the title, in pixels
OPACITY = 0.55  # of the heat map over the image
OUTLINE = (255, 176, 0)  # orange: told apart from viridis and from grey with any colour vision
INK, PAPER = (0, 0, 0), (255, 255, 255)


def overlays(batch: Batch, scores: Scores, threshold: float, out: Path) -> list[Path]:
    """One PNG per sample of `batch` (x uint8 `(n, 3, h, w)`) under `out`; their paths, in order.

    Panels: the image; the local scores over it in viridis, on one scale for the whole batch; the outline of
    the true mask. The second is left out without local scores, the third where no pixel's label is known. Bars and
    what else lies outside the region stay without heat."""
    from matplotlib import colormaps

    out.mkdir(parents=True, exist_ok=True)
    palette = (colormaps["viridis"](np.arange(256))[:, :3] * 255).astype(np.uint8)
    low, high = 0.0, 0.0
    if scores.local is not None:
        counted = scores.local if batch.region is None else scores.local[batch.region]
        low, high = float(counted.min()), float(counted.max())
    font = ImageFont.load_default(size=12)
    paths = []
    for index, name in enumerate(batch.ids):
        image = np.ascontiguousarray(batch.x[index].transpose(1, 2, 0))  # (h, w, 3)
        panels = [image]
        if scores.local is not None:
            levels = ((scores.local[index] - low) / max(high - low, 1e-12) * 255).clip(0, 255)
            heat = palette[np.rint(levels).astype(np.uint8)]
            warm = (image * (1 - OPACITY) + heat * OPACITY).astype(np.uint8)
            panels.append(warm if batch.region is None else np.where(batch.region[index][..., None], warm, image))
        zoom = -(-SIDE // image.shape[0])  # whole times, so that pixels stay pixels
        panels = [np.repeat(np.repeat(panel, zoom, axis=0), zoom, axis=1) for panel in panels]
        if batch.mask is not None and not (batch.mask[index] == UNKNOWN).all():
            marks = batch.mask[index] == ANOMALOUS
            mask = np.repeat(np.repeat(marks, zoom, axis=0), zoom, axis=1)
            panels.append(np.where(_outline(mask)[..., None], np.uint8(OUTLINE), panels[0]))
        score = np.float32(scores.sample[index])
        verdict = "alarm" if score > np.float32(threshold) else "accept"
        title = f"{name}  score {score:.4g}, threshold {threshold:.4g}: {verdict}"
        paths.append(out / f"{safe_name(name)}.png")
        _canvas(panels, title, font).save(paths[-1], compress_level=1)
    return paths


def _outline(mask: np.ndarray) -> np.ndarray:
    """The pixels around a bool mask `(h, w)`, two wide, outside of it: the defect itself stays in sight."""
    height, width = mask.shape
    wider = np.pad(mask, 2)
    near = np.zeros_like(mask)
    for down in range(5):
        for right in range(5):
            near |= wider[down : down + height, right : right + width]
    return near & ~mask


def _canvas(panels: list[np.ndarray], title: str, font: ImageFont.ImageFont) -> Image.Image:
    height, width = panels[0].shape[:2]
    total = len(panels) * (width + GAP) - GAP
    while font.getlength(title) > total - GAP and len(title) > 1:  # long ids lose their beginning
        title = "…" + title[2:]
    canvas = Image.new("RGB", (total, height + TITLE), PAPER)
    ImageDraw.Draw(canvas).text((GAP, 2), title, fill=INK, font=font)
    for position, panel in enumerate(panels):
        canvas.paste(Image.fromarray(panel), (position * (width + GAP), TITLE))
    return canvas


def safe_name(name: str) -> str:
    """`name` as a file name on any system: `/` becomes `__`; a hash keeps apart what would fall together."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name.replace("/", "__"))[-120:]
    if plain.replace("__", "/") == name and not name.startswith((".", "-")):
        return plain
    return f"{plain.lstrip('.-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
