"""ingest: the source named in params -> data/dataset/, with bad samples in data/quarantine/."""

from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import params, sources
from pipeline.files import whole_folder
from pipeline.stages import DATASET, QUARANTINE, run


def main() -> None:
    given = params.read()
    with (
        TemporaryDirectory(dir=".", prefix=".ingest-") as work,
        whole_folder(QUARANTINE) as quarantine,
        whole_folder(DATASET) as dataset,
    ):
        source = sources.fetch(given.dataset.source, Path(work))
        found = given.modality.ingest(source, dataset, quarantine)
    print(f"{len(found.manifest)} samples ingested, {len(found.rejected)} quarantined")


if __name__ == "__main__":
    run(main)
