"""How every command of assay ends when something goes wrong: one sentence on stderr, a status that is not zero."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import AssayError

LOG = Path(".assay/error.log")
EXPLAINED = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOMEM}


@contextmanager
def one_sentence(log: Path = LOG) -> Iterator[None]:
    """Turn what a person can put right into one sentence and exit with 1 (130 after Ctrl-C).

    The traceback goes to `log`. Anything else is a defect of ours and keeps its traceback."""
    try:
        yield
    except AssayError as error:
        _end(str(error), 1, log)
    except KeyboardInterrupt:
        _end("interrupted; nothing half-made was kept, run it again", 130, log)
    except MemoryError:
        _end("the machine ran out of memory; nothing half-made was kept", 1, log)
    except OSError as error:
        if error.errno not in EXPLAINED:
            raise
        place = f" ({error.filename})" if error.filename else ""
        _end(f"{os.strerror(error.errno)}{place}; nothing half-made was kept, put it right and run it again", 1, log)


def _end(sentence: str, status: int, log: Path) -> None:
    with suppress(OSError):  # a full disk must not hide the sentence
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc(), encoding="utf-8")
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(status)
