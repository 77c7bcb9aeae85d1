"""Where the scores of a batch go besides the line's folder: the key is the file's name, the value its class."""

from pathlib import Path
from typing import Any, Protocol

TABLE = {
    "parquet": "Parquet",
    "sql": "Sql",
    "webhook": "Webhook",
}


class Sink(Protocol):
    """A dataclass whose fields are its options in `score.sinks`."""

    def deliver(self, scores: Path, report: dict[str, Any]) -> str:
        """Take the rows of the Parquet file `scores` of one batch; what was done, in a sentence. Doing it once more
        changes nothing. Raises DeliveryError when they cannot be delivered."""
