"""split: the manifest -> data/split.parquet with the columns id and part (train, calibrate or test)."""

from pipeline import params, split
from pipeline.files import whole_file
from pipeline.samples import read_manifest
from pipeline.stages import DATASET, SPLIT, run


def main() -> None:
    parts = split.assign(read_manifest(DATASET), params.read().split)
    with whole_file(SPLIT) as partial:
        parts.to_parquet(partial, index=False)
    print(", ".join(f"{count} to {name}" for name, count in parts["part"].value_counts(sort=False).items()))


if __name__ == "__main__":
    run(main)
