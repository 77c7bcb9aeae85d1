"""train@NAME: the training part and the augmented samples -> models/NAME/ (fitted state, history.csv)."""

import pandas as pd

from pipeline import params, store
from pipeline.files import sha256, whole_folder
from pipeline.samples import part, read_manifest
from pipeline.stages import AUGMENTED, DATASET, MODELS, SPLIT, run


def main(name: str) -> None:
    given = params.read()
    detector = given.detector(name)
    rows = pd.concat([part(DATASET, SPLIT, "train"), read_manifest(AUGMENTED)], ignore_index=True)
    detector.fit(given.modality.samples(rows))
    with whole_folder(MODELS / name) as out:
        store.save(
            detector,
            given.detector_key(name),
            out,
            kind=given.dataset.kind,
            modality=given.modality,
            data=sha256(DATASET / "manifest.parquet"),
        )


if __name__ == "__main__":
    run(main)
