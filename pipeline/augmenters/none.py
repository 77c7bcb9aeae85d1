"""No augmentation: the line trains on what came."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.protocols import Batch, Samples


@dataclass
class Nothing:
    """Adds no sample."""

    def augment(self, train: Samples) -> Iterator[Batch]:
        return iter(())
