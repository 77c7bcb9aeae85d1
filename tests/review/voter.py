"""A server of its own that votes: `python -m tests.review.voter FOLDER LOCK WHO COUNT`. It imports little, so it starts
fast."""

import sys
from pathlib import Path

from pipeline.review.votes import Votes


def vote(folder: Path, lock: Path, who: str, count: int) -> None:
    ours = Votes(folder, lock, lambda ids: ids)
    for number in range(count):
        ours.vote(f"{who}-{number}", "reject", who)
        ours.vote("all", "accept" if number % 2 else "reject", who)


if __name__ == "__main__":
    vote(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
