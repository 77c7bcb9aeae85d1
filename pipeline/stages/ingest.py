"""ingest: the source named in params -> data/dataset/, with bad samples in data/quarantine/."""

from pipeline import params, sources
from pipeline.files import scratch_folder, whole_folder
from pipeline.stages import DATASET, FETCHED, QUARANTINE, run


def main() -> None:
    given = params.read()
    with (
        scratch_folder(FETCHED) as work,
        whole_folder(QUARANTINE) as quarantine,
        whole_folder(DATASET) as dataset,
    ):
        source = sources.fetch(given.dataset.source, work)
        found = given.modality.ingest(source, dataset, quarantine)
    print(f"{len(found.manifest)} samples ingested, {len(found.rejected)} quarantined")


if __name__ == "__main__":
    run(main)
