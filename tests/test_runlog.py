"""The run log: one row per run, however it ends, and never a run that fails because of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows import runs
from pipeline import runlog, urls
from pipeline.errors import DataError, RegistryError

ROOT = Path(__file__).parents[1]
WAITS = """
import sys, time
from pipeline import runlog
with runlog.run("train", "lines/a", "raw"):
    print("at work", flush=True)
    time.sleep(600)
"""


def test_a_run_is_told_from_start_to_end(database: str) -> None:
    with runlog.run("score", "lines/a", "s3://key:secret@plant/tiles") as entry:
        (running,) = runlog.last().to_dict("records")
        entry.note(model="parts version 3", data_hash="abc")
        entry.note(out="25 samples", verdict="no drift")
    (row,) = runlog.last("lines/a").to_dict("records")
    assert (running["status"], running["ended"], running["model"]) == ("running", None, None)
    assert {
        k: row[k] for k in ("flow", "line", "source", "data_hash", "model", "out", "verdict", "status", "error")
    } == {
        "flow": "score",
        "line": "lines/a",
        "source": "s3://key:***@plant/tiles",
        "data_hash": "abc",
        "model": "parts version 3",
        "out": "25 samples",
        "verdict": "no drift",
        "status": "done",
        "error": None,
    }
    assert row["started"] == running["started"] <= row["ended"]
    assert (row["pid"], row["id"]) == (os.getpid(), running["id"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DataError("a.png cannot be read"), "a.png cannot be read"),
        (KeyError("x"), "KeyError: 'x'"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_run_that_fails_keeps_its_sentence(error: BaseException, said: str, database: str) -> None:
    with pytest.raises(type(error)), runlog.run("score", "lines/a"):
        raise error
    row = runlog.last().iloc[0]
    assert (row.status, row.error) == ("failed", said)
    assert row.ended is not None


def test_the_newest_runs_of_a_line_come_first(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for minute in range(4):
        monkeypatch.setattr(runlog, "_now", lambda minute=minute: f"2026-11-23T10:0{minute}:00+00:00")
        with runlog.run("score", f"lines/{'ab'[minute % 2]}", str(minute)):
            pass
    assert runlog.last("lines/a").source.tolist() == ["2", "0"]
    assert runlog.last(count=3).source.tolist() == ["3", "2", "1"]
    assert runlog.last("lines/c").empty


def test_the_log_is_printed(database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    runs.main("--line", str(ROOT / "lines/a"))
    clock = ["2026-11-23T10:00:00.000+00:00"]
    monkeypatch.setattr(runlog, "_now", lambda: clock[-1])
    with runlog.run("score", "lines/a", "incoming") as entry:
        entry.note(data_hash="0123456789abcdef", model="parts version 3", out="25 samples", verdict="no\n drift")
        clock.append("2026-11-23T10:01:07.200+00:00")
    with pytest.raises(DataError), runlog.run("score", "lines/b", "x" * 80):
        clock.append("2026-11-23T10:01:10.000+00:00")
        raise DataError("b.png cannot be read")
    runs.main("--line", str(ROOT / "lines/a"))
    runs.main("--last", "1")
    said = [row.split("  ") for row in capsys.readouterr().out.splitlines()]
    assert said[0] == ["no run of lines/a is on record"]
    assert [cell.strip() for cell in said[2] if cell] == [
        "2026-11-23 10:00",
        "0:01:07",
        "score",
        "lines/a",
        "done",
        "incoming (0123456789ab)",
        "parts version 3",
        "25 samples; no drift",
    ]
    newest = [cell.strip() for cell in said[4] if cell]
    assert newest == [
        "2026-11-23 10:01",
        "0:00:03",
        "score",
        "lines/b",
        "failed",
        "x" * 59 + "…",
        "b.png cannot be read",
    ]
    assert len(said) == 5


def test_a_killed_run_is_found_by_the_next_one(database: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITS], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    assert runlog.mark_killed() == 0  # it lives
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with runlog.run("score", "lines/a"):
        new, old = runlog.last().sort_values("flow").to_dict("records")
    assert (new["status"], old["status"], old["ended"]) == ("running", "ended by force", None)
    assert old["error"].startswith("its process is gone")


def test_another_process_with_the_pid_of_a_killed_run_is_not_that_run(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with runlog.run("score", "lines/a"):
        created = psutil.Process().create_time()
        with monkeypatch.context() as patch:
            patch.setattr(psutil.Process, "create_time", lambda _: created + 3600)
            assert runlog.mark_killed() == 1
    assert runlog.last().status.tolist() == ["done"]  # it was alive, and says so itself


def test_runs_of_other_machines_are_left_alone(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with runlog.run("score", "lines/a"), monkeypatch.context() as patch:
        patch.setattr(runlog, "_lives", lambda pid, created: False)
        patch.setattr(runlog.socket, "gethostname", lambda: "elsewhere")
        assert runlog.mark_killed() == 0


def test_without_a_database_a_run_goes_on_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASSAY_DATABASE_URL", f"sqlite:///{tmp_path}/missing/assay.db")
    with runlog.run("score", "lines/a") as entry:
        entry.note(model="parts version 3")
        entry.note(out="25 samples")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("the run log misses this run: the database sqlite:///")
    with pytest.raises(RegistryError, match="failed"):
        runlog.last()


def test_a_database_that_comes_back_has_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_DATABASE_URL", f"sqlite:///{tmp_path}/missing/assay.db")
    with runlog.run("score", "lines/a", "batch") as entry:
        entry.note(model="parts version 3")
        (tmp_path / "missing").mkdir()
    row = runlog.last().iloc[0]
    assert (row.status, row.source, row.model) == ("done", "batch", "parts version 3")


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("https://token@host/a.csv?sig=secret#x", "https://***@host/a.csv"),
        ("s3://key:a/b@c@plant/*.png", "s3://key:***@plant/*.png"),
        ("incoming/*.png?", "incoming/*.png?"),
        ("sql:SELECT '://a@b?c'", "sql:SELECT '://a@b?c'"),
    ],
)
def test_a_source_is_logged_without_secrets(named: str, told: str) -> None:
    assert urls.source(named) == told
