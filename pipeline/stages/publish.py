"""publish: every candidate -> one MLflow run and one registered version each; reports/published.json is the receipt."""

from pathlib import Path

from pipeline import params, publication
from pipeline.files import write_json
from pipeline.stages import RECEIPT, run


def main() -> None:
    receipt, status = publication.publish(params.read(), Path.cwd())
    write_json(RECEIPT, receipt)
    for candidate, entry in receipt["candidates"].items():
        print(f"{candidate}: {receipt['name']} version {entry['version']} ({status[candidate]})")


if __name__ == "__main__":
    run(main)
