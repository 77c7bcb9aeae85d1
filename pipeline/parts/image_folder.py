"""A folder of photographs of anything, from which some are drawn."""

from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.parts.image_canvas import Canvas
from pipeline.parts.image_files import SUFFIXES, NotAnImage, opened, rgb

MAX_PIXELS = 100_000_000  # of an image


class Folder:
    """The images anywhere under a folder, stretched to `size` (h, w). Raises DataError when there is none."""

    def __init__(self, folder: str, size: tuple[int, int]) -> None:
        self._files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not self._files:
            raise DataError(f"{folder} must be a folder of images ({', '.join(SUFFIXES)}), got none in it")
        self._canvas = Canvas(size, "stretch")

    def drawn(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """uint8 `(count, 3, h, w)`. Raises DataError for a file that cannot be read."""
        return np.stack([self._read(self._files[i]) for i in rng.integers(len(self._files), size=count)])

    def _read(self, path: Path) -> np.ndarray:
        try:
            return self._canvas.image(rgb(opened(path, MAX_PIXELS)))[0]
        except NotAnImage as error:
            raise DataError(f"{path}: {error}") from error
