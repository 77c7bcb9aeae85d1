"""validate: the dataset -> reports/validation/ (Great Expectations result and Data Docs); a critical failure stops."""

from pipeline import checks, params
from pipeline.errors import DataError
from pipeline.stages import DATASET, VALIDATION, run


def main() -> None:
    given = params.read()
    frame, suite = given.modality.checks(DATASET)
    verdict = checks.validate(frame, suite, name=given.dataset.kind, out=VALIDATION)
    for sentence in verdict.warnings:
        print(f"warning: {sentence}")
    if verdict.failures:
        raise DataError("the dataset fails validation: " + "; ".join(verdict.failures))
    print(
        f"{len(suite)} checks passed"
        if not verdict.warnings
        else f"{len(verdict.warnings)} of {len(suite)} checks warn"
    )


if __name__ == "__main__":
    run(main)
