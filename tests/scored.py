"""Batches that were scored, with decisions of a test's own."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image as Pil

from pipeline.protocols import Modality
from tests.pictures import stripes


def scored(
    line: Path,
    batch: str,
    modality: Modality,
    source: Path,
    decisions: list[str],
    data: str = "",
    version: int = 1,
    keep: bool = True,
    started: str = "2026-01-01T00:00:00+00:00",
) -> Path:
    """A batch as `results.write` leaves it, with decisions of our own."""
    folder = line / "scores" / batch
    samples, quarantine = folder / "samples/00000", folder / "quarantine"
    samples.mkdir(parents=True)
    quarantine.mkdir()
    manifest = modality.ingest(source, samples, quarantine).manifest
    rows = pd.DataFrame({"id": manifest["id"], "score": np.arange(len(manifest), dtype=np.float32)})
    rows = rows.assign(p_value=0.5, decision=decisions, model_name="parts", model_version=version)
    rows.assign(data_hash=data or batch).to_parquet(folder / "scores.parquet", index=False)
    counts = {name: decisions.count(name) for name in ("accept", "review", "reject")}
    report = {"name": "parts", "version": version, "batch": batch, "started": started, "decisions": counts}
    (folder / "report.json").write_text(json.dumps(report))
    if not keep:
        (samples / "manifest.parquet").unlink()
    return folder


def images(folder: Path, n: int, seed: int) -> Path:
    folder.mkdir(parents=True)
    for index, image in enumerate(stripes(n, seed)):
        Pil.fromarray(image.transpose(1, 2, 0)).save(folder / f"{index}.png")
    return folder
