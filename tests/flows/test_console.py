"""What commands say is plain where it is piped, and in colour, fitted to the terminal, where a person looks."""

import io
import re
import sys

import pytest

from flows import console
from flows.console import BAD, GOOD

ROWS = [
    {"name": "bank [of] patches", "score": "0.9877", "": "champion"},
    {"name": "forest", "score": "1.0000", "": "promise broken"},
]
TEXTS = {"name", ""}
GREEN, RED, BOLD, END = "\x1b[1;32m", "\x1b[1;31m", "\x1b[1m", "\x1b[0m"


def tone(row: dict[str, str], heading: str) -> str:
    return "" if heading else GOOD if row[""] == "champion" else BAD


def without_colours(text: str) -> list[str]:
    return [row.rstrip() for row in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_text_is_as_wide_as_it_comes() -> None:
    assert console.table(ROWS, TEXTS, tone) == (
        "name                score\n"
        "bank [of] patches  0.9877  champion\n"
        "forest             1.0000  promise broken"
    )  # fmt: skip
    assert console.sentence("1 reject", {"1 reject": BAD}) == "1 reject"


def test_a_terminal_gets_the_same_table_in_colour() -> None:
    drawn = console.table(ROWS, TEXTS, tone, 80)
    heading, rule, *rows = without_colours(drawn)
    assert [heading, *rows] == console.table(ROWS, TEXTS).splitlines()
    assert set(rule) == {"─"}
    assert f"{GREEN}champion" in drawn
    assert f"{RED}promise broken{END}" in drawn


def test_a_terminal_that_is_too_narrow_gets_a_block_for_each_row() -> None:
    drawn = console.table(ROWS, TEXTS, tone, 30)
    assert without_colours(drawn) == [
        "name   bank [of] patches",
        "score  0.9877",
        "       champion",
        "",
        "name   forest",
        "score  1.0000",
        "       promise broken",
    ]
    assert f"{GREEN}champion{END}" in drawn


def test_long_text_is_folded_and_no_number_is() -> None:
    rows = [{"what": "word " * 20, "n": "1,234,567"}]
    drawn = without_colours(console.table(rows, {"what"}, wide=40))
    assert max(map(len, drawn)) <= 40
    assert drawn[2].endswith("1,234,567")
    assert " ".join(" ".join(row.split()) for row in drawn[2:]).count("word") == 20


def test_a_sentence_keeps_its_line_and_stresses_words() -> None:
    told = "scored 1,000 samples: 990 accept, 10 reject -> lines/[x]/scores/abc/"
    drawn = console.sentence(told, {"10 reject": BAD, "absent": GOOD}, 20)
    assert drawn == told.replace("10 reject", f"{RED}10 reject{END}")


@pytest.mark.parametrize(
    ("decisions", "monitoring", "words"),
    [
        ({"accept": 9, "review": 0, "reject": 0}, None, {"3 quarantined"}),
        ({"accept": 9, "review": 1, "reject": 2}, {"drift": False, "broken": False, "says": "calm"},
         {"1 review", "2 reject", "3 quarantined"}),
        ({"accept": 9, "review": 0, "reject": 0}, {"drift": True, "broken": False, "says": "scores drift"},
         {"3 quarantined", "scores drift"}),
    ],
)  # fmt: skip
def test_what_stands_out_of_a_batch(
    decisions: dict[str, int], monitoring: dict[str, object] | None, words: set[str]
) -> None:
    report = {"decisions": decisions, "quarantined": 3, "monitoring": monitoring}
    assert set(console.of_batch(report)) == words


def test_colours_are_for_terminals_of_people_who_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert console.width() is None
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert console.width() == 72
    monkeypatch.setenv("NO_COLOR", "1")
    assert console.width() is None
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert console.width() is None
