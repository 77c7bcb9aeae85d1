"""Main-element binarisation: from an anomaly map to the few regions in it, and to images centred on each.

Huang, Li, Liu, Xue, Wang and Zhou (CVPR 2025), "AnomalyNCD: Towards Novel Anomaly Class Discovery in Industrial
Scenarios", https://arxiv.org/abs/2410.14379, the section on MEBin.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

EIGHT = np.ones((3, 3), bool)  # neighbours of a pixel
STABLE = 4  # thresholds in a row with one count of regions, at least
PAD = 1.1  # times the longer side of a region that the image of it is wide
LEAST = 0.2  # share of the image's longer side that it is at least wide
GAP = 0.01  # share of the image's longer side below which two of them are made one


class Box(NamedTuple):
    """A square of pixels."""

    top: int
    left: int
    side: int


def search_range(peaks: np.ndarray) -> tuple[float, float]:
    """Between which thresholds to search: the least and the most of the largest values of some maps, `(n,)`; from half
    of the most where they are all alike."""
    low, high = float(peaks.min()), float(peaks.max())
    return (low, high) if low < high else (high - abs(high) / 2 - 1e-6, high)


def main_elements(
    anomaly_map: np.ndarray, low: float, high: float, thresholds: int = 64, erosion: int = 1
) -> np.ndarray:
    """The main elements of `anomaly_map` `(h, w)`, bool of its shape, empty where nothing stands out.

    Thresholds fall to `low` from `high`, or from the map's own peak where that is lower, so that a faint anomaly is
    looked at as finely as a plain one (the paper falls from the highest peak of all maps). The longest run of them that
    all leave one number of regions (not 0), eroded by a square of `erosion` pixels, is stable, and its lowest threshold
    is taken."""
    tried = np.linspace(min(high, float(anomaly_map.max())), low, thresholds, endpoint=False)
    if erosion > 1:  # the least of a square lies above a threshold where all of it does
        anomaly_map = ndimage.minimum_filter(anomaly_map, erosion)
    counts = [ndimage.label(anomaly_map > value, EIGHT)[1] if value < anomaly_map.max() else 0 for value in tried]
    end = stable_end(counts)
    return np.zeros(anomaly_map.shape, bool) if end is None else anomaly_map > tried[end]


def standing_out(
    anomaly_map: np.ndarray, low: float, high: float, thresholds: int = 64, erosion: int = 1
) -> np.ndarray:
    """`main_elements` of a map; where none is stable, what rises half as high above `low` as its peak does."""
    mask, peak = main_elements(anomaly_map, low, high, thresholds, erosion), float(anomaly_map.max())
    return mask if mask.any() or peak <= low else anomaly_map > (low + peak) / 2


def stable_end(counts: Sequence[int], least: int = STABLE) -> int | None:
    """Where the longest run of one count that is not 0 ends, the first of several; None when none is `least` long."""
    best, longest, start = None, least - 1, 0
    for i, count in enumerate(counts):
        if i and count != counts[i - 1]:
            start = i
        if count and (i + 1 == len(counts) or counts[i + 1] != count) and i - start + 1 > longest:
            best, longest = i, i - start + 1
    return best


def boxes(mask: np.ndarray) -> list[Box]:
    """Squares within the image around the regions of `mask`, bool `(h, w)`, largest first; those that nearly touch are
    made one. None for an empty mask, and none wider than the image's shorter side."""
    height, width = mask.shape
    longest = max(height, width)
    found = []
    for rows, columns in ndimage.find_objects(ndimage.label(mask, EIGHT)[0]):
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        side = max(PAD * max(tall, wide), LEAST * longest)
        middle = ((rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2)
        found.append([middle[0] - side / 2, middle[1] - side / 2, middle[0] + side / 2, middle[1] + side / 2])
    merged = _merged(found, GAP * longest)
    squares = []
    for top, left, bottom, right in merged:
        side = min(round(max(bottom - top, right - left)), height, width)
        at = [
            int(np.clip(round((a + b - side) / 2), 0, most - side))
            for a, b, most in ((top, bottom, height), (left, right, width))
        ]
        squares.append(Box(at[0], at[1], side))
    return sorted(set(squares), key=lambda box: (-box.side, box))


def cropped(image: np.ndarray, mask: np.ndarray, box: Box, size: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `image` `(3, h, w)` and bool `mask` `(h, w)` inside `box`, `size` x `size`, bilinear and nearest; a mask
    that is lost on the way is all True."""
    rows, columns = slice(box.top, box.top + box.side), slice(box.left, box.left + box.side)
    part = torch.from_numpy(np.ascontiguousarray(image[:, rows, columns])).float()[None]
    small = F.interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    at = (np.arange(size) + 0.5) * box.side // size
    own = mask[rows, columns][at.astype(int)][:, at.astype(int)]
    return small.round().clamp(0, 255).byte().numpy(), own if own.any() else np.ones_like(own)


def root_area(mask: np.ndarray, box: Box) -> float:
    """Square root of the area of `mask` within `box`, as a share of the image's shorter side."""
    inner = mask[box.top : box.top + box.side, box.left : box.left + box.side]
    return float(np.sqrt(inner.sum()) / min(mask.shape))


def looks(
    image: np.ndarray, mask: np.ndarray, box: Box, size: int, views: int, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut-outs of `image` and `mask` as they are, then shifted by up to a tenth of `box`, in all
    quarter turns, four by four mirrored or not."""
    found = [cropped(image, mask, box, size)]
    for view in range(1, views):
        side = int(np.clip(round(box.side * rng.uniform(0.9, 1.1)), 1, min(mask.shape)))
        shift = rng.uniform(-0.1, 0.1, 2) * box.side + (box.side - side) / 2
        top, left = (
            int(np.clip(round(at + by), 0, most - side))
            for at, by, most in zip((box.top, box.left), shift, mask.shape, strict=True)
        )
        x, own = cropped(image, mask, Box(top, left, side), size)
        turns, mirrored = view % 4, view // 4 % 2
        x, own = np.rot90(x, turns, axes=(1, 2)), np.rot90(own, turns)
        found.append((x[:, :, ::-1].copy(), own[:, ::-1].copy()) if mirrored else (x.copy(), own.copy()))
    return found


def _merged(found: list[list[float]], gap: float) -> list[list[float]]:
    """Boxes (top, left, bottom, right) of which no two are nearer than `gap`: nearer ones became what holds both."""
    done: list[list[float]] = []
    for box in found:
        while True:
            near = [other for other in done if _apart(box, other) < gap]
            if not near:
                break
            done = [other for other in done if other not in near]
            all_of = np.array([box, *near])
            box = [*all_of[:, :2].min(axis=0), *all_of[:, 2:].max(axis=0)]
        done.append(box)
    return done


def _apart(a: list[float], b: list[float]) -> float:
    down, across = (max(a[i], b[i]) - min(a[i + 2], b[i + 2]) for i in (0, 1))
    return float(np.hypot(max(down, 0.0), max(across, 0.0)))
