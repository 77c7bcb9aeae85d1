"""A line's scored batches as the review page sees them: listed, opened, kept open."""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import params
from pipeline.errors import DataError
from pipeline.protocols import Look
from pipeline.review import VOTES, WORK, lock_of, pictures, queue
from pipeline.review.models import Scorer
from pipeline.review.queue import DECISIONS, Queue
from pipeline.review.samples import Kept
from pipeline.review.vote import ACCEPT, REJECT, UNSURE
from pipeline.review.votes import CONFLICT, OPEN, Votes

SCORES = Path("scores")
STATES = (OPEN, ACCEPT, REJECT, UNSURE, CONFLICT)
MINE, DECIDED = "mine", "decided"
HELD = 4  # batches that stay open
TURN = 90.0  # seconds for which a sample that one person looks at is not offered to others


@dataclass(frozen=True)
class Entry:
    """A batch in the list: how many samples are flagged, and how many of them are decided (by one vote at least)."""

    name: str
    report: dict[str, Any]
    alarms: int
    reviews: int
    decided: int


class Batch:
    """An open batch: what is to be looked at, the votes on it, its samples."""

    def __init__(self, line: Path, folder: Path, modality: Any, store: pictures.Pictures) -> None:
        self.name, self.folder = folder.name, folder
        self.queue: Queue = queue.read(folder)
        self.kept = Kept(self.queue)
        self.votes = Votes(folder / VOTES, lock_of(folder), self.queue.in_batch)
        self.scorer = Scorer(line, self.queue.report, modality)
        self._modality, self._pictures = modality, store
        self._lock = threading.Lock()
        self._state = np.zeros(len(self.queue), np.int8)  # of STATES
        self._mine: dict[str, set[int]] = {}
        self._applied, self._epoch = 0, -1
        self._drawn: bool | None = None
        self._before: dict[str, tuple[int, float]] = {}  # the sample that each person was shown last, and when

    def refresh(self) -> None:
        """Take in what happened to the votes since. Raises DataError when they cannot be read."""
        self.votes.refresh()
        with self._lock:
            if self.votes.epoch != self._epoch:
                self._epoch, self._applied = self.votes.epoch, 0
                self._state[:], self._mine = 0, {}
            log = self.votes.log
            while self._applied < len(log):
                vote = log[self._applied]
                self._applied += 1
                position = self.queue.position.get(vote.id)
                if position is not None:
                    self._state[position] = STATES.index(self.votes.state(vote.id))
                    stands = vote.who in self.votes.standing(vote.id)
                    mine = self._mine.setdefault(vote.who, set())
                    (mine.add if stands else mine.discard)(position)

    def state(self, position: int) -> str:
        return STATES[self._state[position]]

    def counts(self) -> dict[str, int]:
        """How many samples are in each of STATES."""
        found = np.bincount(self._state, minlength=len(STATES))
        return {state: int(count) for state, count in zip(STATES, found, strict=True)}

    def wanted(self, decision: str, state: str, who: str) -> np.ndarray:
        """Which samples a person asks for, bool `(n,)`; "" for all."""
        found = np.ones(len(self.queue), bool)
        if decision in DECISIONS:
            found &= self.queue.alarm == (decision == REJECT)
        if state in STATES:
            found &= self._state == STATES.index(state)
        elif state == DECIDED:
            found &= self._state > 0
        elif state == MINE:
            mine = np.zeros(len(found), bool)
            mine[list(self._mine.get(who, ()))] = True
            found &= mine
        return found

    def shown(self, position: int, who: str, now: float) -> None:
        """Note that a person looks at a sample; `now` in seconds."""
        self._before[who] = (position, now)

    def undecided(self, decision: str, who: str, now: float) -> np.ndarray:
        """Which samples to offer to a person: nobody has decided on them, nor looks at them, while there are others."""
        found = self.wanted(decision, OPEN, who)
        taken = [p for name, (p, since) in list(self._before.items()) if name != who and now - since < TURN]
        free = found.copy()
        free[taken] = False
        return free if free.any() else found

    def look(self, position: int) -> Look:
        """One sample. Raises DataError with the reason where it cannot be seen."""
        return self._modality.look(self.kept.rows([position]), None)[0]

    def looks(self, positions: list[int]) -> list[Look | None]:
        """Some samples of a kind that has no pictures, None for each that cannot be seen."""
        try:
            return list(self._modality.look(self.kept.rows(positions), None)) if positions else []
        except DataError:
            return [self._look_or_none(position) for position in positions] if len(positions) > 1 else [None]

    def _look_or_none(self, position: int) -> Look | None:
        try:
            return self.look(position)
        except DataError:
            return None

    def drawn(self) -> bool:
        """Whether samples of this kind are pictures; of a batch whose samples are all gone, that they are not."""
        if self._drawn is None:
            looks = (self._look_or_none(position) for position in range(min(len(self.queue), 20)))
            first = None if self.kept.none else next((look for look in looks if look is not None), None)
            if first is None:
                return False
            self._drawn = first.picture is not None
        return self._drawn

    def thumbnail(self, position: int) -> bytes:
        return self._picture(position, "thumb.webp", pictures.thumbnail)

    def picture(self, position: int) -> bytes:
        return self._picture(position, "whole.png", pictures.whole)

    def heat(self, position: int) -> bytes:
        """The heat map as PNG. Raises DataError where there is none."""

        def make() -> bytes:
            local = self.scorer.local(self.kept.rows([position]))
            if local is None:
                raise DataError(self.scorer.why)
            return pictures.heat(local)

        return self._pictures.get(self._name(position, "heat.png"), make)

    def _picture(self, position: int, name: str, encode: Any) -> bytes:
        def make() -> bytes:
            found = self.look(position).picture
            if found is None:
                raise DataError("samples of this kind are not pictures")
            return encode(found)

        return self._pictures.get(self._name(position, name), make)

    def _name(self, position: int, name: str) -> str:
        return f"{queue.key(self.name + '/' + self.queue.ids[position])}-{name}"


