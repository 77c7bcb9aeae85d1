"""Plain facts about images, to compare with those of other batches: how bright, how rich in contrast, how sharp.

Sharpness is the variance of the Laplacian: Pech-Pacheco, Cristóbal, Chamorro-Martínez & Fernández-Valdivia, "Diatom
autofocusing in brightfield microscopy: a comparative study", ICPR 2000.
"""

import numpy as np
import pandas as pd

from pipeline.parts.images import checked
from pipeline.protocols import Batch

GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma of red, green, blue


def facts(batch: Batch) -> pd.DataFrame:
    """`brightness` (mean grey, 0 to 255), `contrast` (its standard deviation) and `sharpness` (variance of its
    Laplacian) of each image of a batch, uint8 `(n, 3, h, w)`: float64 columns, indexed by id.

    Only pixels in `batch.region` count; for sharpness those whose four neighbours lie in it, too. Without any there is
    nothing to tell: NaN. Raises DataError for other shapes or types."""
    images = checked(batch)
    rows = [_facts(image, None if batch.region is None else batch.region[i]) for i, image in enumerate(images)]
    return pd.DataFrame(rows, index=batch.ids, columns=["brightness", "contrast", "sharpness"], dtype=np.float64)


def _facts(image: np.ndarray, region: np.ndarray | None) -> tuple[float, float, float]:
    grey = np.tensordot(GREY, image, axes=1)  # (h, w)
    middle = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    if region is not None:
        sides = region[:-2, 1:-1] & region[2:, 1:-1] & region[1:-1, :-2] & region[1:-1, 2:]
        grey, laplacian = grey[region], laplacian[region[1:-1, 1:-1] & sides]
    seen = grey.astype(np.float64)
    sharpness = float(laplacian.var(dtype=np.float64)) if laplacian.size else np.nan
    return (float(seen.mean()), float(seen.std()), sharpness) if seen.size else (np.nan, np.nan, np.nan)
