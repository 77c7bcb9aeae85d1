"""Progress of long work: a bar on a terminal, plain lines in a log, nothing for what is short."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

BEAT = 10.0  # seconds between two lines in a log
SHORT = 2.0  # seconds in which work ends without a bar
MARK = "... "  # how a line of progress starts
Item = TypeVar("Item")

_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silent() -> Iterator[None]:
    """Show nothing of the work inside: who asked for it shows its own progress."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


class Progress:
    """How far the work inside `with` has come; `n` of `total` are done.

    `what` names the work, `units` what is counted, in the plural. On a terminal a bar shows itself after `SHORT`
    seconds. Elsewhere lines go to stderr, one every `BEAT` seconds and one at the end, if the work took that long:
    `... score: 1,024 of 2,000 samples (51%), 88/s, 11 s left`."""

    def __init__(self, total: int, what: str, units: str, done: int = 0) -> None:
        self.n, self.total, self.what, self.units = done, total, what, units
        self._bar = None
        self._silent = _silent.get() or total < 2  # a single step has no progress
        self._done = done
        self._started = self._said = monotonic()
        if not self._silent and on_terminal():
            self._bar = tqdm(total=total, initial=done, desc=what, unit=f" {units}", delay=SHORT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        elif error is None and self._said > self._started:
            took = monotonic() - self._started
            self._say(f"{self.n:,} {self.units} in {duration(took)}, {self._rate(took)}")

    def update(self, count: int = 1) -> None:
        """Note that `count` more are done."""
        self.n += count
        if self._bar is not None:
            self._bar.update(count)
        elif not self._silent and (now := monotonic()) - self._said >= BEAT:
            self._said, took = now, now - self._started
            left = duration((self.total - self.n) * took / max(self.n - self._done, 1))
            share = self.n / max(self.total, 1)
            done = f"{self.n:,} of {self.total:,} {self.units} ({share:.0%})"
            self._say(f"{done}, {self._rate(took)}, {left} left")

    def _rate(self, took: float) -> str:
        rate = (self.n - self._done) / max(took, 1e-9)
        return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"

    def _say(self, text: str) -> None:
        print(f"{MARK}{self.what}: {text}", file=sys.stderr, flush=True)


def tracked(items: Iterable[Item], total: int, what: str, units: str) -> Iterator[Item]:
    """The items one by one, with their progress; there are `total`."""
    with Progress(total, what, units) as bar:
        for item in items:
            yield item
            bar.update()


def on_terminal() -> bool:
    """Whether a person sees stderr as it is written, on something that can draw a line over."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def duration(seconds: float) -> str:
    """Seconds for people: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
