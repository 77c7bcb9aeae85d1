"""ingest: the source named in params, and the labels given back -> data/dataset/, bad samples in data/quarantine/."""

from pipeline import labelled, params, sources
from pipeline.files import scratch_folder, whole_folder
from pipeline.stages import DATASET, FETCHED, QUARANTINE, run


def main() -> None:
    given = params.read()
    with (
        scratch_folder(FETCHED) as work,
        whole_folder(QUARANTINE) as quarantine,
        whole_folder(DATASET) as dataset,
    ):
        source = sources.fetch(given.dataset.source, work / "source")
        found = given.modality.ingest(source, dataset, quarantine)
        back = labelled.join(given.modality, found.manifest, labelled.SAMPLES, dataset, work)
    for sentence in back.unfit:
        print(f"warning: labelled samples are left out, {sentence}")
    if back.contradicted:
        print(f"warning: {back.contradicted} given labels contradict those of the source, which count")
    print(f"{len(found.manifest)} samples ingested, {len(found.rejected)} quarantined{_said(back)}")


def _said(back: labelled.Joined) -> str:
    if not back.added and not back.known:
        return ""
    return f", {back.added} labelled ones added" + (f" ({back.known} more are in the source)" if back.known else "")


if __name__ == "__main__":
    run(main)
