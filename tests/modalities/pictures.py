"""Small images and raw bytes for the tests of images."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image as Pil


def noise(height: int, width: int, *channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def put(path: Path, image: np.ndarray | Pil.Image | bytes | None = None, seed: int = 0) -> Path:
    """Write an image (noise when none is given) or raw bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
        return path
    image = noise(24, 32, seed=seed) if image is None else image
    (Pil.fromarray(image) if isinstance(image, np.ndarray) else image).save(path)
    return path


def encoded(image: Pil.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def png16(height: int, width: int) -> bytes:
    """A 16-bit RGB PNG, which PIL would quietly read as 8 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = zlib.compress(b"".join(b"\0" + bytes(6 * width) for _ in range(height)))
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def huge_png() -> bytes:
    """The header of an image of 100 megapixels, with nothing behind it: decoding it would fail differently."""
    data = png16(1, 1)
    head = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def write(raw: Path, text: str, name: str = "manifest.csv") -> Path:
    raw.mkdir(exist_ok=True, parents=True)
    (raw / name).write_text(text, encoding="utf-8")
    return raw / name
