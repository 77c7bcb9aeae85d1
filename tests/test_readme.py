"""The README keeps up with the code."""

import re
import subprocess
from pathlib import Path

from pipeline import catalogue

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_detectors_is_the_code_s() -> None:
    assert catalogue.renewed(README) == README, "run python -m pipeline.catalogue"


def test_every_make_command_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert named
    assert named <= targets


def test_every_file_that_the_readme_names_exists() -> None:
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert linked
    assert [link for link in linked if not (ROOT / link).exists()] == []


def test_make_help_lists_every_target_for_people() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("run", "test", "ui", "serve", "line", "rollback"):
        assert f"make {target} " in said
