"""Every command ends in one sentence and a status when it fails; a defect of ours keeps its traceback."""

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


def test_a_defect_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), one_sentence(tmp_path / "error.log"):
        _ = 1 / 0
