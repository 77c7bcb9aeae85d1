"""Pictures of image scores side by side: the image, its heat map, what is above the threshold, the true defect."""

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
OUTLINE = (255, 176, 0)  # of the truth; orange: told apart from viridis and from grey with any colour vision
CONTOUR = (230, 60, 140)  # of what is above the threshold
INK, PAPER = (0, 0, 0), (255, 255, 255)


def overlays(batch: Batch, scores: Scores, threshold: float, out: Path) -> list[Path]:
    """One PNG per sample of `batch` (x uint8 `(n, 3, h, w)`) under `out`; their paths, in order.

    Panels: the image; the local scores over it in viridis, on one scale for the whole batch; the contour of what in
    them stands above the threshold (see `level`), so an alarm has one; the outline of the true mask. The second and
    third are left out without local scores, the fourth where no pixel's label is known. Bars and what else lies outside
    the region stay without heat."""
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
        outlines: list[tuple[int, np.ndarray, tuple[int, int, int]]] = []  # panel, what is within, colour
        if scores.local is not None:
            levels = ((scores.local[index] - low) / max(high - low, 1e-12) * 255).clip(0, 255)
            heat = palette[np.rint(levels).astype(np.uint8)]
            warm = (image * (1 - OPACITY) + heat * OPACITY).astype(np.uint8)
            inside = np.ones(image.shape[:2], bool) if batch.region is None else batch.region[index]
            panels.append(np.where(inside[..., None], warm, image))
            hot = scores.local[index] > level(scores.local[index][inside], float(scores.sample[index]), threshold)
            outlines.append((len(panels), hot & inside, CONTOUR))
            panels.append(image)
        if batch.mask is not None and not (batch.mask[index] == UNKNOWN).all():
            outlines.append((len(panels), batch.mask[index] == ANOMALOUS, OUTLINE))
            panels.append(image)
        zoom = -(-SIDE // image.shape[0])  # whole times, so that pixels stay pixels
        panels = [_larger(panel, zoom) for panel in panels]
        for position, marks, colour in outlines:
            panels[position] = np.where(_outline(_larger(marks, zoom))[..., None], np.uint8(colour), panels[position])
        score = np.float32(scores.sample[index])
        verdict = "alarm" if score > np.float32(threshold) else "accept"
        title = f"{name}  score {score:.4g}, threshold {threshold:.4g}: {verdict}"
        paths.append(out / f"{safe_name(name)}.png")
        _canvas(panels, title, font).save(paths[-1], compress_level=1)
    return paths


def level(local: np.ndarray, score: float, threshold: float) -> float:
    """The local score that stands for a sample's `threshold`: where the sample's score is the highest of its local
    scores, the threshold itself; else, of the highest one, the share that the threshold is of the score (or, below 0,
    as far beneath it). So something is above it exactly where the sample is above its threshold."""
    peak = float(local.max())
    return peak * (threshold / score) if score > 0 and threshold > 0 and peak > 0 else peak - (score - threshold)


def _larger(panel: np.ndarray, times: int) -> np.ndarray:
    return np.repeat(np.repeat(panel, times, axis=0), times, axis=1)


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
