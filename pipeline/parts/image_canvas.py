"""Where an image lies on the canvas that detectors see: centre crop, fit, and the region that counts."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, MinLen
from PIL import Image, ImageDraw

from pipeline.errors import DataError
from pipeline.parts.image_files import rgb
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN

Side = Annotated[int, Ge(8)]
Share = Annotated[float, Ge(0), Le(1)]
Polygon = Annotated[list[tuple[Share, Share]], MinLen(3)]


@dataclass(frozen=True)
class Canvas:
    """The geometry of all images of a dataset."""

    size: tuple[Side, Side] = (256, 256)
    fit: Literal["letterbox", "stretch", "native"] = "letterbox"
    crop: Annotated[float, Gt(0), Le(1)] = 1.0
    region: list[Polygon] = field(default_factory=list)

    def misfit(self, width: int, height: int) -> str | None:
        """Why an image of this size cannot lie on the canvas; None when it can."""
        (left, top, right, bottom), (high, wide) = self._cropped(width, height), self.size
        if self.fit == "native" and (right - left > wide or bottom - top > high):
            return (
                f"{right - left} x {bottom - top} pixels do not fit the canvas of {wide} x {high} unscaled"
                " (dataset.size; or take dataset.fit: letterbox)"
            )
        return None

    def image(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels uint8 `(3, h, w)`, bilinear with antialiasing, and the region bool `(h, w)`: False on the bars of
        letterbox and native, which repeat the border's pixels, and outside the polygons. None: all of it counts.

        Raises DataError for an image that does not fit."""
        why = self.misfit(*image.size)
        if why:
            raise DataError(f"image cannot be used: {why}")
        image = image if image.mode == "L" else rgb(image)
        place = self._place(*image.size)
        pixels = np.asarray(self._resized(image, place, Image.Resampling.BILINEAR))
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)  # (h, w, 3) -> (3, h, w)
        top, left, high, wide = place
        bars = ((top, self.size[0] - top - high), (left, self.size[1] - left - wide))
        laid = np.pad(pixels, ((0, 0), *bars), mode="edge") if (high, wide) != self.size else pixels
        inside = None
        if (high, wide) != self.size or self.region or self.crop < 1:
            shape = np.ones((high, wide), bool)
            if self.region:
                drawn = self._resized(self._drawn(*image.size), place, Image.Resampling.NEAREST)
                shape = np.asarray(drawn) > 0
            inside = np.pad(shape, bars)
        return np.broadcast_to(laid, (3, *self.size)), inside

    def mask(self, marks: Image.Image) -> np.ndarray:
        """A mask (mode L, 0 or 255) as pixel labels int8 `(h, w)`; nearest pixels, or any marked one where these miss
        a small defect wholly. A mask that marks nothing on the canvas is UNKNOWN throughout."""
        place = self._place(*marks.size)
        found = np.asarray(self._resized(marks, place, Image.Resampling.NEAREST)) > 0
        if not found.any():
            found = np.asarray(self._resized(marks, place, Image.Resampling.BOX)) > 0
        if not found.any():
            return np.full(self.size, UNKNOWN, np.int8)
        top, left, high, wide = place
        labels = np.full(self.size, NORMAL, np.int8)
        labels[top : top + high, left : left + wide][found] = ANOMALOUS
        return labels

    def _cropped(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The centre that `crop` keeps: left, top, right, bottom in pixels."""
        wide, high = max(1, round(width * self.crop)), max(1, round(height * self.crop))
        left, top = (width - wide) // 2, (height - high) // 2
        return left, top, left + wide, top + high

    def _place(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Where an image of this size comes to lie: top, left, height, width on the canvas."""
        left, top, right, bottom = self._cropped(width, height)
        high, wide = self.size
        if self.fit == "stretch":
            return 0, 0, high, wide
        scale = 1.0 if self.fit == "native" else min(wide / (right - left), high / (bottom - top))
        w, h = (min(most, max(1, round(side * scale))) for most, side in ((wide, right - left), (high, bottom - top)))
        return (high - h) // 2, (wide - w) // 2, h, w

    def _resized(self, image: Image.Image, place: tuple[int, int, int, int], how: Image.Resampling) -> Image.Image:
        box = self._cropped(*image.size)
        _, _, high, wide = place
        if (box[2] - box[0], box[3] - box[1]) == (wide, high):
            return image if image.size == (wide, high) else image.crop(box)
        return image.resize((wide, high), how, box=box)

    def _drawn(self, width: int, height: int) -> Image.Image:
        drawn = Image.new("L", (width, height), 0)
        for polygon in self.region:
            ImageDraw.Draw(drawn).polygon([(x * width, y * height) for x, y in polygon], fill=255)
        return drawn


def finer(canvas: Canvas, width: int, height: int, most: int) -> Canvas:
    """The same canvas, as many whole times larger as an image of `width` x `height` pixels has detail for, its longer
    side at most `most` pixels; the canvas itself where there is no more to see, or pixels are kept as they are."""
    if canvas.fit == "native" or not width or not height:
        return canvas
    left, top, right, bottom = canvas._cropped(width, height)
    _, _, high, wide = canvas._place(width, height)
    times = min(-(-max((right - left) / wide, (bottom - top) / high) // 1), most // max(canvas.size))
    return replace(canvas, size=(canvas.size[0] * int(times), canvas.size[1] * int(times))) if times > 1 else canvas
