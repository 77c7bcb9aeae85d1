"""What an image dataset must be to be trained on, in Great Expectations' words."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.parts.image_files import MODES
from pipeline.protocols import ANOMALOUS, NORMAL, Check
from pipeline.samples import read_manifest

BLANK = 1.0  # grey levels of contrast below which an image shows nothing


def frame_to_check(folder: Path, size: tuple[int, int] | None) -> pd.DataFrame:
    """The manifest of a dataset folder with computed columns, then its rejected files with `readable` False and only
    `id` and `reason` besides. A computed column is empty where its check does not apply. `size` (h, w) is the canvas
    when images are stretched to it, None when they keep their aspect."""
    rows = read_manifest(folder).drop(columns="folder")
    normal, anomalous, masked = rows["label"] == NORMAL, rows["label"] == ANOMALOUS, rows["mask"] != ""
    rows["readable"] = True
    rows["copies"] = rows.groupby(["sha256", "label"])["id"].transform("size")
    rows["labels"] = rows.groupby("sha256")["label"].transform("nunique")
    rows["side"] = rows[["width", "height"]].min(axis=1)
    rows["aspect"] = rows["width"] / rows["height"] / (size[1] / size[0]) if size else np.nan
    rows["normal_contrast"] = rows["contrast"].where(normal)
    rows["normal_marked"] = rows["mask_share"].where(normal)
    rows["defect_marked"] = rows["mask_share"].where(anomalous)
    rows["defect_masks"] = masked.astype("float64").where(anomalous)
    rows["normals"] = int(normal.sum())
    rejected = pd.read_parquet(folder / "rejected.parquet").drop(columns="path")
    rejected["readable"] = False
    return pd.concat([rows, rejected], ignore_index=True) if len(rejected) else rows


def suite(frame: pd.DataFrame, min_side: int, min_normals: int) -> list[Check]:
    """The checks for a frame of `frame_to_check`; critical are those whose failure would train or measure nonsense."""
    rejected = int((~frame["readable"]).sum())
    masks = bool((frame["mask"].fillna("") != "").any())

    def between(column: str, low: float | None, high: float | None) -> dict[str, Any]:
        return {"column": column, "min_value": low, "max_value": high}

    values, among = "ExpectColumnValuesToBeBetween", "ExpectColumnValuesToBeInSet"
    aside = f"{rejected} images or masks were quarantined (data/quarantine/rejected.csv says why)"
    few = f"fewer than {min_normals} images are normal (label 0; dataset.min_normals)"
    small = f"images have a side of less than {min_side} pixels (dataset.min_side)"
    wanted: list[tuple[str, dict[str, Any], bool, str]] = [
        (among, {"column": "readable", "value_set": [True]}, False, aside),
        ("ExpectColumnValuesToBeUnique", {"column": "id"}, True, "two images have the same id"),
        ("ExpectColumnMaxToBeBetween", between("normals", min_normals, None), True, few),
        (among, {"column": "label", "value_set": [NORMAL, ANOMALOUS]}, False, "images without a label go unused"),
        (among, {"column": "mode", "value_set": list(MODES)}, True, f"modes other than {', '.join(MODES)}"),
        (
            "ExpectColumnUniqueValueCountToBeBetween",
            between("mode", None, 1),
            False,
            "images of several modes are mixed",
        ),
        (values, between("side", min_side, None), True, small),
        (values, between("aspect", 0.5, 2), False, "images are squeezed to less than half (dataset.fit)"),
        (values, between("normal_contrast", BLANK, None), True, "images labelled normal are blank"),
        (values, between("copies", None, 1), False, "images with the same label have identical content"),
        (values, between("labels", None, 1), True, "images with identical content have different labels"),
        (values, between("normal_marked", None, 0), True, "images labelled normal have a mask that marks pixels"),
    ]
    if masks:
        wanted += [
            (values, between("defect_masks", 1, None), False, "defective images without mask: no pixel metrics"),
            (values, between("defect_marked", 1e-9, None), False, "masks of defective images mark no pixel"),
        ]
    return [Check(*check) for check in wanted]
