"""The polygons of a drawn region of interest, for `dataset.region` of params.yaml.

    python -m pipeline.region MASK.png

MASK is white where an image counts, of the aspect of the images. A region stands in params, not in a file beside them,
so that DVC sees when it changes and a registered model carries it along.
"""

import argparse
from pathlib import Path

import numpy as np

from pipeline.ending import one_sentence
from pipeline.errors import DataError
from pipeline.parts.image_files import NotAnImage, marked, opened

TOLERANCE = 1.0  # pixels that a polygon may stray from the outline of the mask


def polygons(path: Path) -> list[list[tuple[float, float]]]:
    """Outlines of the white areas of a mask file as (x, y) shares of its width and height.

    Raises DataError when it cannot be read, marks nothing, or has holes, which polygons cannot have."""
    from skimage.measure import approximate_polygon, euler_number, find_contours, label

    try:
        mask = np.asarray(marked(opened(path, 10**9))) > 0
    except NotAnImage as why:
        raise DataError(f"{path} must be an image of the region: {why}") from why
    if not mask.any():
        raise DataError(f"{path} must mark the region in white, and marks nothing")
    areas = int(label(mask, connectivity=1).max())
    if euler_number(mask, connectivity=1) < areas:
        raise DataError(f"{path} must mark areas without holes; cut them open")
    height, width = mask.shape
    outlines = find_contours(np.pad(mask, 1).astype(float), 0.5)
    found = []
    for outline in outlines:
        corners = approximate_polygon(outline, TOLERANCE)[:-1] - 0.5  # the padding's pixel less half a pixel's width
        if len(corners) >= 3:
            shares = np.round(corners[:, ::-1] / (width, height), 4).clip(0, 1)
            found.append([(float(x), float(y)) for x, y in shares])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mask", type=Path, help="an image, white where images count")
    for polygon in polygons(parser.parse_args().mask):
        print(f"- [{', '.join(f'[{x}, {y}]' for x, y in polygon)}]")


if __name__ == "__main__":
    with one_sentence():
        main()
