"""What Prefect's server does by itself when a line says something: start a training, call a person's webhook.

`make serve` sets this up under names that begin with "assay: ", each once: what is as it should be is left alone (and
with it its cool-down), what is not is made so. A person may switch an automation off on Prefect's page, it stays off.
"""

import glob
import os
from contextlib import suppress
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import UUID

from prefect.automations import AutomationCore, EventTrigger
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import CallWebhook, RunDeployment
from prefect.events.schemas.automations import Automation
from prefect.exceptions import ObjectNotFound
from slugify import slugify

from flows import events
from flows.settings import ROOT
from pipeline.errors import ParamsError

URL = "ASSAY_WEBHOOK_URL"
BLOCK = "assay-webhook"
OURS = "assay: "
RETRAIN = f"{OURS}retrain "  # the line's name follows
ENDED, TOLD = f"{OURS}tell of runs that did not end well", f"{OURS}tell of alarms and drift"
COOL_DOWN = timedelta(hours=6)  # between two trainings of a line that batches start
PAGE = 200  # automations that the server gives at once
# Jinja templates of what the webhook gets; "text" is what Slack, Mattermost, Teams and their like show.
ABOUT_RUN = """{%- set state = event.payload["validated_state"] -%}
{"text": {{ ("assay: run " ~ event.resource["prefect.resource.name"] ~ " " ~ state["name"]|lower ~ ": "
~ (state["message"] or ""))|tojson }}, "event": {{ event.event|tojson }},
"run": {{ event.resource["prefect.resource.id"]|tojson }}, "state": {{ state|tojson }}}"""
ABOUT_LINE = """{"text": {{ (event.event|replace(".", ": ", 1) ~ " in " ~ event.resource["assay.line"] ~ ": "
~ (event.payload["says"] or event.payload|tojson))|tojson }}, "event": {{ event.event|tojson }},
"line": {{ event.resource["assay.line"]|tojson }}, "payload": {{ event.payload|tojson }}}"""


def set_up(client: SyncPrefectClient, trainings: dict[str, UUID | None], webhook: str | None) -> list[str]:
    """Let drift and broken promises of each line in `trainings` start its deployment (None: start nothing), and let
    the address `webhook` be told of runs that failed, of alarms and of drift; without one nobody is told.

    What was done beyond what stood already, in sentences. Raises ParamsError for an address that is none."""
    wanted = [_retrain(line, deployment) for line, deployment in trainings.items() if deployment is not None]
    if webhook:
        block = _block(webhook)
        wanted += [_ended(block), _told(block)]
    found = [automation for automation in _all(client) if automation.name.startswith(OURS)]
    said = [change for one in wanted if (change := _make(client, one, [a for a in found if a.name == one.name]))]
    for other in found:
        if other.name not in {one.name for one in wanted}:
            said.append(_remove(client, other, trainings))
    if not webhook:
        _forget(client)
    return said


def address() -> str | None:
    """The address to call, from the environment; it may hold a secret. Raises ParamsError for one that is none."""
    given = os.environ.get(URL, "").strip()
    if given and (urlsplit(given).scheme not in ("http", "https") or not urlsplit(given).netloc):
        raise ParamsError(f"{URL} must be an address that begins with https:// or http://; another kind was given")
    return given or None


def _retrain(line: str, deployment: UUID) -> AutomationCore:
    """A training when a batch says drift or a broken promise, once in COOL_DOWN however many batches say so."""
    return AutomationCore(
        name=RETRAIN + line,
        description="A batch drifted or broke its promise: train.",
        trigger=EventTrigger(
            expect={events.DRIFT, events.BROKEN},
            match={events.LINE: glob.escape(line)},
            threshold=1,
            within=COOL_DOWN,  # it fires at the first event, and again not before this has passed
        ),
        actions=[RunDeployment(deployment_id=deployment)],
    )


def _ended(block: UUID) -> AutomationCore:
    return AutomationCore(
        name=ENDED,
        description="A run of a deployment failed, crashed, or was cancelled: call the webhook.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut", "Cancelled")},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=[
                {"prefect.resource.role": "deployment"},
                {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.assay"},
            ],
        ),
        actions=[CallWebhook(block_document_id=block, payload=ABOUT_RUN)],
    )


def _told(block: UUID) -> AutomationCore:
    return AutomationCore(
        name=TOLD,
        description="A batch has alarms, drift, a broken promise or lost shards: call the webhook.",
        trigger=EventTrigger(
            expect={events.ALARMS, events.DRIFT, events.BROKEN, events.SHARDS},
            match={"prefect.resource.id": f"{events.LINE}.*"},
        ),
        actions=[CallWebhook(block_document_id=block, payload=ABOUT_LINE)],
    )


def _make(client: SyncPrefectClient, wanted: AutomationCore, found: list[Automation]) -> str | None:
    """Let there be exactly one automation of that name, and let it be `wanted`; what was done, None for nothing."""
    for spare in found[1:]:
        client.delete_automation(spare.id)
    if not found:
        client.create_automation(wanted)
        return f'"{wanted.name}" is set up'
    if _says(found[0]) == _says(wanted):
        return None
    whole = wanted.model_dump(exclude={"owner_resource"})  # the client leaves out what nobody has set
    whole["enabled"] = found[0].enabled
    client.update_automation(found[0].id, AutomationCore.model_validate(whole))
    return f'"{wanted.name}" is set up anew'


def _says(automation: AutomationCore) -> dict[str, object]:
    """What an automation does, as plain values that can be compared."""
    return automation.model_dump(include={"description", "trigger", "actions"})


def _remove(client: SyncPrefectClient, other: Automation, trainings: dict[str, UUID | None]) -> str:
    """Remove an automation that nobody wants any more; that of a line which is served elsewhere, or not now, stays."""
    line = other.name.removeprefix(RETRAIN)
    if other.name.startswith(RETRAIN) and line not in trainings and (ROOT / line / "params.yaml").exists():
        return f'"{other.name}" stays, though {line} is not served here'
    client.delete_automation(other.id)
    return f'"{other.name}" is removed'


def _block(url: str) -> UUID:
    block = Webhook(url=url, headers={"Content-Type": "application/json"})
    return block.save(BLOCK, overwrite=True)


def _forget(client: SyncPrefectClient) -> None:
    with suppress(ObjectNotFound):  # there was none
        client.delete_block_document(client.read_block_document_by_name(BLOCK, slugify(Webhook.__name__)).id)


def _all(client: SyncPrefectClient) -> list[Automation]:
    found: list[Automation] = []
    while True:
        page = client.read_automations(limit=PAGE, offset=len(found))
        found += page
        if len(page) < PAGE:
            return found
