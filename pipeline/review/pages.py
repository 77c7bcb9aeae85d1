"""What each page shows, as plain values for its template."""

import math
import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np

from pipeline.errors import DataError
from pipeline.protocols import Look
from pipeline.review.batches import DECIDED, MINE, STATES, Batch, Line
from pipeline.review.queue import DECISIONS, ORDERS
from pipeline.review.vote import LONGEST, REJECT, UNSURE
from pipeline.review.votes import CONFLICT, OPEN

PAGE = 60  # samples on one page of the grid
LISTED = 50  # batches on one page of the list
FIELDS = 4  # columns of a row that the grid shows
BEFORE, AFTER = 2, 5  # neighbours of a sample
NOTICED = 120.0  # seconds that a notice stays
SORTED = {"uncertain": "Most uncertain", "score": "Highest score", "order": "As they came"}
DECIDED_AS = {"": "All", REJECT: "Alarms", "review": "Review band"}
SHOWN = {"": "All", OPEN: "Undecided", DECIDED: "Decided", MINE: "Mine", UNSURE: "Unsure", CONFLICT: "Disagreement"}


@dataclass(frozen=True)
class Asked:
    """What a person asks for: an order, which decisions and states ("" for all), a page of the grid (from 1)."""

    sort: str = ORDERS[0]
    decision: str = ""
    state: str = ""
    page: int = 1

    @classmethod
    def read(cls, query: Any) -> "Asked":
        """What an address asks for; what it does not know is left out."""
        sort, decision, state = (query.get(name, "") for name in ("sort", "decision", "state"))
        page = query.get("page", "1")
        return cls(
            sort if sort in ORDERS else ORDERS[0],
            decision if decision in DECISIONS else "",
            state if state in (*STATES, DECIDED, MINE) else "",
            max(1, int(page)) if re.fullmatch(r"[0-9]{1,9}", page) else 1,
        )

    def query(self) -> str:
        kept = {name: value for name, value in vars(self).items() if value != getattr(Asked(), name)}
        return f"?{urlencode(kept)}" if kept else ""


def plain(text: str) -> str:
    """A name or a defect as it is kept: printable, on one line, not a formula of a spreadsheet."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split()).lstrip("=+-@ ")[:LONGEST].strip()


def number(value: float, *others: float) -> str:
    """A figure with four digits, or as many as tell it from others."""
    if not math.isfinite(value):
        return "unknown"
    apart = [digits for digits in range(4, 10) if all(f"{value:.{digits}g}" != f"{o:.{digits}g}" for o in others)]
    return f"{value:.{apart[0] if apart else 9}g}"


def address(batch: str, *parts: str, asked: Asked | None = None) -> str:
    """The path of a batch's page, or of one below it."""
    return "/".join(["/b", quote(batch, safe=""), *parts]) + (asked.query() if asked else "")


def progress(batch: Batch) -> dict[str, Any]:
    """Counts of states, and the parts of the progress bar in thousandths: class, from, width."""
    counts, total = batch.counts(), len(batch.queue)
    bars, start = [], 0.0
    for state in STATES[1:]:
        width = 1000 * counts[state] / total if total else 0
        bars.append({"state": state, "x": round(start, 2), "width": round(width, 2)})
        start += width
    return {"counts": counts, "total": total, "decided": total - counts[OPEN], "bars": bars}


def frame(batch: Batch, who: str, now: float) -> dict[str, Any]:
    """What every page of a batch shows: its name, progress, what is wrong with the labels file."""
    said, when = batch.votes.notice
    return {
        "batch": batch.name,
        "home": address(batch.name),
        "progress": progress(batch),
        "who": who,
        "warning": batch.votes.warning,
        "notice": said if now - when < NOTICED else "",
        "can_undo": batch.votes.can_undo(who),
        "undo": address(batch.name, "undo"),
        "now": address(batch.name, "now"),
    }


