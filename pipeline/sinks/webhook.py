"""Alarms to whoever listens at the address in ASSAY_WEBHOOK_URL: a chat, an incident desk, a machine's control."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, quote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from annotated_types import Ge, Le, MinLen

from pipeline.errors import DeliveryError

URL = "ASSAY_WEBHOOK_URL"
TOLD = ("id", "score", "p_value", "decision", "because")
FACTS = ("name", "version", "batch", "samples", "decisions", "quarantined", "alarm_rate", "promised_rate", "promise")
PATIENCE = (5.0, 30.0)  # seconds to be let in, and to be answered
BACKOFF = 0.5  # seconds; twice that before the second retry, doubled before each further one
TALKATIVE = ("urllib3.connectionpool", "urllib3.util.retry")
LONGEST = 60  # seconds that a server may ask to be left alone before the next try


@dataclass(frozen=True)
class Webhook:
    """POSTs JSON when a batch holds one of `decisions`: its counts and rates, and the samples with the highest scores.
    The header Idempotency-Key lets the receiver know a batch that it has; a batch without failed shards has another one
    than it had with them."""

    decisions: Annotated[list[Literal["accept", "review", "reject"]], MinLen(1)] = field(
        default_factory=lambda: ["reject"]
    )
    """What a batch must hold to be told."""
    most: Annotated[int, Ge(0), Le(10_000)] = 100
    """Samples that are told, those with the highest scores."""
    retries: Annotated[int, Ge(0), Le(10)] = 4
    """Times that lost connections and the answers 429 and 5xx are tried again, with growing pauses."""

    def deliver(self, scores: Path, report: dict[str, Any]) -> str:
        url = _address()
        place = f"{url.scheme}://{url.hostname}" + (f":{url.port}" if url.port else "")
        count = sum(report["decisions"].get(name, 0) for name in self.decisions)
        what = " or ".join(self.decisions)
        if not count:
            return f"no sample to {what}, nothing sent to {place}"
        rows = self._worst(scores)
        body = {key: report.get(key) for key in FACTS} | {
            "text": f"{report['name']}, version {report['version']}: {count:,} of {report['samples']:,} samples to"
            f" {what} in batch {report['batch']}",
            "failed_shards": len(report.get("failed") or ()),
            "rows": rows,
            "rows_left_out": count - len(rows),
        }
        self._post(url, place, json.dumps(body, sort_keys=True, allow_nan=False).encode(), _key(report))
        return f"sent {len(rows):,} of {count:,} samples to {what} to {place}"

    def _worst(self, scores: Path) -> list[dict[str, Any]]:
        kept = None
        with pq.ParquetFile(scores) as file:
            columns = [name for name in TOLD if name in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns)
                wanted = pa.array(self.decisions, table["decision"].type)
                table = table.filter(pc.is_in(table["decision"], value_set=wanted))
                table = table if kept is None else pa.concat_tables([kept, table])
                kept = table.take(pc.sort_indices(table, [("score", "descending")])[: self.most])
        return [] if kept is None else kept.to_pylist()

    def _post(self, url: SplitResult, place: str, body: bytes, key: str) -> None:
        """Raises DeliveryError without the path, the query and the password of the URL: any of them may be a secret."""
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util.retry import Retry

        retry = Retry(
            self.retries,
            allowed_methods={"POST"},
            status_forcelist={HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600)},
            raise_on_status=False,
            backoff_factor=BACKOFF,
            retry_after_max=LONGEST,
        )
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "User-Agent": "assay"}
        try:
            with requests.Session() as session, _unlogged(url):
                session.mount(f"{url.scheme}://", HTTPAdapter(max_retries=retry))
                options: dict[str, Any] = {"headers": headers, "timeout": PATIENCE, "stream": True}
                # redirected, a POST would become a GET that tells nothing
                with session.post(url.geturl(), body, allow_redirects=False, **options) as answer:
                    status = answer.status_code
        except (requests.RequestException, ValueError) as error:
            raise DeliveryError(
                f"the webhook at {place} cannot be reached, tried {self.retries + 1} times: {_why(error)}"
            ) from None
        if not 200 <= status < 300:
            known = {known.value: f" ({known.phrase})" for known in HTTPStatus}.get(status, "")
            raise DeliveryError(f"the webhook at {place} must answer 2xx, it answers {status}{known}")


def _address() -> SplitResult:
    given = os.environ.get(URL, "")
    try:
        url = urlsplit(given)
        good = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        good = False
    if not good:
        came = "something else" if given else "nothing"
        raise DeliveryError(f"the sink webhook needs an address http://... or https://... in {URL}, got {came}")
    return url


def _key(report: dict[str, Any]) -> str:
    failed = "-".join(str(shard["shard"]) for shard in report.get("failed") or ())
    return quote(f"{report['name']}/{report['batch']}" + (f"/without-{failed}" if failed else ""))


def _why(error: BaseException) -> str:
    """The innermost reason, which knows no URL."""
    while True:
        inner = (getattr(error, "reason", None), error.__cause__, *error.args)
        found = next((one for one in inner if isinstance(one, BaseException)), None)
        if found is None:
            return str(getattr(error, "strerror", None) or type(error).__name__)
        error = found


@contextmanager
def _unlogged(url: SplitResult) -> Iterator[None]:
    """urllib3 logs path and query of what it tries again; this address is not for logs."""
    secret = url.path.strip("/") or url.query

    def keep(record: logging.LogRecord) -> bool:
        return not secret or secret not in record.getMessage()

    loggers = [logging.getLogger(name) for name in TALKATIVE]
    for logger in loggers:
        logger.addFilter(keep)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(keep)
