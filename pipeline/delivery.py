"""Bring the scores of a batch to its sinks, each once: a receipt in the batch's folder says that it was done."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.files import write_json
from pipeline.params import Params

RECEIPTS = Path("delivered")


def deliver(params: Params, report: dict[str, Any]) -> list[str]:
    """What each sink of `params` did with the batch of `report` now, in a sentence; those with a receipt do nothing.

    A run that ended between a delivery and its receipt delivers again, which changes nothing.
    Raises DeliveryError, or RegistryError for our own database, when one cannot; those before it stay delivered."""
    folder, said = Path(report["folder"]), []
    for section, sink in zip(params.score.sinks, params.sinks, strict=True):
        asked = json.dumps(section, sort_keys=True)
        receipt = folder / RECEIPTS / f"{sha256(asked.encode()).hexdigest()[:12]}.json"
        if not receipt.exists():
            said.append(sink.deliver(folder / "scores.parquet", report))
            write_json(receipt, {"sink": section, "says": said[-1]})
    return said