def batches(line: Line, page: int) -> dict[str, Any]:
    """The list of batches."""
    names = line.names()
    some = names[(page - 1) * LISTED : page * LISTED]
    return {
        "line": line.folder.name,
        "entries": [(entry, address(entry.name)) for entry in line.entries(some)],
        "page": page,
        "pages": max(1, -(-len(names) // LISTED)),
        "total": len(names),
    }


def grid(batch: Batch, asked: Asked, who: str) -> dict[str, Any]:
    """One page of thumbnails, or of rows."""
    found = batch.queue.select(asked.sort, batch.wanted(asked.decision, asked.state, who))
    pages = max(1, -(-len(found) // PAGE))
    asked = replace(asked, page=min(asked.page, pages))
    some = [int(position) for position in found[(asked.page - 1) * PAGE : asked.page * PAGE]]
    drawn = batch.drawn() if some else False
    looks = [None] * len(some) if drawn or batch.kept.none else batch.looks(some)
    cards = [card(batch, p, asked) | {"fields": _few(batch, p, look)} for p, look in zip(some, looks, strict=True)]

    def choices(name: str, options: dict[str, str]) -> list[dict[str, Any]]:
        return [
            {
                "name": text,
                "url": address(batch.name, asked=replace(asked, **{name: value, "page": 1})),
                "on": getattr(asked, name) == value,
            }
            for value, text in options.items()
        ]

    def turned(to: int) -> str | None:
        return address(batch.name, asked=replace(asked, page=to)) if 1 <= to <= pages and to != asked.page else None

    return {
        "cards": cards,
        "drawn": drawn,
        "found": len(found),
        "asked": asked,
        "pages": pages,
        "turn": {"first": turned(1), "previous": turned(asked.page - 1), "next": turned(asked.page + 1)}
        | {"last": turned(pages)},
        "first": (asked.page - 1) * PAGE + 1,
        "choices": [
            ("Sort", choices("sort", SORTED)),
            ("Decision", choices("decision", DECIDED_AS)),
            ("Show", choices("state", SHOWN)),
        ],
        "start": address(batch.name, "start", asked=replace(asked, page=1)),
        "unkept": batch.kept.none,
    }


def card(batch: Batch, position: int, asked: Asked) -> dict[str, Any]:
    """One sample in the grid or among the neighbours of another."""
    queue, key = batch.queue, batch.queue.keys[position]
    alarm = bool(queue.alarm[position])
    return {
        "id": queue.ids[position],
        "key": key,
        "url": address(batch.name, "s", key, asked=asked),
        "thumbnail": address(batch.name, "s", key, "thumb.webp"),
        "alarm": alarm,
        "decision": DECISIONS["reject" if alarm else "review"],
        "score": number(float(queue.score[position])),
        "p_value": number(float(queue.p_value[position])),
        "state": batch.state(position),
    }


def _few(batch: Batch, position: int, look: Look | None) -> list[tuple[str, str]]:
    """The columns that say the most about a row: those behind the alarm, then the first ones."""
    reasons = [(reason["column"], reason["value"]) for reason in batch.queue.reasons(position)]
    named = {name for name, _ in reasons}
    fields = [] if look is None else [field for field in look.fields if field[0] not in named]
    return [*reasons, *fields][:FIELDS]


def sample(batch: Batch, position: int, asked: Asked, who: str) -> dict[str, Any]:
    """One sample to decide on."""
    queue, votes = batch.queue, batch.votes.standing(batch.queue.ids[position])
    try:
        rows, gone = batch.kept.rows([position]), ""
        look = batch.look(position)
    except DataError as error:
        rows, look, gone = None, Look(), str(error)
    drawn = look.picture is not None
    if drawn:
        batch.scorer.wake()
    wanted = batch.wanted(asked.decision, asked.state, who)
    order = queue.select(asked.sort, wanted | (np.arange(len(queue)) == position))
    place = int(np.flatnonzero(order == position)[0])
    around = [int(one) for one in order[max(0, place - BEFORE) : place + AFTER + 1]]
    reasons = queue.reasons(position)
    most = max((abs(reason["adds"]) for reason in reasons), default=1.0) or 1.0
    named = {reason["column"] for reason in reasons}
    key = queue.keys[position]

    def neighbour(step: int) -> dict[str, Any] | None:
        there = place + step
        return card(batch, int(order[there]), asked) if 0 <= there < len(order) else None

    following = neighbour(1)
    return {
        "card": card(batch, position, asked),
        "place": place + 1,
        "of": len(order),
        "previous": neighbour(-1),
        "next": following,
        "ahead": address(batch.name, "s", following["key"]) if following and drawn else "",
        "around": [card(batch, one, asked) | {"here": one == position} for one in around],
        "gone": gone,
        "drawn": drawn,
        "size": None if look.picture is None else (look.picture.shape[1], look.picture.shape[0]),
        "picture": address(batch.name, "s", key, "whole.png"),
        "heat": address(batch.name, "s", key, "heat.png"),
        "model": {"state": batch.scorer.state, "why": batch.scorer.why},
        "fields": [field for field in look.fields if field[0] not in named],
        "reasons": [reason | {"width": round(100 * abs(reason["adds"]) / most, 1)} for reason in reasons],
        "gauge": _gauge(batch, position, batch.scorer.limits(rows)),
        "promise": queue.report.get("promise", ""),
        "rate": queue.report.get("false_discovery_rate"),
        "votes": sorted(votes.values(), key=lambda vote: vote.time),
        "mine": votes.get(who),
        "vote": address(batch.name, "s", key, "vote", asked=asked),
        "grid": address(batch.name, asked=replace(asked, page=place // PAGE + 1)),
        "defects": batch.votes.defects(),
        "asked": asked,
    }


def _gauge(batch: Batch, position: int, limits: dict[str, float | None] | None) -> dict[str, Any]:
    """Where a score lies, on a scale from 0 to 100 over the scores of most flagged samples, and the thresholds."""
    scores, here = batch.queue.score, float(batch.queue.score[position])
    alarm, review = (limits[name] if limits else None for name in ("alarm", "review"))
    ends = [float(scores.min()), float(np.quantile(scores, 0.98)), here]
    ends += [limit for limit in (alarm, review) if limit is not None]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def apart(value: float, *others: float | None) -> str:
        return number(value, *(o for o in others if o is not None and np.float32(o) != np.float32(value)))

    def at(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - low) / span, 2)

    return {
        "text": apart(here, alarm, review),
        "score": at(here),
        "alarm": at(alarm),
        "review": at(review),
        "alarm_text": None if alarm is None else apart(alarm, here),
        "review_text": None if review is None else apart(review, here),
    }
