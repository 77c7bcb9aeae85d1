"""Long work tells how far it is: a bar on a terminal, plain lines in a log, nothing where it is short."""

import io
import sys

import pytest

from pipeline.parts import progress
from pipeline.parts.progress import Progress, duration, silent, tracked


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, as one number that a test may change."""
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(2000, "score", "samples") as bar:
        for _ in range(2000 // 8):
            clock[0] += 0.125
            bar.update(8)
    assert capsys.readouterr().err.splitlines() == [
        "... score: 640 of 2,000 samples (32%), 64/s, 21 s left",
        "... score: 1,280 of 2,000 samples (64%), 64/s, 11 s left",
        "... score: 1,920 of 2,000 samples (96%), 64/s, 1 s left",
        "... score: 2,000 samples in 31 s, 64/s",
    ]


def test_what_was_done_before_counts_for_no_rate(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(110, "centres", "points", done=100) as bar:
        clock[0] += 20
        bar.update(5)
    assert capsys.readouterr().err.splitlines()[0] == "... centres: 105 of 110 points (95%), 0.25/s, 20 s left"


def test_short_work_and_a_single_step_say_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in tracked(range(5), 5, "train", "steps"):
        clock[0] += 1.9
    for _ in tracked(range(1), 1, "score", "shards"):
        clock[0] += 60
    assert capsys.readouterr() == ("", "")


def test_work_that_fails_does_not_claim_an_end(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="half"), Progress(4, "ingest", "images") as bar:
        clock[0] += 30
        bar.update()
        raise ValueError("half")
    assert capsys.readouterr().err == "... ingest: 1 of 4 images (25%), 0.033/s, 1 min 30 s left\n"


def test_whoever_shows_its_own_silences_what_is_inside(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in tracked(range(2), 2, "batch", "shards"):
        with silent():
            for _ in tracked(range(3), 3, "shard", "images"):
                clock[0] += 10
    assert [row.split(":")[0] for row in capsys.readouterr().err.splitlines()] == ["... batch"] * 3


def test_a_terminal_gets_a_bar_that_is_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHORT", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(tracked(iter(range(50)), 50, "train", "steps")) == list(range(50))
    *_, last = sys.stderr.getvalue().split("\r")
    assert last.startswith("train: 100%|")
    assert "50/50" in last
    assert "steps/s" in last
    monkeypatch.setenv("TERM", "dumb")  # as an editor's console, which draws nothing over
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert len(list(tracked(range(50), 50, "train", "steps"))) == 50
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (3599.7, "1 h 0 min")]
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
