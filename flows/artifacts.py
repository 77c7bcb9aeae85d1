"""What a run shows on its Prefect page: tables, texts, pictures, links, progress.

Showing never fails a run: what cannot be shown is a warning on stderr and in the run's log.
"""

import base64
import io
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import MissingContextError
from slugify import slugify

from pipeline import address

LARGE = 2**20  # bytes of a picture; Prefect keeps it in its database
WIDEST = 1400  # pixels of one that was larger
ROWS = 500  # of a table
EVERY = 2.0  # seconds between two reports of progress
LOCAL = "http://127.0.0.1:5000"  # where `make ui` shows MLflow


def table(rows: list[dict[str, Any]], kind: str, name: str, says: str | None = None) -> None:
    """Rows with the same keys; the first ones of very many. The artifact's key is made of `kind` and `name`."""
    more = f" (the first {ROWS:,} of {len(rows):,} rows)" if len(rows) > ROWS else ""
    _show(lambda: create_table_artifact(rows[:ROWS], key=key(kind, name), description=(says or "") + more or None))


def text(markdown: str, kind: str, name: str, says: str | None = None) -> None:
    """A text in Markdown."""
    _show(lambda: create_markdown_artifact(markdown, key=key(kind, name), description=says))


def picture(image: Path | Callable[[], bytes], kind: str, name: str, says: str | None = None) -> None:
    """A PNG, in a file or drawn by `image`, made smaller where it is large."""

    def make() -> None:
        data = image.read_bytes() if isinstance(image, Path) else image()
        create_image_artifact(inline(data), key=key(kind, name), description=says)

    _show(make)


def inline(data: bytes) -> str:
    """A PNG as a data: address of at most `LARGE` bytes. Raises OSError when it is none."""
    if len(data) <= LARGE:
        return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        small = opened.convert("RGB")
    side = WIDEST
    while True:
        small.thumbnail((side, side))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=85)
        if out.tell() <= LARGE:
            return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
        side //= 2


def version(registered: str, number: int | None) -> None:
    """A link to a version of a registered model on MLflow's page; nothing where there is no version."""
    if number is not None:
        url = f"{mlflow_page()}/#/models/{quote(registered, safe='')}/versions/{number}"
        says = f"{registered} version {number} in MLflow" + (" (make ui)" if url.startswith(LOCAL) else "")
        _show(lambda: create_link_artifact(url, says, key=key("model", registered), description=says))


def mlflow_page() -> str:
    """The address of MLflow's page, without any password: the server's own, or where `make ui` shows a local store."""
    uri = urlsplit(address.tracking_uri())
    if uri.scheme not in ("http", "https"):
        return LOCAL
    place = f"{uri.hostname}:{uri.port}" if uri.port else uri.hostname
    return f"{uri.scheme}://{place}{uri.path.rstrip('/')}"


def key(kind: str, name: str) -> str:
    """What Prefect takes as a key: small letters, digits and dashes."""
    return f"{kind}-{slugify(name, max_length=200) or 'line'}"


class Progress:
    """How many of `total` are done, in percent, on the run's page; a single one has no progress."""

    def __init__(self, total: int, units: str, kind: str, name: str) -> None:
        self.total, self.units = total, units
        self._id: UUID | None = None
        self._told, self._done = time.monotonic(), 0
        if total > 1:
            self._id = _show(lambda: create_progress_artifact(0.0, key=key(kind, name), description=self._says()))

    def at(self, done: int) -> None:
        """Tell that `done` are done, unless that was told a moment ago; the last one always is."""
        if self._id is None or done == self._done or (done < self.total and time.monotonic() - self._told < EVERY):
            return
        self._told, self._done = time.monotonic(), done
        share = 100.0 * done / self.total
        _show(lambda: update_progress_artifact(self._id, share, description=self._says()))

    def _says(self) -> str:
        return f"{self._done:,} of {self.total:,} {self.units}"


def _show(make: Callable[[], Any]) -> Any:
    """What `make` gives; None where that fails, which is told."""
    try:
        return make()
    except Exception as error:  # whatever it is, the work itself stands
        said = f"nothing is shown of this on Prefect's page: {' '.join(str(error).split()) or type(error).__name__}"
        print(f"warning: {said}", file=sys.stderr, flush=True)
        with suppress(MissingContextError):
            get_run_logger().warning(said)
        return None
