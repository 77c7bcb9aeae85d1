"""Votes of people on the samples of a batch, in the folder `scores/BATCH/review`, and the labels file made of them.

votes.jsonl   one line a vote, only ever added to: id, vote (accept, reject or unsure; "" takes the one before back),
              defect, who, time (UTC); `undo`, the time of the vote that this line takes back; `edited`, true for what
              was changed in labels.csv by hand; `labels`, the hash of the labels.csv that belongs to the line
labels.csv    accepted samples with label 0 and rejected ones with 1, as `make labels` takes them: see labels_csv.py
edited/       every labels.csv that someone changed by hand, as it was

Several people and several servers may vote at once: each takes the lock and reads what others added first. A vote is on
disk, in both files, when `vote` returns. A last line without its end was being written by someone who was killed: the
next vote cuts it.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from pipeline.errors import DataError
from pipeline.files import whole_file
from pipeline.review import labels_csv
from pipeline.review import vote as lines
from pipeline.review.vote import ACCEPT, NONE, REJECT, UNSURE, VOTES, Vote

OPEN, CONFLICT = "open", "conflict"  # states of a sample besides the votes
LOG, LABELS, EDITED = "votes.jsonl", "labels.csv", "edited"
SETTLED = 0.3  # seconds after which a file that someone else writes is taken to be whole
PATIENCE = 30  # seconds that a vote waits for others


class Votes:
    """The votes on one batch. `log` holds every line so far, in order; `warning` says what is wrong with labels.csv, ""
    where nothing is; `notice` what was last taken in from it, and when.

    `known` gives those of some ids that the batch holds."""

    def __init__(self, folder: Path, lock: Path, known: Callable[[set[str]], set[str]]) -> None:
        self.folder, self.batch = folder, folder.parent.name
        self.warning, self.notice = "", ("", 0.0)
        self._known = known
        self._lock, self._thread, self.epoch = lock, threading.RLock(), 0
        self._forget()

    def _forget(self) -> None:
        self.epoch += 1
        self._last = ""  # time of the latest vote
        self.log: list[Vote] = []
        self._given: dict[str, dict[str, list[Vote]]] = {}  # id -> who -> votes not undone, the last one stands
        self._done: dict[str, list[Vote]] = {}  # who -> what undo takes back, the last one first
        self._times: set[tuple[str, str, str]] = set()  # id, who and time of all that was ever a vote
        self._ours: set[str] = set()  # hashes of every labels.csv that we wrote
        self._rows: dict[tuple[str, str], tuple[str, str]] = {}  # (id, who) -> time and line in labels.csv
        self._read, self._inode = 0, 0  # bytes of votes.jsonl that are in here, of which file
        self._seen: tuple[int, ...] | None = None  # labels.csv when it was last looked at

    def refresh(self) -> None:
        """Take in what others voted, and what was changed in labels.csv by hand.

        Raises DataError when votes.jsonl holds a line that is none."""
        with self._thread:
            self._tail()
            if self._stale():
                with self._alone():
                    self._settle()

    def vote(self, id: str, vote: str, who: str, defect: str = "") -> Vote:
        """Give a vote; the same vote again changes nothing. The line that stands.

        Raises DataError when it cannot be kept."""
        if vote not in VOTES:
            raise DataError(f"a vote must be one of {', '.join(VOTES)}, got {vote!r}")
        if not who:
            raise DataError("a vote needs the name of who gives it, got none")
        with self._thread, self._alone():
            self._settle()
            before = self.standing(id).get(who)
            if before and (before.vote, before.defect) == (vote, defect if vote == REJECT else ""):
                return before
            given = Vote(id, vote, who, lines.later(self._last), defect if vote == REJECT else "")
            self._add([given])
            return given

    def undo(self, who: str) -> str | None:
        """Take back the last vote that `who` gave here and has not taken back yet; the id of its sample."""
        with self._thread, self._alone():
            self._settle()
            if not self._done.get(who):
                return None
            last = self._done[who][-1]
            self._add([Vote(last.id, NONE, who, lines.later(self._last), undo=last.time)])
            return last.id

    def standing(self, id: str) -> dict[str, Vote]:
        """The vote of each person on a sample that stands."""
        with self._thread:
            last = {who: votes[-1] for who, votes in self._given.get(id, {}).items() if votes}
            return {who: vote for who, vote in last.items() if vote.vote != NONE}

    def state(self, id: str) -> str:
        """`open`, the vote on a sample, or `conflict` where people disagree; unsure ones leave it to the others."""
        given = {vote.vote for vote in self.standing(id).values()}
        firm = given - {UNSURE}
        return CONFLICT if len(firm) == 2 else next(iter(firm or given), OPEN)

    def can_undo(self, who: str) -> bool:
        """Whether there is a vote of `who` to take back."""
        return bool(self._done.get(who))

    def people(self) -> list[str]:
        """Who has voted here."""
        with self._thread:
            return sorted({vote.who for vote in self.log})

    def defects(self) -> list[str]:
        """Names of defects that were given here, the latest first."""
        with self._thread:
            return list(dict.fromkeys(vote.defect for vote in reversed(self.log) if vote.defect))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock, with all that others added read."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._lock, timeout=PATIENCE):
                self._tail()
                yield
        except OSError as error:
            self._forget()  # what is in memory may not be on disk
            raise DataError(f"votes cannot be kept now: {error.strerror or error} ({self.folder / LOG})") from error

    def _tail(self) -> None:
        """Read the lines that were added, up to the last one that has its end."""
        try:
            with (self.folder / LOG).open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._read:  # another file than before
                    self._forget()
                    self._inode = stat.st_ino
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            if self._read:
                self._forget()
            return
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines(keepends=True):
            self._apply(lines.parsed(line, f"line {len(self.log) + 1} of {self.folder / LOG}"))
            self._read += len(line)

    def _apply(self, vote: Vote) -> None:
        """Let one line count."""
        self.log.append(vote)
        self._last = max(self._last, vote.time)
        own = self._given.setdefault(vote.id, {}).setdefault(vote.who, [])
        done = self._done.setdefault(vote.who, [])
        if vote.undo:
            own[:] = [one for one in own if one.time != vote.undo]
            done[:] = [one for one in done if one.time != vote.undo]
        else:
            own.append(vote)
            self._times.add((vote.id, vote.who, vote.time))
            if not vote.edited:
                done.append(vote)
        if vote.labels:
            self._ours.add(vote.labels)
        stands = own[-1] if own else None
        if stands and stands.vote in (ACCEPT, REJECT):
            self._rows[vote.id, vote.who] = (stands.time, labels_csv.line(stands, self.batch))
        else:
            self._rows.pop((vote.id, vote.who), None)

    def _add(self, votes: list[Vote]) -> None:
        """Write lines to votes.jsonl and then labels.csv, unless that waits to be mended; in memory if that went well.

        Whoever is killed in between leaves a labels.csv that the next one knows as ours, and brings up to date."""
        for vote in votes:
            self._apply(vote)
        content = labels_csv.text(self._rows)
        marked = labels_csv.digest(content) if not self.warning else ""
        data = b"".join(map(lines.line, [*votes[:-1], replace(votes[-1], labels=marked)]))
        path = self.folder / LOG
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(self._read)  # without the half line of someone who was killed
            file.seek(self._read)
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(self._read)
                raise
            self._inode = os.fstat(file.fileno()).st_ino
        self._read += len(data)
        self._ours.add(marked)
        if not self.warning:
            self._write(content)

    def _write(self, content: bytes) -> None:
        """Bring labels.csv up to date; the votes are safe where that fails."""
        try:
            with whole_file(self.folder / LABELS) as partial, partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.warning = f"{LABELS} could not be written ({error.strerror}); the votes themselves are in {LOG}"
            self._seen = (-1,)  # to be tried again
            return
        self._seen = self._look()

    def _look(self) -> tuple[int, ...] | None:
        try:
            stat = (self.folder / LABELS).stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _stale(self) -> bool:
        """Whether labels.csv is another than when it was last looked at, or is missing."""
        return self._look() != self._seen or (self._seen is None and bool(self._rows))

    def _settle(self) -> None:
        """Under the lock: take in what was changed in labels.csv by hand, else bring it up to date."""
        if not self._stale():
            return
        data, self._seen = self._whole()
        current = labels_csv.text(self._rows)
        self.warning = ""
        if data == current or (data is None and not self.log):
            return
        if data is not None and labels_csv.digest(data) not in self._ours:
            try:
                edit = labels_csv.edit(data, self.batch, self._rows, self._times, self._known)
            except DataError as error:
                self.warning = (
                    f"{LABELS} was changed by hand and cannot be taken in: {error}; votes are kept in {LOG}, and "
                    f"{LABELS} follows when it is mended or removed"
                )
                return
            copy = self.folder / EDITED / f"labels-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.csv"
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(data)
            now = lines.later(self._last)
            votes = [Vote(*key, min(given or now, now), defect, edited=True) for *key, defect, given in edit.votes]
            self.notice = (edit.says(), time.time())
            if votes:
                self._add(votes)
                return
        self._write(current)

    def _whole(self) -> tuple[bytes | None, tuple[int, ...] | None]:
        """The bytes of labels.csv, when nobody seems to be writing it any more."""
        while True:
            seen = self._look()
            if seen is None:
                return None, None
            age = time.time() - seen[2] / 1e9
            if 0 <= age < SETTLED:
                time.sleep(SETTLED - age)
            with suppress(FileNotFoundError):
                data = (self.folder / LABELS).read_bytes()
                if self._look() == seen:
                    return data, seen
