"""What a `make serve` that was killed, or a machine that was off, left on Prefect's server.

A run whose process is gone would hold its deployment's slot for ever, and so keep every later run from starting;
runs that were missed would all start at once.
"""

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Crashed
from prefect.types import DateTime
from prefect.types._datetime import now

AT_WORK = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED)
PAGE = 200  # runs that the server gives at once


def clear(client: SyncPrefectClient, deployment: UUID) -> list[str]:
    """End the runs of a deployment that nobody works on any more, and leave of those that were missed the newest.

    Nothing else may serve the deployment. What was done, in sentences."""
    said = []
    for run in _runs(client, deployment, *AT_WORK):
        client.set_flow_run_state(run.id, Crashed(message="make serve, which ran it, was ended by force"), force=True)
        said.append(f"{run.name} was ended by force")
    due: DateTime = now("UTC")
    missed = [run for run in _runs(client, deployment, StateType.SCHEDULED) if run.auto_scheduled and _when(run) < due]
    for run in missed[:-1]:
        client.delete_flow_run(run.id)
    if len(missed) > 1:
        said.append(f"{len(missed)} runs were missed since {_when(missed[0]):%Y-%m-%d %H:%M} UTC; one stands for all")
    return said


def _when(run: FlowRun) -> DateTime:
    assert run.expected_start_time is not None
    return run.expected_start_time


def _runs(client: SyncPrefectClient, deployment: UUID, *states: StateType) -> list[FlowRun]:
    """The runs of a deployment in one of `states`, the one due first at the head."""
    found: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < PAGE:
            return found
