"""One vote, as a line of votes.jsonl: see votes.py."""

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta

from pipeline.errors import DataError

ACCEPT, REJECT, UNSURE, NONE = "accept", "reject", "unsure", ""
VOTES = (ACCEPT, REJECT, UNSURE)
LONGEST = 200  # characters of a name or a defect, as in label_files.py
STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class Vote:
    """Who decided what about a sample. `vote` is one of VOTES, or "" to take the one before back; `time` is UTC.

    `undo`: the time of the vote that this one takes back; `edited`: it comes from labels.csv, changed by hand;
    `labels`: the hash of the labels.csv that belongs to it."""

    id: str
    vote: str
    who: str
    time: str
    defect: str = ""
    undo: str = ""
    edited: bool = False
    labels: str = ""


FIELDS = {field.name: field.type for field in fields(Vote)}


def line(vote: Vote) -> bytes:
    """The line of a vote, without what is empty."""
    given = {key: value for key, value in asdict(vote).items() if value or key == "vote"}
    return (json.dumps(given, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def parsed(line: bytes, where: str) -> Vote:
    """The vote in a line. Raises DataError, naming `where`, for one that is none."""
    try:
        found = Vote(**json.loads(line.decode("utf-8", "surrogatepass")))
        odd = [name for name, kind in FIELDS.items() if not isinstance(getattr(found, name), kind)]
        if odd or found.vote not in (*VOTES, NONE):
            raise ValueError(f"odd {', '.join(odd) or 'vote'}")
        datetime.strptime(found.time, STAMP)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where} must be a vote as the review page writes it: mend it or take it out") from error
    return found


def later(last: str) -> str:
    """The time now, or a moment after `last` where that is not past: so there is always a last vote."""
    now = datetime.now(UTC).strftime(STAMP)
    if now > last:
        return now
    return (datetime.strptime(last, STAMP) + timedelta(microseconds=1)).strftime(STAMP)
