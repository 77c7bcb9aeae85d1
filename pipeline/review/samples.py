"""The samples of a batch that were kept beside its scores: their manifest rows, found without reading all of them."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from threading import Lock
from typing import Any

import pandas as pd

from pipeline.errors import DataError
from pipeline.review.queue import Queue
from pipeline.samples import read_manifest

HELD = 16  # manifests in memory


class Kept:
    """The kept samples of a batch; `none` says why there are none at all, "" otherwise."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._folder = queue.folder / "samples"
        self._lock = Lock()
        self._manifest = lru_cache(HELD)(self._read)
        failed = {entry["shard"] for entry in queue.report.get("failed", ())}
        self._shards = [n for n in range(queue.report.get("shards", 1)) if n not in failed]  # of each row group
        self.none = ""
        if not self._folder.is_dir():
            self.none = "samples of this batch were not kept (score.keep: none), only their scores are"
        elif next(self._folder.glob("*/manifest.parquet"), None) is None:
            self.none = "the samples of this batch are gone, only their scores are left"

    def rows(self, positions: list[int]) -> pd.DataFrame:
        """Manifest rows of the samples at these positions, in order. Raises DataError for one that was not kept."""
        if self.none:
            raise DataError(self.none)
        with self._lock:
            found = [self._row(position) for position in positions]
        return pd.concat(found, ignore_index=True)

    def _row(self, position: int) -> pd.DataFrame:
        id, group = self._queue.ids[position], int(self._queue.shard[position])
        likely = f"{self._shards[group]:05d}" if group < len(self._shards) else ""
        for shard in chain([likely], self._others(likely)):
            manifest, places = self._manifest(shard)
            if id in places:
                return manifest.iloc[[places[id]]]
        raise DataError("this sample is not among those that were kept")

    def _others(self, likely: str) -> Iterator[str]:
        """The folders of all other shards, listed when they are asked for."""
        if self._folder.is_dir():
            yield from sorted(path.name for path in self._folder.iterdir() if path.name != likely)

    def _read(self, shard: str) -> tuple[Any, dict[str, int]]:
        try:
            manifest = read_manifest(self._folder / shard)
        except DataError:
            return None, {}
        return manifest, {id: place for place, id in enumerate(manifest["id"])}