class Line:
    """A line's folder. Raises ParamsError when its params cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.modality = params.read(self.folder / "params.yaml").modality
        self._pictures = pictures.Pictures(self.folder / WORK / "pictures")
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[tuple[int, int], Batch]] = OrderedDict()

    def names(self) -> list[str]:
        """All scored batches, the newest first."""
        found = [(path.stat().st_mtime, path.parent.name) for path in (self.folder / SCORES).glob("*/report.json")]
        return [name for _, name in sorted(found, reverse=True) if not name.startswith(".")]

    def newest(self) -> str:
        """The batch that was started last."""
        names = self.names()
        entries = self.entries(names[:HELD])
        return entries[0].name if entries else names[0]

    def entries(self, names: list[str]) -> list[Entry]:
        """What the list says of some batches, those that were started last first."""
        found = []
        for name in names:
            folder = self.folder / SCORES / name
            try:
                report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            counts = report.get("decisions", {})
            decided = 0
            if (folder / VOTES).is_dir():
                batch = self.open(name)
                batch.refresh()
                decided = len(batch.queue) - batch.counts()[OPEN]
            found.append(Entry(name, report, counts.get("reject", 0), counts.get("review", 0), decided))
        return sorted(found, key=lambda entry: entry.report.get("started", ""), reverse=True)

    def open(self, name: str) -> Batch:
        """The batch of this name. Raises DataError when there is none, or its files cannot be read."""
        folder = self.folder / SCORES / name
        if name in ("", ".", "..") or Path(name).name != name or not (folder / "report.json").is_file():
            raise DataError(f"batch must be one that the line has scored, got {name!r}")
        with self._lock:
            stat = (folder / queue.SCORES).stat() if (folder / queue.SCORES).exists() else None
            content = (stat.st_ino, stat.st_mtime_ns) if stat else (0, 0)
            if name not in self._open or self._open[name][0] != content:
                self._open[name] = (content, Batch(self.folder, folder, self.modality, self._pictures))
            self._open.move_to_end(name)
            while len(self._open) > HELD:
                self._open.popitem(last=False)
            return self._open[name][1]
