"""Files are whole or absent, whatever happens in the middle."""

import json
import os
from pathlib import Path

import pytest

from pipeline.files import link, scratch_folder, sha256, whole_file, whole_folder, write_json


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with whole_folder(target) as partial:
        (partial / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    with pytest.raises(RuntimeError, match="in the middle"), whole_folder(target) as partial:
        (partial / "a").write_text("2")
        raise RuntimeError("in the middle")
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".out.partial-xyz").mkdir()
    with whole_folder(tmp_path / "out"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_outlives_a_kill_while_another_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, replace = tmp_path / "out", Path.replace
    target.mkdir()
    (target / "a").write_text("1")

    def killed(path: Path, to: Path) -> Path:
        if to == target:
            raise KeyboardInterrupt
        return replace(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt), whole_folder(target) as partial:
            (partial / "a").write_text("2")
    assert not target.exists()
    with pytest.raises(RuntimeError), whole_folder(target):
        assert (target / "a").read_text() == "1"
        raise RuntimeError
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_file_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x.txt"
    with pytest.raises(RuntimeError), whole_file(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    with whole_file(target) as partial:
        partial.write_text("all")
    assert target.read_text() == "all"


def test_scratch_is_empty_and_goes(tmp_path: Path) -> None:
    place = tmp_path / "s"
    place.mkdir()
    (place / "old").touch()
    with scratch_folder(place) as work:
        assert list(work.iterdir()) == []
    assert not place.exists()


def test_hashes_are_of_content_and_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "a") == known
    first = sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256(tmp_path) != first


def test_json_is_sorted_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": [1.5]})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    1.5\n  ],\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text())["b"] == 1


def test_link_shares_the_file_where_it_can(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    link(tmp_path / "a", tmp_path / "deep/b")
    assert os.stat(tmp_path / "a").st_ino == os.stat(tmp_path / "deep/b").st_ino
