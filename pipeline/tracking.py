"""All that assay asks of MLflow: runs, registered versions, aliases, models. Nothing else imports mlflow.

The store is MLFLOW_TRACKING_URI, by default `mlflow.db` with `mlartifacts/` beside it in the checkout's top folder:
one store, shared by all lines.
"""

import math
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from pipeline import address
from pipeline.address import shown
from pipeline.errors import RegistryError
from pipeline.run_record import ABOUT, KIND, NOTE, Record, plain, sheet

for _name, _value in {  # a factory network is closed, and a server that is down is not worth minutes of waiting
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_name, _value)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow
    import mlflow.pyfunc
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException
    from requests import RequestException

# What MLflow accepts
KEY, PARAM, TAG = 250, 6000, 5000  # characters
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000


@dataclass(frozen=True)
class Version:
    """One registered version: its place, the run it came from, its tags."""

    name: str
    number: int
    run_id: str
    tags: dict[str, str]


@contextmanager
def _asking(uri: str, what: str = "") -> Iterator[None]:
    """Turn what MLflow, its database or the network says into one RegistryError; keep MLflow's own warnings in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (MlflowException, SQLAlchemyError, RequestException, FileNotFoundError) as error:
            said = " ".join(str(error).replace(uri, shown(uri)).split())[:400]
            raise RegistryError(f"MLflow at {shown(uri)} failed{what and f' to {what}'}: {said}") from error


def connect() -> "Registry":
    """The registry, its store created if it is new. Raises RegistryError when it cannot be reached within seconds."""
    uri = address.tracking_uri()
    address.must_answer(uri)
    with address.lock(uri), _asking(uri, "open its store"):
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        client = mlflow.MlflowClient(uri, uri)
        client.search_experiments(max_results=1)
        address.write_ahead(uri)
    return Registry(uri, client)


def current() -> "Registry | None":
    """The registry that MLflow is set to in this process, unless that is a SQLite store that does not exist.

    Nothing is made in it and no lock is taken: models ask for it while they are loaded."""
    uri = mlflow.get_registry_uri()
    path = make_url(uri).database if uri.startswith("sqlite") else None
    if path and not Path(path).is_file():
        return None
    address.must_answer(uri)
    return Registry(uri, mlflow.MlflowClient(uri, uri))


def initialise() -> None:
    """Create the store before work fans out."""
    connect()


@dataclass(frozen=True)
class Registry:
    """An MLflow store that answers. Every method raises RegistryError when MLflow cannot do what is asked."""

    uri: str
    client: Any

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes of this machine from publishing or promoting meanwhile."""
        with address.lock(self.uri):
            yield

    def find(self, name: str, content_hash: str) -> list[Version]:
        """The versions of `name` with this content, newest first."""
        with _asking(self.uri, f"search the versions of {name}"):
            found = self.client.search_model_versions(f"name = '{name}' and tags.content_hash = '{content_hash}'")
        return sorted((_version(v) for v in found), key=lambda v: -v.number)

    def newest(self, name: str) -> int:
        """The highest version number of `name`, 0 without any."""
        with _asking(self.uri, f"search the versions of {name}"):
            found = self.client.search_model_versions(
                f"name = '{name}'", max_results=1, order_by=["version_number DESC"]
            )
        return int(found[0].version) if found else 0

    def version(self, name: str, number: int) -> Version | None:
        """The version `number` of `name`, or None."""
        with _asking(self.uri, f"read {name} version {number}"):
            return _or_none(lambda: _version(self.client.get_model_version(name, str(number))))

    def of_run(self, run_id: str) -> Version | None:
        """The newest version that came from a run, or None."""
        with _asking(self.uri, f"search the versions of run {run_id}"):
            found = self.client.search_model_versions(f"run_id = '{run_id}'")
        return max((_version(v) for v in found), key=lambda v: v.number, default=None)

    def alias(self, name: str, alias: str) -> Version | None:
        """The version that carries `alias`, or None."""
        with _asking(self.uri, f"read the alias {alias} of {name}"):
            return _or_none(lambda: _version(self.client.get_model_version_by_alias(name, alias)))

    def set_alias(self, name: str, alias: str, number: int | None) -> None:
        """Let `alias` name the version `number`; None removes it."""
        with _asking(self.uri, f"move the alias {alias} of {name}"):
            if number is None:
                _or_none(lambda: self.client.delete_registered_model_alias(name, alias))
            else:
                self.client.set_registered_model_alias(name, alias, str(number))

    def tag_run(self, version: Version, key: str, value: str) -> None:
        """Set a tag of the run that `version` came from, by which MLflow's page of all runs can be filtered."""
        with _asking(self.uri, f"tag the run of {version.name} version {version.number}"):
            self.client.set_tag(version.run_id, key, value[:TAG])

    def tag(self, version: Version, tags: dict[str, str]) -> None:
        """Set tags of a version."""
        with _asking(self.uri, f"tag {version.name} version {version.number}"):
            for key, value in tags.items():
                self.client.set_model_version_tag(version.name, str(version.number), key, value[:TAG])

    def untag(self, version: Version, key: str) -> None:
        """Remove a tag of a version."""
        with _asking(self.uri, f"tag {version.name} version {version.number}"):
            self.client.delete_model_version_tag(version.name, str(version.number), key)

    def notes(self, name: str) -> dict[str, str]:
        """The tags of the registered model `name`; empty without such a model."""
        with _asking(self.uri, f"read {name}"):
            model = _or_none(lambda: self.client.get_registered_model(name))
        return dict(model.tags) if model else {}

    def note(self, name: str, notes: dict[str, str]) -> None:
        """Set tags of the registered model `name`."""
        with _asking(self.uri, f"tag {name}"):
            for key, value in notes.items():
                self.client.set_registered_model_tag(name, key, value)

    def metrics(self, version: Version) -> dict[str, float]:
        """The last value of every metric of the run that `version` came from, by its name in metrics.json."""
        with _asking(self.uri, f"read the run of {version.name} version {version.number}"):
            return {plain(key): value for key, value in self.client.get_run(version.run_id).data.metrics.items()}

    def log_metric(self, version: Version, key: str, value: float) -> None:
        """Add a metric to the run that `version` came from, and mark that run as finished."""
        with _asking(self.uri, f"write to the run of {version.name} version {version.number}"):
            self.client.log_metric(version.run_id, key, value)
            self.client.set_terminated(version.run_id)

    def load(self, version: Version) -> Any:
        """The pyfunc of a version."""
        with _asking(self.uri, f"load {version.name} version {version.number}"):
            return mlflow.pyfunc.load_model(f"models:/{version.name}/{version.number}")

    def download(self, version: Version, into: Path) -> Path:
        """The model folder of a version, copied into `into`."""
        source = f"models:/{version.name}/{version.number}/artifacts/model"
        with _asking(self.uri, f"give the files of {version.name} version {version.number}"):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(into)))

    def artifact(self, version: Version, path: str, into: Path) -> Path:
        """A file of the run that `version` came from, copied into `into`."""
        with _asking(self.uri, f"give {path} of {version.name} version {version.number}"):
            into.mkdir(parents=True, exist_ok=True)
            return Path(
                mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=path, dst_path=str(into))
            )

    def upload(self, version: Version, file: Path, folder: str) -> None:
        """Put `file` into `folder` among the artifacts of the run that `version` came from."""
        with _asking(self.uri, f"add {file.name} to the run of {version.name} version {version.number}"):
            self.client.log_artifact(version.run_id, str(file), folder)

    def has_files(self, version: Version) -> bool:
        """Whether the files of a version are still where the store says."""
        source = f"models:/{version.name}/{version.number}"
        with _asking(self.uri, f"list the files of {version.name} version {version.number}"):
            return bool(_or_none(lambda: mlflow.artifacts.list_artifacts(artifact_uri=source)))

    def drop_runs(self, name: str, content_hash: str) -> None:
        """Delete the runs of this content: what a killed publication left without a version."""
        with _asking(self.uri, f"delete unfinished runs of {name}"):
            experiment = self.client.get_experiment_by_name(name)
            if experiment is not None:
                chosen = f"tags.content_hash = '{content_hash}'"
                for run in self.client.search_runs([experiment.experiment_id], chosen):
                    self.client.delete_run(run.info.run_id)

    def register(self, name: str, record: Record, tags: dict[str, str]) -> Version:
        """One run in the experiment `name`, and from it a new version of the model `name` with `tags`."""
        noted = record.tags | {NOTE: record.about}
        with (
            _asking(self.uri, f"publish {name}"),
            mlflow.start_run(experiment_id=self._experiment(name), run_name=record.title, tags=noted) as run,
        ):
            self._log(run.info.run_id, record)
            for key, files in record.pictures.items():
                self.client.log_image(run.info.run_id, sheet(files), key=_key(key), step=0)
            self.client.log_artifacts(run.info.run_id, str(record.artifacts))
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(record.script),
                artifacts={"model": str(record.model)},
                pip_requirements=record.requirements,
            )
            _or_none(lambda: self.client.create_registered_model(name, description=ABOUT), "RESOURCE_ALREADY_EXISTS")
            made = self.client.create_model_version(
                name, logged.model_uri, run.info.run_id, tags, description=record.about, model_id=logged.model_id
            )
        return _version(made)

    def _log(self, run_id: str, record: Record) -> None:
        now = int(time.time() * 1000)
        params = [Param(_key(k), str(v)[:PARAM]) for k, v in record.params.items()]
        metrics = [Metric(_key(k), v, now, step) for k, v, step in record.points() if math.isfinite(v)]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self.client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self.client.log_batch(run_id, metrics=metrics[start : start + METRICS_AT_ONCE])

    def _experiment(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            root = address.artifact_root(self.uri)
            return self.client.create_experiment(name, root and f"{root}/{_key(name)}", tags={NOTE: ABOUT, **KIND})
        if experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id


def _version(found: Any) -> Version:
    return Version(found.name, int(found.version), found.run_id, dict(found.tags))


def _key(text: str) -> str:
    """A name that MLflow takes for params and metrics."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:KEY]


def _or_none(call: Any, *codes: str) -> Any:
    """What `call` gives; None where MLflow says that there is no such thing (or one of `codes`)."""
    try:
        return call()
    except MlflowException as error:
        missing = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", *codes)
        if error.error_code in missing or ("alias" in str(error) and "not found" in str(error)):
            return None
        raise
