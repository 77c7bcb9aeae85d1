"""Pictures for the page, made when they are asked for and kept in files: thumbnails, whole pictures, heat maps.

The folder of such files is bounded: those that were not looked at for longest go first.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

THUMBNAIL = 240  # longer side in pixels
HEAT = 1024  # longer side in pixels to which heat maps are smoothed
MOST = 512 * 2**20  # bytes of all files together
OFTEN = 256  # files written between two looks at how much there is
FAINT, STEEP = 0.15, 1.6  # opacity of the coolest places of a heat map, and how fast it grows
OUTSIDE = 0.8  # opacity of the black over places that do not count


class Pictures:
    """Files under `folder`, of at most about `most` bytes together."""

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self._folder, self._most = folder, most
        self._hands = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))  # pictures in the making, in memory
        self._written = 0

    def get(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The file `name`, made by `make` where it is not there; one that cannot be kept is made again."""
        path = self._folder / name[:2] / name
        with suppress(OSError):
            data = path.read_bytes()
            os.utime(path)
            return data
        with self._hands:
            data = make()
        partial = path.with_name(f".{name}.{os.getpid()}-{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        self._written += 1
        if self._written % OFTEN == 1:
            self.shrink()
        return data

    def shrink(self) -> None:
        """Remove what was not looked at for longest, until nine tenths of what is allowed are left."""
        found = []
        for path in self._folder.glob("*/*"):
            with suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        if total <= self._most:
            return
        for _, size, path in sorted(found):
            with suppress(OSError):
                path.unlink()
            total -= size
            if total <= 0.9 * self._most:
                return


def thumbnail(picture: np.ndarray) -> bytes:
    """A small WebP of a picture uint8 `(h, w, 3)`."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return _encoded(image, "WEBP", quality=82, method=0)


def whole(picture: np.ndarray) -> bytes:
    """All pixels of a picture uint8 `(h, w, 3)`, as PNG."""
    return _encoded(Image.fromarray(picture), "PNG", compress_level=1)


def heat(local: np.ndarray) -> bytes:
    """Local scores float32 `(h, w)` as a PNG to lay over the picture: viridis from the lowest to the highest, the more
    opaque the higher; dark where they are NaN."""
    from matplotlib import colormaps

    counts = np.isfinite(local)
    low, high = (float(f(local[counts])) if counts.any() else 0.0 for f in (np.min, np.max))
    level = np.where(counts, (local - low) / max(high - low, 1e-12), 0).astype(np.float32)
    scale = max(1, HEAT // max(level.shape))
    size = (level.shape[1] * scale, level.shape[0] * scale)
    smooth = np.asarray(Image.fromarray(level).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)
    inside = np.asarray(Image.fromarray(counts).resize(size, Image.Resampling.NEAREST))
    palette = (colormaps["viridis"](np.arange(256))[:, :3] * 255).astype(np.uint8)
    opaque = np.where(inside, np.clip(FAINT + STEEP * smooth, 0, 1), OUTSIDE)
    colours = np.where(inside[..., None], palette[np.rint(smooth * 255).astype(np.uint8)], np.uint8(0))
    return _encoded(Image.fromarray(np.dstack([colours, (opaque * 255).astype(np.uint8)])), "PNG", compress_level=1)


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
