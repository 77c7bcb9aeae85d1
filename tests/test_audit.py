"""The audit trail on a real store: what is appended, what is noticed, what a killed process may leave."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline import audit, tracking
from pipeline.audit import HEAD, START, Trail
from pipeline.errors import LineError, RegistryError
from pipeline.tracking import Registry, Version
from tests import small_line

ROOT = Path(__file__).parents[1]


@pytest.fixture
def registry(store: str) -> Registry:
    """A registry that knows the model `parts`, and `others`."""
    registry = tracking.connect()
    for name in ("parts", "others"):
        registry.client.create_registered_model(name)
    return registry


def version(number: int) -> Version:
    return Version("parts", number, "run", {"content_hash": f"hash{number}"})


def three(line: Path, registry: Registry) -> Path:
    """A trail of three entries."""
    trail = Trail.open(line, registry, "parts")
    for number in (1, 2, 3):
        before = version(number - 1) if number > 1 else None
        trail.note(audit.PROMOTE, before, version(number), f"it is better, {number}", "anna")
    return trail.path


def test_an_entry_says_everything(tmp_path: Path, registry: Registry) -> None:
    path = three(tmp_path, registry)
    lines = path.read_bytes().splitlines()
    first, second, third = (json.loads(line) for line in lines)
    assert {key: value for key, value in second.items() if key not in ("when", "hash")} == {
        "number": 2,
        "who": "anna",
        "action": "promote",
        "name": "parts",
        "from_version": 1,
        "to_version": 2,
        "from_hash": "hash1",
        "to_hash": "hash2",
        "why": "it is better, 2",
        "previous": sha256(lines[0]).hexdigest(),
    }
    assert second["when"].endswith("+00:00")
    assert (first["previous"], first["from_version"], first["from_hash"]) == (START, None, None)
    assert third["hash"] == sha256(json.dumps(third | {"hash": ""}, ensure_ascii=False).encode()).hexdigest()
    assert registry.notes("parts")[HEAD] == f"3:{third['hash']}"
    assert [entry.number for entry in Trail.open(tmp_path, registry, "parts").entries] == [1, 2, 3]


def test_who_is_the_user_unless_somebody_says_so_and_texts_stay_on_their_line(
    tmp_path: Path, registry: Registry
) -> None:
    trail = Trail.open(tmp_path, registry, "parts")
    trail.note(audit.REFUSE, None, version(1), "too many\nescapes at Müller's \udcff", " ")
    (entry,) = Trail.open(tmp_path, registry, "parts").entries
    assert entry.who == audit.whoami()
    assert "@" in entry.who
    assert entry.why == "too many escapes at Müller's ?"


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda lines: [lines[0].replace(b"anna", b"otto"), *lines[1:]], "line 1 was altered"),
        (lambda lines: [lines[0], lines[1].replace(b", ", b","), lines[2]], "line 2 was altered"),
        (lambda lines: [lines[0], b"{", lines[2]], "line 2 was altered"),
        (lambda lines: [lines[0], b"[]", lines[2]], "line 2 was altered"),
        (lambda lines: [lines[0], b"\xff", lines[2]], "line 2 was altered"),
        (lambda lines: [lines[0], lines[2]], "line 2 was altered"),
        (lambda lines: [lines[1], lines[2]], "line 1 was altered"),
        (lambda lines: [lines[0], b"", *lines[1:]], "line 2 was altered"),
        (lambda lines: lines[:2], "it was cut: the registry remembers 3 lines, line 3 is gone"),
        (lambda lines: [], "it was cut: the registry remembers 3 lines, line 1 is gone"),
    ],
)
def test_what_was_altered_is_noticed(alter: object, said: str, tmp_path: Path, registry: Registry) -> None:
    path = three(tmp_path, registry)
    path.write_bytes(b"".join(line + b"\n" for line in alter(path.read_bytes().splitlines())))
    with pytest.raises(LineError) as raised:
        Trail.open(tmp_path, registry, "parts")
    assert str(raised.value) == (
        f"{path} is no longer the trail that promotion wrote, {said}; put it back as it was, or, to begin a new one, "
        "move it away and remove the tag assay.audit of parts in MLflow"
    )


def resealed(path: Path, place: int, **changes: object) -> None:
    """Rewrite the entry at `place` as somebody would who knows how hashes are made, and all after it."""
    lines = path.read_bytes().splitlines()
    entries = [audit.Entry(**json.loads(line)) for line in lines]
    made: list[bytes] = []
    for number, entry in enumerate(entries, 1):
        values = json.loads(entry.line()) | (changes if number == place else {})
        values["previous"] = sha256(made[-1]).hexdigest() if made else START
        made.append(audit.Entry(**values).sealed().line())
    path.write_bytes(b"".join(line + b"\n" for line in made))


@pytest.mark.parametrize("place", [1, 3])
def test_a_chain_made_anew_is_not_the_one_that_the_registry_remembers(
    place: int, tmp_path: Path, registry: Registry
) -> None:
    path = three(tmp_path, registry)
    resealed(path, place, who="otto")
    with pytest.raises(LineError, match="line 3 is not the entry that the registry remembers"):
        Trail.open(tmp_path, registry, "parts")


def test_a_line_that_does_not_follow_is_noticed_without_the_registry(tmp_path: Path, registry: Registry) -> None:
    path = three(tmp_path, registry)
    lines = path.read_bytes().splitlines()
    other = audit.Entry(**{**json.loads(lines[0]), "who": "otto"}).sealed().line()
    path.write_bytes(b"\n".join([other, *lines[1:], b""]))
    with pytest.raises(LineError, match="line 2 does not follow the line before it"):
        Trail.open(tmp_path, registry, "others")


def test_a_file_that_is_gone_is_noticed(tmp_path: Path, registry: Registry) -> None:
    three(tmp_path, registry).unlink()
    with pytest.raises(LineError, match="it is missing: the registry remembers 3 lines, line 1 is gone"):
        Trail.open(tmp_path, registry, "parts")


@pytest.mark.parametrize("head", ["", "three", "3:abc", "-1:" + START])
def test_a_memory_that_was_altered_is_noticed(head: str, tmp_path: Path, registry: Registry) -> None:
    three(tmp_path, registry)
    registry.note("parts", {HEAD: head})
    with pytest.raises(LineError, match=r"the tag of the registry, .*, was altered"):
        Trail.open(tmp_path, registry, "parts")


def test_lines_that_the_registry_never_heard_of_are_noticed(tmp_path: Path, registry: Registry) -> None:
    three(tmp_path, registry)
    registry.note("parts", {HEAD: f"0:{START}"})
    with pytest.raises(LineError, match="line 2 is not known to the registry"):
        Trail.open(tmp_path, registry, "parts")


def test_a_new_registry_goes_on_with_the_trail_that_it_finds(tmp_path: Path, registry: Registry) -> None:
    three(tmp_path, registry)
    trail = Trail.open(tmp_path, registry, "others")  # as after a renaming, or a clone without its store
    assert (len(trail.entries), trail.pending) == (3, None)
    trail.note(audit.PROMOTE, None, version(1), "", "")
    trail.note(audit.PROMOTE, version(1), version(2), "", "")
    assert len(Trail.open(tmp_path, registry, "others").entries) == 5
    again = Trail.open(tmp_path, registry, "parts")  # and back to the name before
    assert (len(again.entries), again.pending) == (5, None)
    again.note(audit.PROMOTE, None, version(4), "", "")
    assert registry.notes("parts")[HEAD].startswith("6:")


def test_an_entry_that_does_not_come_to_count_is_taken_back(tmp_path: Path, registry: Registry) -> None:
    path = three(tmp_path, registry)
    before = path.read_bytes()
    trail = Trail.open(tmp_path, registry, "parts")
    with pytest.raises(KeyboardInterrupt), trail.entry(audit.PROMOTE, version(3), version(4), "", ""):
        assert path.read_bytes() != before
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert trail.pending is None
    trail.note(audit.PROMOTE, version(3), version(4), "", "")
    assert len(Trail.open(tmp_path, registry, "parts").entries) == 4


def test_the_first_entry_of_all_is_taken_back_as_well(tmp_path: Path, registry: Registry) -> None:
    trail = Trail.open(tmp_path, registry, "parts")
    with pytest.raises(ValueError, match="no"), trail.entry(audit.PROMOTE, None, version(1), "", ""):
        raise ValueError("no")
    assert trail.path.read_bytes() == b""
    assert registry.notes("parts")[HEAD] == f"0:{START}"
    assert Trail.open(tmp_path, registry, "parts").entries == []


def test_a_disk_that_is_full_leaves_the_trail_as_it_was(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = three(tmp_path, registry)
    before = path.read_bytes()

    def full(trail: Trail, entry: audit.Entry) -> None:
        with trail.path.open("ab") as file:
            file.write(entry.line()[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Trail, "_append", full)
        with pytest.raises(OSError, match="No space"):
            Trail.open(tmp_path, registry, "parts").note(audit.PROMOTE, None, version(4), "", "")
    assert path.read_bytes() == before


def test_a_registry_that_is_away_when_an_entry_should_go_leaves_it_for_later(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    three(tmp_path, registry)
    trail = Trail.open(tmp_path, registry, "parts")
    with monkeypatch.context() as patch:

        def down(self: Registry, *words: object) -> None:
            raise RegistryError("down")

        with pytest.raises(RegistryError), trail.entry(audit.PROMOTE, version(3), version(4), "", "") as count:
            patch.setattr(Registry, "note", down)
            patch.setattr(Registry, "notes", down)
            count()
    found = Trail.open(tmp_path, registry, "parts")
    assert (len(found.entries), found.pending.number) == (3, 4)
    found.drop()
    assert Trail.open(tmp_path, registry, "parts").pending is None


def test_a_torn_line_that_does_not_count_goes_before_the_next(tmp_path: Path, registry: Registry) -> None:
    path = three(tmp_path, registry)
    before = path.read_bytes()
    path.write_bytes(before + before[:40])
    trail = Trail.open(tmp_path, registry, "parts")
    assert (len(trail.entries), trail.pending, trail.torn) == (3, None, True)
    trail.note(audit.PROMOTE, version(3), version(4), "", "")
    assert path.read_bytes().startswith(before + b'{"number": 4')
    assert len(Trail.open(tmp_path, registry, "parts").entries) == 4


def test_a_torn_line_that_counts_is_an_alteration_unless_its_end_alone_is_missing(
    tmp_path: Path, registry: Registry
) -> None:
    path = three(tmp_path, registry)
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    trail = Trail.open(tmp_path, registry, "parts")
    assert len(trail.entries) == 3
    trail.note(audit.PROMOTE, version(3), version(4), "", "")
    assert path.read_bytes().startswith(before + b'{"number": 4')
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(LineError, match="line 4 was altered"):
        Trail.open(tmp_path, registry, "parts")


def command(line: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pipeline.audit", str(line)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(words, cwd=line, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_shows_the_trail_and_fails_when_it_is_broken(tmp_path: Path, registry: Registry) -> None:
    small_line.write(tmp_path, small_line.PARAMS)
    path = three(tmp_path, registry)
    shown = command(tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    heading, *rows, last = shown.stdout.splitlines()
    assert heading.split() == ["when", "who", "action", "from", "to", "why"]
    assert [row.split()[:1] + row.split()[2:6] for row in rows] == [
        ["1", "anna", "promote", "-", "1"],
        ["2", "anna", "promote", "1", "2"],
        ["3", "anna", "promote", "2", "3"],
    ]
    assert rows[2].endswith("it is better, 3")
    assert last == f"{path} is whole: 3 entries, as the registry remembers them for parts"
    path.write_bytes(path.read_bytes().replace(b"anna", b"otto"))
    broken = command(tmp_path)
    assert broken.returncode == 1
    (said,) = broken.stderr.splitlines()
    assert said.startswith(f"error: {path} is no longer the trail that promotion wrote, line 1 was altered; ")


def test_the_command_of_a_line_that_never_promoted(tmp_path: Path, registry: Registry) -> None:
    small_line.write(tmp_path, small_line.PARAMS)
    shown = command(tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == f"{tmp_path / 'audit.jsonl'} is whole: 0 entries, as the registry remembers them for parts\n"
