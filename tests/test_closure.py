"""DVC does not follow imports: every stage's deps must name all the project code that it runs (DESIGN section 1).

`python -m tests.test_closure` writes them into dvc.yaml."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from pipeline import augmenters, detectors, modalities, wrappers

ROOT = Path(__file__).parents[1]
DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# Tables of names hold no logic: which file a name stands for is fixed by params and by the file itself,
# so adding a detector must not make every stage stale. Empty packages hold nothing at all.
EXEMPT = {
    f"pipeline/{name}/__init__.py" for name in ("modalities", "detectors", "augmenters", "wrappers", "parts", "rules")
} | {
    "pipeline/__init__.py",
    "pipeline/detectors/image/__init__.py",
    "pipeline/detectors/table/__init__.py",
}
# A placeholder in deps stands for one file of a table; all of them are walked.
DETECTORS = "pipeline/detectors/${item.detector}.py"
PLACEHOLDERS = {
    DETECTORS: detectors.TABLE,
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


def needed(stage: str) -> set[str]:
    """The deps of code that `stage` must have: its closure, with a placeholder for the files of a table."""
    held = declared(stage) & set(PLACEHOLDERS)
    of_tables = {holder.split("$")[0] + f"{key}.py" for holder in held for key in PLACEHOLDERS[holder]}
    start = {f"pipeline/stages/{stage}.py", *of_tables}
    if DETECTORS in held:  # any candidate may name any wrapper
        start |= {f"pipeline/wrappers/{key}.py" for key in wrappers.TABLE}
    return (closure(*start) - of_tables) | held


def rewritten(text: str) -> str:
    """dvc.yaml with the deps of code that every stage needs."""
    lines: list[str] = []
    stage, waiting = "", False
    for line in text.splitlines():
        if found := re.fullmatch(r"  (\w+):( #.*)?", line):
            stage = found[1]
        if line.lstrip().startswith("- ${root}/"):
            waiting = True
            indent = line[: len(line) - len(line.lstrip())]
            continue
        if waiting:
            lines += [f"{indent}- ${{root}}/{name}" for name in sorted(needed(stage))]
            waiting = False
        lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("stage", DAG)
def test_deps_name_all_the_code_that_the_stage_runs(stage: str) -> None:
    assert needed(stage) - declared(stage) == set(), f"add these to the deps of {stage} in dvc.yaml"


@pytest.mark.parametrize("stage", DAG)
def test_deps_name_nothing_that_the_stage_does_not_run(stage: str) -> None:
    assert declared(stage) - needed(stage) == set(), f"remove these from the deps of {stage} in dvc.yaml"


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


def test_writing_the_deps_changes_nothing_that_is_right() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert rewritten(text) == text


if __name__ == "__main__":
    path = ROOT / "dvc.yaml"
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
