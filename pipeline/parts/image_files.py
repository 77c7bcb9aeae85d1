"""Open and decode image files with care: what an image may be, and in one sentence why it is not one."""

import errno
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

# Every file is opened by `opened` below, which holds the caller's own limit before it decodes; PIL's would only warn.
Image.MAX_IMAGE_PIXELS = None

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm", ".jp2")
MODES = ("L", "RGB", "RGBA", "P", "1", "LA")


class NotAnImage(Exception):
    """Why a file is rejected; the message is the reason that stands in the quarantine's list."""


def opened(file: Path | BytesIO, max_pixels: int) -> Image.Image:
    """The image in `file`, decoded and turned as its EXIF orientation says, in its own mode.

    Raises NotAnImage for a missing or empty file, damage, another format or mode, more than 8 bits, more than
    one frame, or more than `max_pixels` pixels (known from the header: such an image is never decoded)."""
    try:
        with file.open("rb") if isinstance(file, Path) else file as stream:
            return _decoded(stream, max_pixels)
    except (NotAnImage, MemoryError):
        raise
    except Exception as error:  # PIL raises nearly anything on damaged files
        if isinstance(error, OSError) and error.errno not in {
            None,
            errno.ENOENT,
            errno.EACCES,
            errno.EISDIR,
            errno.EINVAL,
        }:
            raise
        raise NotAnImage(_reason(error)) from error


def _decoded(stream: IO[bytes], max_pixels: int) -> Image.Image:
    try:
        image = Image.open(stream, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        stream.seek(0)
        if not stream.read(1):
            raise NotAnImage("the file is empty (0 bytes)") from error
        raise NotAnImage(f"not an image in a known format ({', '.join(FORMATS)}), or its header is damaged") from error
    width, height = image.size
    if width * height > max_pixels:
        raise NotAnImage(f"{width} x {height} pixels are more than dataset.max_pixels allows ({max_pixels:,})")
    if any(";16" in str(tile[3]) or ";12" in str(tile[3]) for tile in image.tile) or image.mode.startswith("I;16"):
        raise NotAnImage(f"more than 8 bits a channel (mode {image.mode}); allowed are 8-bit {', '.join(MODES)}")
    if image.mode not in MODES:
        raise NotAnImage(f"mode {image.mode} is not supported; allowed are {', '.join(MODES)}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO is a phone's JPEG with a preview behind it
        raise NotAnImage(f"{frames} frames in one file, allowed is 1")
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if isinstance(error, OSError) and error.errno:
        return f"the file cannot be read: {error.strerror}"
    return f"truncated or damaged: {str(error) or type(error).__name__}"


def rgb(image: Image.Image) -> Image.Image:
    """An image of any allowed mode as 8-bit RGB; alpha is dropped."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def marked(mask: Image.Image) -> Image.Image:
    """A mask file as mode L with 0 (normal) and 255 (anomalous).

    Every value above 0 is anomalous, except in JPEG masks, whose noise makes it above 127."""
    floor = 127 if mask.format in {"JPEG", "MPO"} else 0
    return rgb(mask).convert("L").point([255 if value > floor else 0 for value in range(256)])


def contrast(image: Image.Image) -> float:
    """Standard deviation of the grey levels, 0 to 127.5, from the histogram: exact, and small in memory."""
    counts = np.array(rgb(image).convert("L").histogram(), dtype=np.float64)
    levels = np.arange(256)
    mean = counts @ levels / counts.sum()
    return float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum()))
