"""Who moved a line's champion, when and why: `audit.jsonl` in the line's folder, an entry a line, only appended.

An entry is JSON; its `previous` is the SHA-256 of the line before it (64 zeros in the first), its `hash` that of its
other fields. The registered model remembers the newest entry (its note `assay.audit`, number:hash), so that a trail
that was altered, cut or lost is noticed. An entry is written before aliases move and counts once the registry remembers
it: a killed process leaves at most one line beyond that.

python -m pipeline.audit examples/magnetic_tile
"""

import argparse
import getpass
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from pipeline import params, tracking
from pipeline.ending import one_sentence
from pipeline.errors import LineError, RegistryError
from pipeline.tracking import Registry, Version

FILE = Path("audit.jsonl")
HEAD = "assay.audit"
START = "0" * 64
PROMOTE, ROLLBACK, BY_HAND, APPROVE, REFUSE = "promote", "rollback", "moved by hand", "approve", "refuse"
CALIBRATE = "calibrate"  # other thresholds: from and to are one version


@dataclass(frozen=True)
class Entry:
    """One event; versions and their content hashes are None where there was, or is, no champion."""

    number: int
    when: str  # UTC, ISO 8601
    who: str
    action: str
    name: str  # of the registered model
    from_version: int | None
    to_version: int | None
    from_hash: str | None
    to_hash: str | None
    why: str
    previous: str
    hash: str = ""

    def line(self) -> bytes:
        """The entry as it stands in the file, without the end of the line."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    def sealed(self) -> "Entry":
        """The entry with the hash that belongs to it."""
        return replace(self, hash=sha256(replace(self, hash="").line()).hexdigest())

    def head(self) -> str:
        return f"{self.number}:{self.hash}"


@dataclass
class Trail:
    """The verified trail of a line: the `entries` that count, and what a killed process may have left behind them.

    `pending` is an entry that the registry does not remember yet; `torn` says that the last line has no end."""

    path: Path
    registry: Registry
    name: str
    entries: list[Entry]
    pending: Entry | None = None
    torn: bool = False

    @classmethod
    def open(cls, line: Path, registry: Registry, name: str) -> "Trail":
        """The trail in the folder `line`; hold the registry's lock. Raises LineError when it is not whole."""
        return _verified(cls(line / FILE, registry, name, []), registry.notes(name).get(HEAD))

    @contextmanager
    def entry(
        self, action: str, before: Version | None, after: Version | None, why: str, who: str = ""
    ) -> Iterator[Callable[[], None]]:
        """Write an entry and give the function that makes it count; without that call the line is taken back."""
        if self.torn:
            self.drop()
        if self.registry.notes(self.name).get(HEAD) is None:  # so that a killed process can be told from an old trail
            self._remember(self.entries[-1].head() if self.entries else f"0:{START}")
        entry = Entry(
            number=len(self.entries) + 1,
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            who=_plain(who) or whoami(),
            action=action,
            name=self.name,
            from_version=before and before.number,
            to_version=after and after.number,
            from_hash=before and before.tags.get("content_hash"),
            to_hash=after and after.tags.get("content_hash"),
            why=_plain(why),
            previous=sha256(self.entries[-1].line()).hexdigest() if self.entries else START,
        ).sealed()
        self.pending = entry
        try:
            self._append(entry)
            yield self.count
        finally:
            if self.pending is entry:
                with suppress(RegistryError):  # it may have heard of the entry all the same: the next run looks
                    if self.registry.notes(self.name).get(HEAD) != entry.head():
                        self.drop()

    def note(self, action: str, before: Version | None, after: Version | None, why: str, who: str = "") -> None:
        """An entry about something that moves no alias."""
        with self.entry(action, before, after, why, who) as count:
            count()

    def count(self) -> None:
        """Let the pending entry count."""
        assert self.pending is not None
        self._remember(self.pending.head())
        self.entries.append(self.pending)
        self.pending = None

    def drop(self) -> None:
        """Leave in the file what counts: no pending entry, no torn line, but the end of the last line that counts."""
        if self.path.exists():
            with self.path.open("rb+") as file:
                file.truncate(max(0, sum(len(entry.line()) + 1 for entry in self.entries) - 1))
                file.seek(0, os.SEEK_END)
                file.write(b"\n" if self.entries else b"")
                file.flush()
                os.fsync(file.fileno())
        self.pending, self.torn = None, False

    def _append(self, entry: Entry) -> None:
        new = not self.path.exists()
        with self.path.open("ab") as file:
            file.write(entry.line() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            with suppress(OSError):  # Windows opens no folders
                folder = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def _remember(self, head: str) -> None:
        self.registry.note(self.name, {HEAD: head})


def _verified(trail: Trail, head: str | None) -> Trail:
    """Read the file of `trail` and hold it against what the registry remembers."""
    if head is not None and not re.fullmatch(r"\d+:[0-9a-f]{64}", head):
        raise _broken(trail, f"or the tag of the registry, {head!r}, was altered")
    number, _, known = (head or f"0:{START}").partition(":")
    remembered = int(number)
    *lines, torn = trail.path.read_bytes().split(b"\n") if trail.path.exists() else [b""]
    trail.torn = bool(torn)
    if torn and len(lines) < remembered:  # it counts: it must have been whole, its end only is missing
        lines.append(torn)
    previous = START
    for place, raw in enumerate(lines, 1):
        entry = _read(raw)
        if entry is None or entry.line() != raw or entry.sealed() != entry or entry.number != place:
            raise _broken(trail, f"line {place} was altered")
        if entry.previous != previous:
            raise _broken(trail, f"line {place} does not follow the line before it")
        if place == remembered and entry.hash != known:
            raise _broken(trail, f"line {place} is not the entry that the registry remembers")
        trail.entries.append(entry)
        previous = sha256(raw).hexdigest()
    if len(lines) < remembered:
        what = "was cut" if trail.path.exists() else "is missing"
        raise _broken(trail, f"it {what}: the registry remembers {remembered} lines, line {len(lines) + 1} is gone")
    beyond = [entry for entry in trail.entries[remembered:] if entry.name == trail.name and head is not None]
    if len(beyond) + trail.torn > 1:
        raise _broken(trail, f"line {beyond[0].number + 1} is not known to the registry")
    if beyond and beyond[0] is trail.entries[-1]:
        trail.pending = trail.entries.pop()
    return trail


def _read(raw: bytes) -> Entry | None:
    try:
        found = json.loads(raw)
        return Entry(**found) if isinstance(found, dict) and set(found) == {f.name for f in fields(Entry)} else None
    except ValueError:
        return None


def _broken(trail: Trail, what: str) -> LineError:
    return LineError(
        f"{trail.path} is no longer the trail that promotion wrote, {what}; put it back as it was, or, to begin a new "
        f"one, move it away and remove the tag {HEAD} of {trail.name} in MLflow"
    )


def _plain(text: str) -> str:
    """A text of one line that can be encoded."""
    return " ".join(text.encode(errors="replace").decode().split())


def whoami() -> str:
    """user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without such a user
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"


def table(entries: list[Entry]) -> str:
    """The entries for a console, one a line."""
    rows = [("", "when", "who", "action", "from", "to", "why")]
    for e in entries:
        versions = ("-" if version is None else str(version) for version in (e.from_version, e.to_version))
        rows.append((str(e.number), e.when, e.who, e.action, *versions, e.why))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in rows)


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.audit", description="Verify and show who moved a line's champion, when and why."
    )
    parser.add_argument("line", type=Path, nargs="?", default=Path(), help="the line's folder")
    line = parser.parse_args(words).line
    name = params.read(line / "params.yaml").promote.name
    registry = tracking.connect()
    with registry.exclusive():
        trail = Trail.open(line, registry, name)
    if trail.entries:
        print(table(trail.entries))
    count = f"{len(trail.entries)} {'entry' if len(trail.entries) == 1 else 'entries'}"
    print(f"{line / FILE} is whole: {count}, as the registry remembers them for {name}")
    if trail.pending or trail.torn:
        print(f"line {len(trail.entries) + 1} was left by a process that was ended; the next promotion settles it")


if __name__ == "__main__":
    with one_sentence():
        main(*sys.argv[1:])
