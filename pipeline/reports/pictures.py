"""Pictures of a report, encoded so that all of them together stay within a budget of bytes.

Drawings of few colours become PNG without loss, photographs JPEG. A picture that was deleted, or that is none any more,
is None: its place in the report says so.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

from PIL import Image

from pipeline.reports.document import Block, Document, Gallery, Picture, Section

BUDGET = 6 * 2**20  # bytes of all pictures of a report; text in HTML, they take a third more
MOST = 400 * 2**10  # bytes of one of them
WIDEST, HIGHEST = 1100, 1600  # pixels
PALETTE = 256  # colours at most of a drawing
QUALITY = 85  # of JPEG
LEAST = 64  # pixels below which a picture is not made narrower
READ = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class Encoded:
    """A picture as a report carries it; `width` and `height` in pixels."""

    data: bytes
    mime: str
    width: int
    height: int


def small(document: Document) -> Document:
    """The same document with each picture encoded within the budget; a missing one becomes empty bytes.

    What is small already stays as it is, so that doing it twice changes nothing."""
    count = sum(1 for _ in _pictures(document))
    most = min(MOST, BUDGET // max(count, 1))
    sections = [
        Section(section.title, [_small(block, most) for block in section.blocks]) for section in document.sections
    ]
    return replace(document, sections=sections)


def encoded(picture: Picture) -> Encoded | None:
    """The bytes of a picture of a document that went through `small`; None for one that is missing."""
    assert isinstance(picture.image, bytes)
    found = _opened(picture.image) if picture.image else None
    return None if found is None else Encoded(picture.image, Image.MIME[found.format or ""], found.width, found.height)


def _pictures(document: Document) -> Iterator[Picture]:
    for section in document.sections:
        for block in section.blocks:
            if isinstance(block, Picture):
                yield block
            elif isinstance(block, Gallery):
                yield from block.pictures


def _small(block: Block, most: int) -> Block:
    if isinstance(block, Gallery):
        return replace(block, pictures=[replace(each, image=_bytes(each, most)) for each in block.pictures])
    return replace(block, image=_bytes(block, most)) if isinstance(block, Picture) else block


def _bytes(picture: Picture, most: int) -> bytes:
    try:
        data = picture.image if isinstance(picture.image, bytes) else picture.image.read_bytes()
    except OSError:
        return b""
    image = _opened(data)
    if image is None:
        return b""
    ready = image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L", "P")
    if ready and isinstance(picture.image, bytes) and len(data) <= most and _fits(image):
        return data
    image = image.convert("RGB")
    if not _fits(image):
        image.thumbnail((WIDEST, HIGHEST), Image.Resampling.BOX, reducing_gap=None)
    while True:
        data = _written(image)
        if len(data) <= most or image.width <= LEAST:
            return data
        image = image.resize((max(image.width * 7 // 10, 1), max(image.height * 7 // 10, 1)), Image.Resampling.BOX)


def _fits(image: Image.Image) -> bool:
    return image.width <= WIDEST and image.height <= HIGHEST


def _opened(data: bytes) -> Image.Image | None:
    """The decoded picture; None where the bytes are none."""
    try:
        image = Image.open(io.BytesIO(data), formats=READ)
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return image


def _written(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    if image.getcolors(PALETTE) is not None:
        image.quantize(PALETTE).save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()
