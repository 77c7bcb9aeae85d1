"""The house rules of DESIGN section 2: dependencies point one way, each tool has one home, imports stay cheap."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from pipeline import augmenters, detectors, modalities

ROOT = Path(__file__).parents[1]
FILES = sorted(p for folder in ("pipeline", "flows") for p in (ROOT / folder).rglob("*.py"))
LAYERS = {  # what a folder or file may import of the project, besides the foundation
    "flows": {"flows", "pipeline"},
    "pipeline/parts": {"pipeline.parts"},
    "pipeline/detectors": {"pipeline.parts"},
    "pipeline/augmenters": {"pipeline.parts"},
    "pipeline/wrappers": {"pipeline.parts", "pipeline.wrappers"},
    "pipeline/modalities": {"pipeline.parts", "pipeline.metrics"},  # a kind brings its local metrics
}
FOUNDATION = {"pipeline", "pipeline.protocols", "pipeline.errors", "pipeline.samples", "pipeline.files"}
HOMES = {"mlflow": ("pipeline/tracking.py", "pipeline/mlflow_model.py"), "great_expectations": ("pipeline/checks.py",)}


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def modules(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "pipeline":
                found |= {f"pipeline.{alias.name}" for alias in node.names}
    return frozenset(found)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def breaches(rule: Callable[[Path], Iterable[object]]) -> dict[str, list[object]]:
    """By file, what a rule finds wrong with it."""
    found = {name(path): list(rule(path)) for path in FILES}
    assert len(found) > 150
    return {file: wrong for file, wrong in found.items() if wrong}


def test_each_tool_has_one_home() -> None:
    def strangers(path: Path) -> set[str]:
        tops = {module.split(".")[0] for module in modules(path)}
        banned = {"pickle", "cloudpickle", "joblib", "dill"}
        banned |= {tool for tool, homes in HOMES.items() if name(path) not in homes}
        return tops & (banned if name(path).startswith("flows/") else banned | {"prefect"})

    assert breaches(strangers) == {}


def test_dependencies_point_one_way() -> None:
    def above(path: Path) -> set[str]:
        project = {module for module in modules(path) if module.split(".")[0] in ("pipeline", "flows")}
        up = (
            {module for module in project if module.startswith("flows")}
            if name(path).startswith("pipeline/")
            else set()
        )
        for layer, allowed in LAYERS.items():
            if name(path).startswith(layer + "/"):
                up |= {m for m in project - FOUNDATION if not any(m == a or m.startswith(a + ".") for a in allowed)}
        return up

    assert breaches(above) == {}


def test_files_are_short() -> None:
    def beyond(path: Path) -> list[int]:
        limit = 80 if name(path).startswith("pipeline/stages/") else 300
        limit = 185 if name(path) == "pipeline/protocols.py" else limit
        lines = len(path.read_text(encoding="utf-8").splitlines())
        return [lines] if lines > limit else []

    assert breaches(beyond) == {}


def test_no_file_outside_the_tables_names_a_detector_or_tests_a_kind() -> None:
    tables = {f"pipeline/{table}/__init__.py" for table in ("detectors", "modalities", "augmenters")}
    kinds = set(modalities.TABLE)

    def named(path: Path) -> Iterator[str]:
        for node in nodes(path) if name(path) not in tables else ():
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in detectors.TABLE:
                yield node.value
            if isinstance(node, ast.Compare):
                sides = (node.left, *node.comparators)
                yield from (side.value for side in sides if isinstance(side, ast.Constant) and side.value in kinds)

    assert breaches(named) == {}


@pytest.mark.parametrize("table", [modalities, detectors, augmenters], ids=lambda t: t.__name__)
def test_tables_and_files_are_the_same(table: object) -> None:
    folder = Path(table.__file__).parent
    files = {p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.py") if p.stem != "__init__"}
    assert set(table.TABLE) == files


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("pipeline", "torch sklearn pandas mlflow prefect great_expectations"),
        ("pipeline.params", "torch sklearn mlflow prefect great_expectations"),
        ("pipeline.modalities.table", "torch mlflow prefect great_expectations"),
        ("pipeline.detectors.table.isolation_forest", "torch mlflow prefect"),
        ("pipeline.stages.ingest", "torch sklearn mlflow prefect great_expectations"),
    ],
)
def test_importing_loads_no_more_than_it_must(module: str, banned: str) -> None:
    code = f"import sys, {module}; print(*sorted(set('{banned}'.split()) & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout.strip() == ""
