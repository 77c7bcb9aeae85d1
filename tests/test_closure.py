"""DVC does not follow imports: every stage's deps must name all the project code that it runs (DESIGN section 1)."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from pipeline import augmenters, detectors, modalities

ROOT = Path(__file__).parents[1]
DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# Tables of names hold no logic: which file a name stands for is fixed by params and by the file itself,
# so adding a detector must not make every stage stale. Empty packages hold nothing at all.
EXEMPT = {f"pipeline/{name}/__init__.py" for name in ("modalities", "detectors", "augmenters", "parts")} | {
    "pipeline/__init__.py",
    "pipeline/detectors/image/__init__.py",
    "pipeline/detectors/table/__init__.py",
}
# A placeholder in deps stands for one file of a table; all of them are walked.
PLACEHOLDERS = {
    "pipeline/detectors/${item.detector}.py": detectors.TABLE,
    "pipeline/modalities/${dataset.kind}.py": modalities.TABLE,
    "pipeline/augmenters/${augment.kind}.py": augmenters.TABLE,
}


def imports(file: str) -> set[str]:
    """The project files that `file` imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    files: set[str] = set()
    for name in found:
        if name.split(".")[0] not in ("pipeline", "flows"):
            continue
        path = name.replace(".", "/")
        files |= {f for f in (f"{path}.py", f"{path}/__init__.py") if (ROOT / f).exists()}
    return files


def closure(*start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        file = waiting.pop()
        if file not in seen and file not in EXEMPT:
            seen.add(file)
            waiting += imports(file)
    return seen


def declared(stage: str) -> set[str]:
    body = DAG[stage].get("do", DAG[stage])
    return {dep.removeprefix("${root}/") for dep in body["deps"] if dep.startswith("${root}/")}


@pytest.mark.parametrize("stage", DAG)
def test_deps_name_all_the_code_that_the_stage_runs(stage: str) -> None:
    deps = declared(stage)
    start = {f"pipeline/stages/{stage}.py"}
    for placeholder, table in PLACEHOLDERS.items():
        if placeholder in deps:
            start |= {placeholder.split("$")[0] + f"{key}.py" for key in table}
    needed = closure(*start)
    for placeholder, table in PLACEHOLDERS.items():
        if placeholder in deps:
            needed -= {placeholder.split("$")[0] + f"{key}.py" for key in table}
    assert needed - deps == set(), f"add these to the deps of {stage} in dvc.yaml"


@pytest.mark.parametrize("stage", DAG)
def test_deps_name_nothing_that_the_stage_does_not_run(stage: str) -> None:
    deps = declared(stage) - set(PLACEHOLDERS)
    start = {f"pipeline/stages/{stage}.py"}
    for placeholder, table in PLACEHOLDERS.items():
        if placeholder in declared(stage):
            start |= {placeholder.split("$")[0] + f"{key}.py" for key in table}
    assert deps - closure(*start) == set(), f"remove these from the deps of {stage} in dvc.yaml"


def test_stages_and_their_files_are_the_same() -> None:
    files = {path.stem for path in (ROOT / "pipeline/stages").glob("*.py")} - {"__init__"}
    assert set(DAG) == files


@pytest.mark.parametrize("stage", DAG)
def test_stage_runs_the_file_of_its_name(stage: str) -> None:
    body = DAG[stage].get("do", DAG[stage])
    assert re.fullmatch(rf"python -m pipeline\.stages\.{stage}( \$\{{key\}})?", body["cmd"])


def test_the_walk_sees_imports_inside_functions(tmp_path: Path) -> None:
    assert "pipeline/errors.py" in closure("pipeline/stages/split.py")
    assert "pipeline/tables.py" in closure("pipeline/stages/split.py")  # through params
