"""calibrate@NAME: the model and the calibration part -> models/NAME.calibration.json (see threshold.py)."""

from pipeline import params, scoring, store, threshold
from pipeline.files import sha256, write_json
from pipeline.samples import normals, part
from pipeline.stages import DATASET, MODELS, SPLIT, run


def main(name: str) -> None:
    given = params.read()
    samples = normals(given.modality.samples(part(DATASET, SPLIT, "calibrate")))
    scored = scoring.score(store.load(MODELS / name).detector, samples, keep_local=False)
    rule = given.calibrate
    calibration = threshold.calibrate(
        scored.scores.sample, rule.alpha, rule.confidence, rule.review, model=sha256(MODELS / name)
    )
    write_json(MODELS / f"{name}.calibration.json", calibration.to_json())
    print(calibration.says())


if __name__ == "__main__":
    run(main)
