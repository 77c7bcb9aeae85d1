"""Everything local and closed, unless the environment says otherwise; set before Prefect loads (flows/__init__.py).

PREFECT_API_URL (a server of your own), PREFECT_API_DATABASE_CONNECTION_URL (PostgreSQL) and MLFLOW_TRACKING_URI
are honoured when they are set.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

DEFAULTS = {
    "PREFECT_HOME": str(ROOT / ".prefect"),  # `make ui` and every run share one database
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the Prefect page has the whole log, the console short lines
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # who holds a slot is kept in Prefect's home; by default it is lost with a server that ends, and with it the slot
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

# What a server that lives for one run has no use for. It keeps what records task runs, events and logs.
TEMPORARY_SERVER = {
    f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false"
    for service in ("SCHEDULER", "LATE_RUNS", "FOREMAN", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS", "TRIGGERS")
}


def apply() -> None:
    """Set what the environment leaves open."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def stage_environment() -> dict[str, str]:
    """The environment of a stage: this interpreter's `python` and `dvc` come first, this checkout's code is found."""
    before = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(ROOT)}
    paths = {name: os.pathsep.join(filter(None, [first, os.environ.get(name)])) for name, first in before.items()}
    return {**os.environ, **paths, "PYTHONUNBUFFERED": "1"}


def shown(path: Path) -> str:
    """A path as a person in the checkout's top folder would type it."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
