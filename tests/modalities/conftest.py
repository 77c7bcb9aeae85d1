"""A raw folder to fill, and ingest of it into a dataset beside it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.modalities.image import Image
from pipeline.protocols import Ingested

Ingest = Callable[..., Ingested]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


@pytest.fixture
def ingest(tmp_path: Path) -> Ingest:
    def run(source: Path, **options: object) -> Ingested:
        out, quarantine = tmp_path / "dataset", tmp_path / "quarantine"
        out.mkdir()
        quarantine.mkdir()
        return Image(**options).ingest(source, out, quarantine)

    return run
