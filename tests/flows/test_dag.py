"""Order, concurrency, failure and staleness of stages, with real DVC repositories and a real Prefect server."""

import os
import signal
from pathlib import Path

import pytest
import yaml

from flows import dag
from flows.dag import RAN, RESTORED, UP_TO_DATE
from pipeline.errors import LineError
from tests.flows.conftest import WAIT, Toy, make, stage, until
from tests.flows.toy import reproduce

FILES = ("first.txt", "parts/left.txt", "parts/right.txt", "last.txt")


def test_needs_come_from_dvc_folders_and_loops_included(tmp_path: Path) -> None:
    toy = make(
        tmp_path / "line",
        {
            "publish": stage("publish", "receipt.txt", "models"),
            "fit": {
                "foreach": ["b", "a"],
                "do": {"cmd": "python stage.py fit", "deps": ["raw.txt"], "outs": ["models/${item}"]},
            },
        },
    )
    needs, stale = dag.read(toy.folder)
    assert list(needs.items()) == [("fit@a", []), ("fit@b", []), ("publish", ["fit@a", "fit@b"])]
    assert stale == {"fit@a", "fit@b", "publish"}


def test_the_order_does_not_depend_on_the_current_folder(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from_here = dag.read(toy.folder)
    monkeypatch.chdir(toy.folder)
    assert dag.read(toy.folder) == from_here
    assert from_here[1] == {"first", "left", "right", "last"}


def test_raw_data_under_dvc_is_a_stage(tmp_path: Path) -> None:
    toy = make(tmp_path / "line", {"read": stage("read", "out.txt", "data/raw.csv")})
    (toy.folder / "data").mkdir()
    toy.write("data/raw.csv", "1\n")
    toy.write("data/raw.csv.dvc", "outs:\n- md5: b026324c6904b2a9cb4b88d6d61c81d1\n  path: raw.csv\n")
    assert dag.read(toy.folder)[0] == {"data/raw.csv.dvc": [], "read": ["data/raw.csv.dvc"]}


def test_a_folder_that_is_no_line_is_named(tmp_path: Path, toy: Toy) -> None:
    (toy.folder / "below").mkdir()
    with pytest.raises(LineError, match="below is not a line: it has no .dvc folder"):
        dag.read(toy.folder / "below")
    toy.write("dvc.yaml", "stages: [")
    with pytest.raises(LineError, match=r"DVC cannot read the line in .*dvc\.yaml"):
        dag.read(toy.folder)


def test_stages_run_after_what_they_need_and_not_again(toy: Toy) -> None:
    assert set(reproduce(toy.folder).values()) == {RAN}
    ran = toy.ran()
    assert (ran[0], set(ran[1:3]), ran[3:]) == ("first", {"left", "right"}, ["last"])
    assert "wrote first.txt" in toy.text(".assay/logs/first.log")
    for log in (toy.folder / dag.LOGS).iterdir():
        log.unlink()
    assert set(reproduce(toy.folder).values()) == {UP_TO_DATE}
    assert toy.ran() == []
    assert list((toy.folder / dag.LOGS).iterdir()) == []  # no process was started
    (toy.folder / "first.txt").unlink()
    assert reproduce(toy.folder)["first"] == RESTORED
    assert toy.ran() == []


def test_progress_comes_to_the_console_and_is_not_what_a_stage_says_of_its_result(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "... score: 8 of 16 samples (50%), 1.0/s, 8 s left"
    toy.write("left.do", f"sys.stderr.write('  3%\\r 80%\\r'); print('{told}', flush=True)")
    reproduce(toy.folder)
    said = [row for row in capsys.readouterr().out.splitlines() if row.startswith("left ")]
    assert said[0] == f"{'left':<28}{told.removeprefix('... ')}"
    assert said[1].endswith(" s  wrote parts/left.txt")
    assert len(said) == 2
    log = toy.text(".assay/logs/left.log")
    assert told in log.splitlines()
    assert "80%" not in log


def test_independent_stages_run_side_by_side(toy: Toy) -> None:
    for one, other in (("left", "right"), ("right", "left")):  # each waits for the other
        toy.write(f"{one}.do", f"Path('{one}.on').touch()\nwhile not Path('{other}.on').exists(): time.sleep(0.05)\n")
    assert reproduce(toy.folder, jobs=2)["last"] == RAN


def test_jobs_limits_how_many(toy: Toy) -> None:
    busy = "assert not Path('busy').exists()\nPath('busy').touch(); time.sleep(0.5); Path('busy').unlink()\n"
    toy.write("left.do", busy)
    toy.write("right.do", busy)
    assert reproduce(toy.folder, jobs=1)["last"] == RAN


def test_dvc_decides_again_when_something_upstream_has_run(toy: Toy) -> None:
    reproduce(toy.folder)
    toy.ran()
    toy.write("raw.txt", "other")
    toy.write("first.do", "given = ['stage.txt']; Path('stage.txt').write_text('raw')")  # the same output as before
    assert reproduce(toy.folder) == {"first": RAN, "left": UP_TO_DATE, "right": UP_TO_DATE, "last": UP_TO_DATE}
    assert toy.ran() == ["first"]
    toy.write("raw.txt", "third")
    toy.write("first.do", "")
    (toy.folder / "parts/left.txt").unlink()
    assert set(reproduce(toy.folder).values()) == {RAN}
    assert toy.text("last.txt") == str([Path("parts/left.txt"), Path("parts/right.txt")])


def test_a_failure_names_the_stage_and_its_sentence_and_the_rest_goes_on(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.write("left.do", "sys.exit('error: mask.png must be 8 x 8, got 9 x 9')")
    with pytest.raises(LineError) as caught:
        reproduce(toy.folder)
    assert str(caught.value) == "left failed: mask.png must be 8 x 8, got 9 x 9 (log: .assay/logs/left.log)"
    assert sorted(toy.ran()) == ["first", "left", "right"]
    assert toy.text("parts/right.txt") == "raw"
    said = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert ["left", "failed"] in said
    assert ["last", "not", "run"] in said
    (toy.folder / "left.do").unlink()
    assert reproduce(toy.folder) == {"first": UP_TO_DATE, "right": UP_TO_DATE, "left": RAN, "last": RAN}


def test_a_crash_shows_the_last_lines_and_two_failures_are_both_told(toy: Toy) -> None:
    toy.write("left.do", "print('reading the scale', flush=True); 1 / 0")
    toy.write("right.do", "sys.exit('error: no such column')")
    with pytest.raises(LineError) as caught:
        reproduce(toy.folder)
    said = str(caught.value)
    assert said.startswith("2 stages failed; left failed: status 255, its last lines:")
    assert "ZeroDivisionError: division by zero" in said
    assert "right failed: no such column" in said


def test_what_dvc_itself_refuses_is_its_sentence(toy: Toy) -> None:
    (toy.folder / "raw.txt").unlink()
    with pytest.raises(LineError, match=r"^first failed: .*raw\.txt"):
        reproduce(toy.folder)


def test_a_registry_that_is_down_for_a_moment_is_asked_again(toy: Toy) -> None:
    down = "error: the MLflow server at http://127.0.0.1:9 does not answer"
    toy.write("last.do", f"if not Path('asked').exists(): Path('asked').touch(); sys.exit('{down}')")
    assert reproduce(toy.folder)["last"] == RAN
    assert toy.ran().count("last") == 2


@pytest.mark.parametrize("half", ["", '{"read": {}, "wri'])
def test_a_kill_that_cut_dvc_s_own_note_short_is_healed(toy: Toy, half: str) -> None:
    (toy.folder / ".dvc/tmp").mkdir(exist_ok=True)
    toy.write(".dvc/tmp/rwlock", half)
    assert set(reproduce(toy.folder).values()) == {RAN}


def test_ctrl_c_leaves_no_process_and_the_rerun_gives_identical_files(toy: Toy, tmp_path: Path) -> None:
    toy.write("left.do", WAIT)
    process = toy.start()
    until(lambda: toy.text("left.pid"), "the stage to start")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "error: interrupted; nothing half-made was kept, run it again"
    assert not _lives(int(toy.text("left.pid")))
    assert not (toy.folder / "parts/left.txt").exists()
    toy.write("go", "")
    reproduce(toy.folder)
    whole = make(tmp_path / "whole", yaml.safe_load(toy.text("dvc.yaml"))["stages"])
    reproduce(whole.folder)
    assert {name: toy.text(name) for name in FILES} == {name: whole.text(name) for name in FILES}
    assert yaml.safe_load(toy.text("dvc.lock")) == yaml.safe_load(whole.text("dvc.lock"))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_second_run_of_a_line_waits_for_the_first(toy: Toy) -> None:
    toy.write("left.do", WAIT)
    first = toy.start()
    until(lambda: toy.text("left.pid"), "the first run")
    second = toy.start()
    assert second.stdout is not None
    told = second.stdout.readline()
    assert told.endswith("is at work; this one waits for it to end\n"), told
    toy.write("go", "")
    one, _ = first.communicate(timeout=120)
    other, _ = second.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0), one + other
    assert sorted(toy.ran()) == ["first", "last", "left", "right"]
    assert other.count(UP_TO_DATE) == 4
