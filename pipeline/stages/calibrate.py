"""calibrate@NAME: the model and the calibration part -> models/NAME.calibration.json (see threshold.py)."""

import numpy as np

from pipeline import params, scoring, store, threshold
from pipeline.files import sha256, write_json
from pipeline.protocols import ANOMALOUS, NORMAL
from pipeline.samples import part, presumed_normal
from pipeline.stages import DATASET, MODELS, SPLIT, run
from pipeline.threshold import Scored


def main(name: str) -> None:
    given = params.read()
    plan, detector = given.calibrate, store.load(MODELS / name).detector
    rows = part(DATASET, SPLIT, "calibrate")
    normal, labelled = presumed_normal(rows["label"].to_numpy()), (rows["label"] == NORMAL).any()
    rows = rows[normal | (rows["label"] == ANOMALOUS)].reset_index(drop=True)
    samples = given.modality.samples(rows)
    if len(samples):
        scores = scoring.score(detector, samples, keep_local=False).scores.sample
    else:
        scores = np.zeros(0, np.float32)
    odd = (rows["label"] == ANOMALOUS).to_numpy()
    good = ~odd
    of = None if plan.by is None else rows[plan.by].astype("str").where(rows[plan.by].notna(), "").to_numpy(object)
    parts = (None, None) if of is None else (of[good], of[odd])
    known = Scored(scores[good], scores[odd], *parts, getattr(detector, "degrees", ()), not labelled)
    calibration = threshold.calibrate(plan, known, model=sha256(MODELS / name))
    write_json(MODELS / f"{name}.calibration.json", calibration.to_json())
    print(calibration.says())


if __name__ == "__main__":
    run(main)
