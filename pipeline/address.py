"""Where MLflow's store is, whether it answers, and one lock for it: all that needs no MLflow."""

import os
import re
import socket
import tempfile
import urllib.error
import urllib.request
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock
from sqlalchemy.engine import make_url

from pipeline.errors import RegistryError

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 5.0  # seconds that a server has to answer the first question
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the checkout's own store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(ROOT / 'mlflow.db').as_posix()}"


def shown(uri: str) -> str:
    """An address without its password."""
    return re.sub(r"(//[^:/@\s]*):.*@", r"\1:***@", uri)


def artifact_root(uri: str) -> str | None:
    """Where artifacts of the store `uri` go; None where its server decides."""
    if uri.startswith("http"):
        return None
    given = os.environ.get("MLFLOW_ARTIFACT_ROOT")
    if given:
        return given
    beside = Path(make_url(uri).database or ".").resolve().parent if uri.startswith("sqlite") else ROOT
    return (beside / "mlartifacts").as_uri()


def must_answer(uri: str) -> None:
    """Ask the server behind `uri` for a sign of life, so that one that is down costs seconds and not minutes."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    try:
        if scheme in {"http", "https"}:
            bare = re.sub(r"//[^/]*@", "//", uri)
            urllib.request.urlopen(f"{bare.rstrip('/')}/health", timeout=PATIENCE).close()
        elif scheme in PORTS:
            url = make_url(uri)
            socket.create_connection((url.host or "localhost", url.port or PORTS[scheme]), timeout=PATIENCE).close()
    except urllib.error.HTTPError as error:  # it answers; whether it lets us in is for MLflow to say
        error.close()
    except (OSError, ValueError) as error:
        said = getattr(error, "reason", None) or error
        raise RegistryError(
            f"the MLflow server at {shown(uri)} does not answer ({said}); start it (make ui starts one), "
            "or set MLFLOW_TRACKING_URI to one that runs"
        ) from error


def lock(uri: str) -> FileLock:
    """One lock per store on this machine: simultaneous first starts would race on the schema."""
    if uri.startswith("sqlite"):
        path = Path(make_url(uri).database or "mlflow.db").resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path.with_name(path.name + ".lock"))
    return FileLock(Path(tempfile.gettempdir()) / f"assay-mlflow-{sha256(uri.encode()).hexdigest()[:16]}.lock")
