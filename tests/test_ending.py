"""Every command ends in one sentence and a status when it fails; the traceback is in a log."""

import errno
import os
from pathlib import Path

import pytest

from pipeline.ending import one_sentence
from pipeline.errors import DataError


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (DataError("x.png must be an image"), 1, "error: x.png must be an image\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing half-made was kept, run it again\n"),
        (MemoryError(), 1, "error: the machine ran out of memory; nothing half-made was kept\n"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.bin"),
            1,
            "error: No space left on device (a.bin); nothing half-made was kept, put it right and run it again\n",
        ),
    ],
)
def test_what_a_person_can_put_right_is_one_sentence(
    error: BaseException, status: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, one_sentence(tmp_path / "logs/error.log"):
        raise error
    assert end.value.code == status
    assert capsys.readouterr().err == sentence
    assert type(error).__name__ in (tmp_path / "logs/error.log").read_text()


def test_a_log_that_cannot_be_written_does_not_hide_the_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit), one_sentence(tmp_path / "file/error.log"):
        raise DataError("said")
    assert capsys.readouterr().err == "error: said\n"


def test_a_defect_is_one_sentence_that_says_where_its_traceback_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs/error.log"
    with pytest.raises(SystemExit) as end, one_sentence(log):
        _ = {}["gone"]
    assert end.value.code == 1
    said = f"error: unexpected KeyError: 'gone'; this is a defect of assay, the traceback is in {log}\n"
    assert capsys.readouterr().err == said
    kept = log.read_text()
    assert kept.startswith("Traceback (most recent call last):")
    assert '_ = {}["gone"]' in kept


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EINVAL, "bad seek"), "OSError: [Errno 22] bad seek"),
        (RuntimeError("two\n  lines"), "RuntimeError: two lines"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 287}…"),
    ],
)
def test_a_defect_is_told_on_one_line(
    error: Exception, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), one_sentence(tmp_path / "error.log"):
        raise error
    assert capsys.readouterr().err.startswith(f"error: unexpected {told}; this is a defect")


def test_a_defect_whose_log_cannot_be_written_shows_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit), one_sentence(tmp_path / "file/error.log"):
        _ = 1 / 0
    *rest, last = capsys.readouterr().err.splitlines()
    assert rest[0] == "Traceback (most recent call last):"
    assert last == "error: unexpected ZeroDivisionError: division by zero; " + (
        "this is a defect of assay, the traceback is above"
    )


def test_a_command_that_ends_by_itself_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end, one_sentence(tmp_path / "error.log"):
        raise SystemExit(3)
    assert end.value.code == 3
    assert not (tmp_path / "error.log").exists()
