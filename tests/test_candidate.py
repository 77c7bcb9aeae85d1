"""Where a candidate comes from: commit, changes, line."""

import subprocess
from pathlib import Path

from pipeline.candidate import flat, git_state, hash_of_test, line_name
from tests.small_line import run

ROOT = Path(__file__).parents[1]


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.hooksPath=/dev/null"]
    return subprocess.run(["git", *own, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_what_differs_from_it(tmp_path: Path) -> None:
    assert git_state(tmp_path) == ("none", b"")
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == ("none", b"")
    (tmp_path / "a.txt").write_text("one\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == (head, b"")
    (tmp_path / "a.txt").write_text("two\n")
    (tmp_path / "new.txt").write_text("new\n")
    commit, diff = git_state(tmp_path)
    assert commit == head
    assert b"-one\n+two\n" in diff
    assert b"?? new.txt" in diff


def test_a_line_is_named_by_its_place_in_the_checkout(tmp_path: Path) -> None:
    assert line_name(ROOT) == "."
    assert line_name(ROOT / "examples/wdbc") == "examples/wdbc"
    assert line_name(tmp_path) == tmp_path.name


def test_nested_keys_are_joined_by_points() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": [1, {"e": 2}]}) == {"a.b.c": 1, "d": '[1, {"e": 2}]'}


def test_the_test_hash_is_that_of_the_test_part(line: Path, line_that_ran: Path) -> None:
    assert hash_of_test(line) == hash_of_test(line_that_ran)
    raw = line / "data/raw/parts.csv"
    rows = raw.read_text().splitlines()
    raw.write_text("\n".join(rows[:-40]) + "\n")
    run(line)
    assert hash_of_test(line) != hash_of_test(line_that_ran)
