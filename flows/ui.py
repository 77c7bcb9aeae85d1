"""The pages of MLflow and Prefect on this machine's loopback interface, until Ctrl-C. `make ui`"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from flows import server
from flows.settings import ROOT
from pipeline import address, tracking
from pipeline.ending import LOG, one_sentence
from pipeline.errors import LineError

MLFLOW_PORT = 5000


@contextmanager
def mlflow_page(port: int) -> Iterator[subprocess.Popen[bytes] | None]:
    """MLflow's server over the store that the line publishes to, just started: `_answered` waits for it.

    Raises LineError when its port is in use."""
    uri = address.tracking_uri()
    if server.in_use(port):
        raise LineError(f"port {port} of {server.HOST} is in use; stop what uses it, or choose another: --mlflow-port")
    tracking.initialise()
    words = ["server", "--host", server.HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", uri]
    root = address.artifact_root(uri)
    words += ["--default-artifact-root", root, "--no-serve-artifacts"] if root else []
    # without its job runners, seven processes that serve other things than this page
    process = server.start("mlflow", *words, log=_log(port), MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    try:
        yield process
    finally:
        server.stop(process)


def _log(port: int) -> Path:
    return server.home() / f"mlflow-{port}.log"


def _answered(process: subprocess.Popen[bytes], port: int) -> None:
    server.wait(process, f"http://{server.HOST}:{port}/health", "MLflow's server", _log(port), says=b"OK")


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="make ui", description=__doc__)
    parser.add_argument("--mlflow-port", type=int, default=MLFLOW_PORT)
    parser.add_argument("--prefect-port", type=int, default=server.PORT)
    chosen = parser.parse_args(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    uri, api = address.tracking_uri(), server.reachable()
    elsewhere = uri.startswith("http")  # their servers run already
    mlflow: Any = nullcontext() if elsewhere else mlflow_page(chosen.mlflow_port)
    prefect: Any = nullcontext() if api else server.dedicated(chosen.prefect_port)
    try:
        with mlflow as first, prefect as second:
            if first:
                _answered(first, chosen.mlflow_port)
            print(f"MLflow   {address.shown(uri) if elsewhere else f'http://{server.HOST}:{chosen.mlflow_port}'}")
            print(f"Prefect  {(api or server.api_url(chosen.prefect_port)).removesuffix('/api')}")
            print("Ctrl-C ends both", flush=True)
            _watch({"MLflow's server": first, "Prefect's server": second})
    except KeyboardInterrupt:
        print("both ended", flush=True)


def _watch(processes: dict[str, subprocess.Popen[bytes] | None]) -> None:
    """Wait for Ctrl-C. Raises LineError when one of the servers ends by itself."""
    while True:
        for what, process in processes.items():
            if process is not None and process.poll() is not None:
                raise LineError(f"{what} has ended with status {process.returncode} (its logs: {server.home()})")
        time.sleep(0.5)


if __name__ == "__main__":
    with one_sentence(ROOT / LOG):
        main(*sys.argv[1:])
