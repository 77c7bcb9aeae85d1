"""What a registered version came to on a line's present test part: from its run, or measured now."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from pipeline import evaluation, recalibration
from pipeline.candidate import flat
from pipeline.errors import DataError, ModelError, RegistryError
from pipeline.gate import Measured
from pipeline.samples import part
from pipeline.stages import DATASET, SPLIT
from pipeline.tracking import Registry, Version

SCORES = "scores.parquet"


def measure(registry: Registry, version: Version, line: Path, test: str) -> Measured | str:
    """The metrics and the scores of `version` on the test part of the line, whose hash is `test`.

    They are those of its run; measured now when that was on other samples, when the version was given other thresholds
    since, or when its report is gone. A sentence when it cannot be measured there."""
    with TemporaryDirectory(prefix="assay-measured-") as work:
        if version.tags.get("test_hash") == test and recalibration.HASH not in version.tags:
            with suppress(RegistryError):
                table = pd.read_parquet(registry.artifact(version, f"report/{SCORES}", Path(work)))
                return Measured(registry.metrics(version), table)
        return _measured(registry, version, line, Path(work))


def _measured(registry: Registry, version: Version, line: Path, work: Path) -> Measured | str:
    try:
        model = recalibration.load(registry, version, work)
        modality = model.stored.modality
        samples = modality.samples(part(line / DATASET, line / SPLIT, "test"))
        out = work / "measured"
        out.mkdir()
        metrics = flat(evaluation.evaluate(model.stored.detector, model.calibration, samples, modality, out))
    except (DataError, ModelError) as error:
        return str(error)
    known = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
    return Measured(known, pd.read_parquet(out / SCORES))
