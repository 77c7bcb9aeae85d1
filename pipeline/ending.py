"""How every command of assay ends when something goes wrong: one sentence on stderr, a status that is not zero."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from pipeline.errors import AssayError

LOG = Path(".assay/error.log")
EXPLAINED = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOMEM}
LONGEST = 300  # characters of an error that is not ours


@contextmanager
def one_sentence(log: Path = LOG) -> Iterator[None]:
    """Turn whatever ends a command into one sentence and exit with 1 (130 after Ctrl-C); the traceback goes to `log`.

    What no person can put right is called a defect, and its sentence says where the traceback is; when the log cannot
    be written, the traceback of a defect comes before the sentence."""
    try:
        yield
    except AssayError as error:
        _end(str(error), 1, log)
    except KeyboardInterrupt:
        _end("interrupted; nothing half-made was kept, run it again", 130, log)
    except MemoryError:
        _end("the machine ran out of memory; nothing half-made was kept", 1, log)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in EXPLAINED:
            place = f" ({error.filename})" if error.filename else ""
            said = f"{os.strerror(error.errno)}{place}; nothing half-made was kept, put it right and run it again"
            _end(said, 1, log)
        kept = _keep(log)
        if not kept:
            traceback.print_exc()
        where = f"in {log}" if kept else "above"
        _end(f"unexpected {_told(error)}; this is a defect of assay, the traceback is {where}", 1, log)


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return said if len(said) <= LONGEST else said[: LONGEST - 1] + "…"


def _end(sentence: str, status: int, log: Path) -> NoReturn:
    _keep(log)
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(status)


def _keep(log: Path) -> bool:
    """Write the traceback to `log`; whether that worked: a full disk must not hide the sentence."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        return False
    return True
