"""Where MLflow's store is, whether it answers, and one lock for it: all that needs no MLflow."""

import os
import re
import socket
import sqlite3
import tempfile
import urllib.error
import urllib.request
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from pipeline.errors import RegistryError

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 5.0  # seconds that a server has to answer the first question
LOGIN = re.compile(r"postgresql\+psycopg2?://")  # addresses that are asked to let us in
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the checkout's own store."""
    return with_driver(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(ROOT / 'mlflow.db').as_posix()}")


def with_driver(uri: str) -> str:
    """An address of PostgreSQL that names no driver, with the one that assay installs; any other as it is."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", uri)


def shown(uri: str) -> str:
    """An address without its password."""
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", re.sub(r"(//[^:/@\s]*):.*@", r"\1:***@", uri))


def artifact_root(uri: str) -> str | None:
    """Where artifacts of the store `uri` go; None where its server decides."""
    if uri.startswith("http"):
        return None
    given = os.environ.get("MLFLOW_ARTIFACT_ROOT")
    if given:
        return given
    beside = Path(make_url(uri).database or ".").resolve().parent if uri.startswith("sqlite") else ROOT
    return (beside / "mlartifacts").as_uri()


def must_answer(uri: str, what: str = "MLflow server", variable: str = "MLFLOW_TRACKING_URI") -> None:
    """Ask the server behind `uri` for a sign of life, so that one that is down costs seconds and not minutes.

    PostgreSQL must also let us in (psycopg): MLflow would try a wrong password for an hour. Raises RegistryError, which
    calls the server `what` and names the `variable` that may name another."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    try:
        if scheme in {"http", "https"}:
            bare = re.sub(r"//[^/]*@", "//", uri)
            urllib.request.urlopen(f"{bare.rstrip('/')}/health", timeout=PATIENCE).close()
        elif LOGIN.match(uri):
            create_engine(uri, poolclass=NullPool, connect_args=patience(uri)).connect().close()
        elif scheme in PORTS:
            url = make_url(uri)
            if url.host or "host" not in url.query:  # else it is a socket of this machine's file system
                socket.create_connection((url.host or "localhost", url.port or PORTS[scheme]), timeout=PATIENCE).close()
    except urllib.error.HTTPError as error:  # it answers; whether it lets us in is for MLflow to say
        error.close()
    except (OSError, ValueError, ImportError, SQLAlchemyError) as error:
        said = getattr(error, "reason", None) or getattr(error, "orig", None) or error
        start = "start it (make ui starts one)" if scheme.startswith("http") else "start it"
        raise RegistryError(
            f"the {what} at {shown(uri)} does not answer ({' '.join(str(said).split())}); "
            f"{start}, or set {variable} to one that runs"
        ) from error


def patience(uri: str) -> dict[str, int]:
    """What lets a driver of PostgreSQL give up a server that says nothing; nothing for others, which differ in it."""
    return {"connect_timeout": int(PATIENCE)} if LOGIN.match(uri) else {}


def write_ahead(uri: str) -> None:
    """Let readers and a writer of a SQLite store go on beside each other (WAL mode), now and in every later process.

    A store that another process holds just now, or one where that is not possible, works on as it is."""
    url = make_url(uri) if uri.startswith("sqlite") else None
    if url is None or not url.database or url.database == ":memory:" or not Path(url.database).is_file():
        return
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(url.database, timeout=PATIENCE)) as store:
        store.execute("PRAGMA journal_mode=WAL")


def lock(uri: str) -> FileLock:
    """One lock per store on this machine: simultaneous first starts would race on the schema."""
    if uri.startswith("sqlite"):
        path = Path(make_url(uri).database or "mlflow.db").resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path.with_name(path.name + ".lock"))
    return FileLock(Path(tempfile.gettempdir()) / f"assay-mlflow-{sha256(uri.encode()).hexdigest()[:16]}.lock")
