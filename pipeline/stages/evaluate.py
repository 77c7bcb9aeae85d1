"""evaluate@NAME: model, calibration and test part -> reports/candidates/NAME/ (metrics, scores, curves, overlays)."""

from pipeline import evaluation, params, store, threshold
from pipeline.files import whole_folder
from pipeline.samples import part
from pipeline.stages import CANDIDATES, DATASET, MODELS, SPLIT, run


def main(name: str) -> None:
    given = params.read()
    samples = given.modality.samples(part(DATASET, SPLIT, "test"))
    detector = store.load(MODELS / name).detector
    calibration = threshold.read(MODELS / f"{name}.calibration.json")
    with whole_folder(CANDIDATES / name) as out:
        metrics = evaluation.evaluate(detector, calibration, samples, given.modality, out)
    print(", ".join(f"{key} {value:.3f}" for key, value in metrics.items() if isinstance(value, float)))


if __name__ == "__main__":
    run(main)
