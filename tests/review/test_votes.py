"""Votes: nothing is lost, nothing is invented, whoever votes, edits or is killed in between."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline import feedback, label_files
from pipeline.errors import DataError
from pipeline.review import carried_over, votes
from pipeline.review.batches import Line
from pipeline.review.votes import Votes
from tests.review.conftest import BATCH, DECISIONS, NAMES
from tests.review.voter import vote

Open = Callable[[], Votes]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """The votes on a batch whose ids do not begin with x, opened anew at each call, as another server would."""
    monkeypatch.setattr(votes, "SETTLED", 0.02)
    return lambda: Votes(tmp_path / "scores/B/review", tmp_path / "lock", lambda ids: {i for i in ids if i[0] != "x"})


def labels(given: Votes) -> list[tuple[str, str, str, str]]:
    """id, label, defect and who of each row of labels.csv."""
    frame = pd.read_csv(given.folder / "labels.csv", dtype=str, keep_default_na=False)
    assert list(frame.columns) == list(label_files.COLUMNS)
    return list(frame[["id", "label", "defect", "who"]].itertuples(index=False, name=None))


def change(given: Votes, make: Callable[[list[str]], list[str]]) -> None:
    """Change the lines of labels.csv by hand."""
    path = given.folder / "labels.csv"
    path.write_text("\n".join(make(path.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")


def test_votes_are_on_disk_in_both_files_when_they_are_given(opened: Open) -> None:
    ours = opened()
    ours.vote("a", "accept", "Anna", "no defect of a good one")
    ours.vote("b", "reject", "Anna", 'dent, "deep"')
    ours.vote("c", "unsure", "Bob")
    assert labels(ours) == [("a", "0", "", "Anna"), ("b", "1", 'dent, "deep"', "Anna")]
    again = opened()
    again.refresh()
    assert [(one.id, one.vote, one.who) for one in again.log] == [
        ("a", "accept", "Anna"),
        ("b", "reject", "Anna"),
        ("c", "unsure", "Bob"),
    ]
    assert [again.state(id) for id in "abcd"] == ["accept", "reject", "unsure", "open"]
    assert again.defects() == ['dent, "deep"']
    assert again.people() == ["Anna", "Bob"]


def test_the_same_vote_again_changes_nothing_another_one_replaces_it(opened: Open) -> None:
    ours = opened()
    for given in ("reject", "reject", "accept"):
        ours.vote("a", given, "Anna")
    assert [one.vote for one in ours.log] == ["reject", "accept"]
    assert labels(ours) == [("a", "0", "", "Anna")]
    with pytest.raises(DataError, match="a vote must be one of accept, reject, unsure, got 'maybe'"):
        ours.vote("a", "maybe", "Anna")
    with pytest.raises(DataError, match="a vote needs the name"):
        ours.vote("a", "accept", "")


def test_undo_is_per_person_and_goes_back_through_restarts(opened: Open) -> None:
    ours = opened()
    ours.vote("a", "accept", "Anna")
    ours.vote("a", "reject", "Anna")
    ours.vote("b", "reject", "Bob")
    again = opened()
    assert again.undo("Anna") == "a"
    assert labels(again) == [("a", "0", "", "Anna"), ("b", "1", "", "Bob")]
    assert again.undo("Anna") == "a"
    assert again.undo("Anna") is None
    assert labels(again) == [("b", "1", "", "Bob")]
    ours.refresh()
    assert ours.state("a") == "open"
    assert not ours.can_undo("Anna")
    assert ours.can_undo("Bob")


def test_two_people_who_disagree_have_a_row_each_and_the_later_counts(opened: Open) -> None:
    one, other = opened(), opened()
    one.vote("a", "reject", "Anna")
    other.vote("a", "unsure", "Cleo")
    assert other.state("a") == "reject"
    other.vote("a", "accept", "Bob")
    one.refresh()
    assert one.state("a") == "conflict"
    frame = pd.read_csv(one.folder / "labels.csv")
    assert frame["label"].tolist() == [1, 0]
    assert frame["time"].is_monotonic_increasing
    assert frame["time"].is_unique


def test_several_servers_at_once_lose_no_vote(opened: Open, tmp_path: Path) -> None:
    ours = opened()
    words = [sys.executable, "-m", "tests.review.voter", str(ours.folder), str(tmp_path / "lock")]
    crowd = [subprocess.Popen([*words, who, "15"]) for who in ("A", "B")]
    vote(ours.folder, tmp_path / "lock", "C", 15)
    assert [one.wait(60) for one in crowd] == [0, 0]
    ours.refresh()
    assert len(ours.log) == 3 * 2 * 15
    assert len(labels(ours)) == 3 * (15 + 1)
    assert {who: one.vote for who, one in ours.standing("all").items()} == dict.fromkeys("ABC", "reject")


def test_a_half_written_line_is_cut_and_a_broken_one_is_named(opened: Open) -> None:
    ours = opened()
    ours.vote("a", "accept", "Anna")
    log = ours.folder / "votes.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"id": "b", "vote": "rej')
    again = opened()
    again.refresh()
    assert len(again.log) == 1
    again.vote("c", "reject", "Bob")
    assert [json.loads(line)["id"] for line in log.read_text().splitlines()] == ["a", "c"]
    log.write_bytes(whole + b"nonsense\n")
    with pytest.raises(DataError, match=r"line 2 of .*votes.jsonl must be a vote .*: mend it or take it out"):
        opened().refresh()
    log.write_bytes(whole)  # the line of c taken out: labels.csv still has it
    ours.refresh()
    assert [(one.id, one.who, one.edited) for one in ours.log] == [("a", "Anna", False), ("c", "Bob", True)]


def test_killed_between_the_two_files_the_labels_follow(opened: Open) -> None:
    ours = opened()
    ours.vote("a", "accept", "Anna")
    before = (ours.folder / "labels.csv").read_bytes()
    ours.vote("b", "reject", "Anna")
    after = (ours.folder / "labels.csv").read_bytes()
    (ours.folder / "labels.csv").write_bytes(before)
    again = opened()
    again.refresh()
    assert (ours.folder / "labels.csv").read_bytes() == after
    assert again.notice == ("", 0.0)
    (ours.folder / "labels.csv").unlink()
    opened().refresh()
    assert (ours.folder / "labels.csv").read_bytes() == after


def test_a_full_disk_is_said_and_the_vote_can_be_given_again(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = opened()
    ours.vote("a", "accept", "Anna")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="votes cannot be kept now: No space left on device"):
            ours.vote("b", "reject", "Anna")
    ours.refresh()
    assert ours.state("b") == "open"
    ours.vote("b", "reject", "Anna")
    assert labels(opened()) == [("a", "0", "", "Anna"), ("b", "1", "", "Anna")]


def test_what_is_changed_in_labels_csv_by_hand_is_taken_in(opened: Open) -> None:
    ours = opened()
    for id in "abcd":
        ours.vote(id, "reject", "Anna", "dent")
    change(
        ours,
        lambda rows: [*rows[:1], rows[1].replace(",1,", ",good,").replace("dent", ""), *rows[3:], "f,bad,,crack,,"],
    )
    ours.refresh()
    assert ours.warning == ""
    assert ours.notice[0] == "labels.csv was changed by hand: 2 labels taken in, 1 taken out"
    expected = [("c", "1", "dent", "Anna"), ("d", "1", "dent", "Anna"), ("a", "0", "", "Anna")]
    assert labels(ours) == [*expected, ("f", "1", "crack", "labels.csv")]
    assert len(list((ours.folder / "edited").iterdir())) == 1
    again = opened()
    again.refresh()
    assert len(again.log) == 7
    assert again.undo("Anna") == "d"  # what was changed by hand is no vote that undo takes back


def test_votes_that_came_while_the_file_was_open_elsewhere_stay(opened: Open) -> None:
    ours = opened()
    ours.vote("a", "reject", "Anna")
    ours.vote("b", "reject", "Anna")
    path = ours.folder / "labels.csv"
    old = path.read_text(encoding="utf-8")
    ours.vote("b", "accept", "Anna")
    ours.vote("c", "reject", "Bob")
    path.write_text(old + "d,1,B,,Cleo,2020-01-02T03:04:05Z\n", encoding="utf-8")
    ours.vote("e", "accept", "Bob")
    assert labels(ours) == [
        ("d", "1", "", "Cleo"),
        ("a", "1", "", "Anna"),
        ("b", "0", "", "Anna"),
        ("c", "1", "", "Bob"),
        ("e", "0", "", "Bob"),
    ]
    assert ours.notice[0].endswith("1 labels taken in, 0 taken out; 1 votes that came meanwhile stay")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,label\nx1,bad\n", "id must be that of a sample in batch B, got 'x1'"),
        ("id,label\na,perhaps\n", "row 1: label must be 0 or good, 1 or bad, got 'perhaps'"),
        ("id,label,batch\na,1,C\n", "batch must be B or empty, got 'C'"),
        ("nothing\nlike\nit\n", "labels.csv must have the columns id and label, got nothing"),
        ("", "labels.csv must hold the columns id and label, it is empty"),
    ],
)
def test_an_edit_that_cannot_be_read_is_told_and_left_alone(opened: Open, text: str, says: str) -> None:
    ours = opened()
    ours.vote("a", "accept", "Anna")
    path = ours.folder / "labels.csv"
    path.write_text(text)
    ours.refresh()
    assert says in ours.warning
    ours.vote("b", "reject", "Anna")  # in votes.jsonl meanwhile
    assert path.read_text() == text
    path.unlink()
    ours.vote("c", "reject", "Anna")
    assert ours.warning == ""
    assert [row[0] for row in labels(ours)] == ["a", "b", "c"]


def test_a_file_that_was_there_before_any_vote_is_taken_in(opened: Open) -> None:
    ours = opened()
    ours.folder.mkdir(parents=True)
    (ours.folder / "labels.csv").write_bytes("id;label;who\na;nok;Zoë\n".encode("cp1252"))
    ours.refresh()
    assert labels(ours) == [("a", "1", "", "Zoë")]


def test_all_taken_back_leaves_headings_which_may_be_edited_on(opened: Open) -> None:
    ours = opened()
    ours.vote("a", "accept", "Anna")
    ours.undo("Anna")
    assert labels(ours) == []
    change(ours, lambda rows: [*rows, "a,1,,,,"])
    ours.refresh()
    assert labels(ours) == [("a", "1", "", "labels.csv")]


def test_votes_on_odd_names_are_labels_that_the_line_takes_back(pictures: Path, database: str) -> None:
    batch = Line(pictures).open(BATCH)
    asked = {name for name, decision in zip(sorted(NAMES), DECISIONS, strict=True) if decision != "accept"}
    assert set(batch.queue.ids) == asked
    for id in asked:
        batch.votes.vote(id, "reject", "Anna", "dent")
        batch.votes.vote(id, "accept", "Bob")
    given = feedback.give(pictures, str(batch.votes.folder / "labels.csv"))
    assert len(given.refused) == 0
    assert dict(zip(given.samples["id"], given.samples["label"], strict=True)) == dict.fromkeys(asked, 0)
    assert len(given.kept) == len(asked)


def test_votes_go_along_when_a_batch_is_put_in_anew(pictures: Path) -> None:
    line = Line(pictures)
    batch = line.open(BATCH)
    batch.votes.vote("plain.png", "reject", "Anna")
    folder = pictures / "scores" / BATCH
    with carried_over(folder, pictures / "new"):
        pass
    assert (pictures / "new/review/votes.jsonl").read_bytes() == (folder / "review/votes.jsonl").read_bytes()
    assert (pictures / "new/review/labels.csv").read_bytes() == (folder / "review/labels.csv").read_bytes()
