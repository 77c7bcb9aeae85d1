"""compose.yaml as far as it can be checked without Docker; end_to_end/test_postgres.py runs its services."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OURS = {"mlflow", "prefect", "worker"}
POSTGRES = {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "POSTGRES_INITDB_ARGS"}  # of its image


def known() -> set[str]:
    """Every environment variable that our code, MLflow or Prefect reads."""
    import mlflow.environment_variables as mlflow
    from prefect.settings import get_current_settings

    import flows.settings

    files = [path for folder in ("pipeline", "flows") for path in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    ours = set(re.findall(r"\b(?:ASSAY|MLFLOW|PREFECT)_[A-Z_]+\b", code)) | set(flows.settings.DEFAULTS)
    theirs = {value.name for value in vars(mlflow).values() if hasattr(value, "name")}
    prefect = set(get_current_settings().to_environment_variables(include_secrets=True))
    return ours | theirs | prefect | {"MLFLOW_BACKEND_STORE_URI"}  # an option of `mlflow server`


def test_it_is_made_of_these_services() -> None:
    assert set(SERVICES) == {"postgres"} | OURS
    assert all(SERVICES[name]["image"] == "assay:0.1.0" for name in OURS)
    assert f'version = "{SERVICES["worker"]["image"].partition(":")[2]}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_watched_restarted_and_hidden(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", service["image"])
    assert service["restart"] == "unless-stopped"
    assert set(service["healthcheck"]) == {"test", "interval", "timeout", "retries", "start_period"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for needed in service.get("depends_on", {}).values():
        assert needed == {"condition": "service_healthy"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_one_that_is_read(name: str) -> None:
    given = set(SERVICES[name]["environment"])
    assert given <= (POSTGRES if name == "postgres" else known() | {"DO_NOT_TRACK"})


def test_passwords_come_from_the_environment_and_an_empty_one_is_refused() -> None:
    asked = re.findall(r"\$\{([A-Z_]+)(:?[^}]*)\}", TEXT)
    assert {name for name, _ in asked} == {"POSTGRES_PASSWORD", "ASSAY_LINE", "ASSAY_WEBHOOK_URL"}
    assert all(rule.startswith(":?") for name, rule in asked if name != "ASSAY_WEBHOOK_URL")
    assert re.findall(r"//[^/\s:]+:([^@\s]*)@", TEXT) == ["${POSTGRES_PASSWORD:?}"] * 3


def test_what_services_mount_is_there_or_named() -> None:
    document = yaml.safe_load(TEXT)
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            place = volume.partition(":")[0]
            assert place in document["volumes"] or place == "./lines" or (ROOT / place).is_file()


def test_the_base_image_is_pinned_to_a_python_that_assay_runs_on() -> None:
    (base,) = re.findall(r"^FROM (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.(1[1-9])\.\d+-slim-[a-z]+", base)


def test_no_secret_and_no_result_gets_into_the_image() -> None:
    kept_out = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".env", ".venv", "lines", "mlflow.db*", "assay.db*", "mlartifacts"} <= set(kept_out)
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
