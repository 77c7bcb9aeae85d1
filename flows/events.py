"""What a line tells Prefect of its batches: events that automations react to, see flows/automations.py."""

import sys
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL
from slugify import slugify

DRIFT, BROKEN, ALARMS, SHARDS = "assay.drift", "assay.promise-broken", "assay.alarms", "assay.shards-failed"
LINE = "assay.line"  # the label of an event's resource that names the line, as `flows.settings.shown` does


def emit(event: str, line: str, payload: dict[str, Any]) -> None:
    """Tell Prefect's server that `event` happened to `line`; `payload` is JSON that says more.

    It has arrived when this returns. A server that is gone is told on stderr and fails nothing."""
    run = runtime.flow_run.id
    resource_id = f"{LINE}.{slugify(line) or 'top'}"
    told = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": event,
        "resource": {"prefect.resource.id": resource_id, "prefect.resource.name": line, LINE: line},
        "related": [{"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.role": "flow-run"}]
        if run
        else [],
        "payload": payload,
    }
    try:
        if not PREFECT_API_URL.value():
            raise ConnectionError("no server is named or running")
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[told])
    except (httpx.HTTPError, PrefectException, OSError, RuntimeError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        print(
            f"Prefect was not told of {event} of {line}, so nothing reacts to it: {said}", file=sys.stderr, flush=True
        )
