"""augment: the training part -> data/augmented/ (SMOTE rows, synthetic anomalies and their masks)."""

from pipeline import params
from pipeline.files import whole_folder
from pipeline.samples import part
from pipeline.stages import AUGMENTED, DATASET, SPLIT, run


def main() -> None:
    given = params.read()
    train = given.modality.samples(part(DATASET, SPLIT, "train"))
    with whole_folder(AUGMENTED) as out:
        added = given.modality.save(given.augmenter.augment(train), out)
    print(f"{len(added)} samples added to {len(train)}")


if __name__ == "__main__":
    run(main)
