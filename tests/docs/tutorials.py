"""Do what the tutorials say, in a copy of this checkout, and compare what comes out. `make tutorials`

python -m tests.docs.tutorials [docs/tutorials/images.md ...]

A page is worked through from top to bottom, in one bash for each block, from the copy's top folder:

- a block of `sh` is run and must end with status 0;
- a block with `title="FILE"` is written to that file;
- a block of `text` right after one of `sh` is what it prints: its lines come in that order, `...` stands for anything,
  within a line or for any number of lines;
- `<!-- by hand -->` before a block: it needs a person (an editor, a browser) and is left out;
- `<!-- server -->` before a block: it is started, asked for its page once it has named the address, and stopped. PORT
  in its environment is a free one.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import tracked

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/tutorials/images.md", "docs/tutorials/tables.md", "docs/own-detector.md")
FENCE = re.compile(r"^```(?P<info>[^`\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]+)"')
MARK = re.compile(r"<!-- (by hand|server) -->\s*\Z")
OUTSIDE = ("PREFECT_", "MLFLOW_", "DVC_", "ASSAY_", "GIT_")
PATIENCE = 300  # seconds for one block


@dataclass(frozen=True)
class Step:
    """One block of a page: what to do with `body`, and at which line of the page it stands."""

    kind: str  # "run", "write", "server" or "expect"
    body: str
    line: int
    file: str = ""


def steps(text: str) -> Iterator[Step]:
    """What a page asks for, in order. Blocks of other languages without a title are only read."""
    before, end = "", 0
    for found in FENCE.finditer(text):
        words, between = found["info"].split(), text[end : found.start()]
        language, title = words[0] if words else "", TITLE.search(found["info"])
        mark = MARK.search(between)
        line = text.count("\n", 0, found.start()) + 1
        end = found.end()
        kind = ""
        if mark and mark[1] == "by hand":
            pass
        elif title:
            kind = "write"
        elif language == "sh":
            kind = "server" if mark else "run"
        elif language == "text" and before == "run" and not between.strip():
            kind = "expect"
        if kind:
            yield Step(kind, found["body"], line, title[1] if title else "")
        before = kind


def missing(expected: str, said: str) -> str | None:
    """The first line of `expected` that does not come in `said`, in its turn; None when all do."""
    lines, at, anywhere = said.splitlines(), 0, True
    for wanted in expected.splitlines():
        if wanted.strip() == "...":
            anywhere = True
            continue
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.strip().split("...")))
        last = len(lines) if anywhere else min(at + 1, len(lines))
        place = next((i for i in range(at, last) if pattern.fullmatch(lines[i].strip())), None)
        if place is None:
            return wanted
        at, anywhere = place + 1, False
    return None


def copy(to: Path) -> Path:
    """What git tracks or would track, as a repository of its own, with this checkout's environment."""
    place = to / "assay"
    tracked.copy(place)
    (place / ".venv").symlink_to(ROOT / ".venv")
    for name in ("requirements.lock", "pyproject.toml"):
        os.utime(place / name, (0, 0))  # older than the installation, so that make does not ask for another
    return place


def environment(place: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OUTSIDE)}
    who = {f"GIT_{role}_{what}": "tutorial" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = os.pathsep.join([str(place / ".venv/bin"), os.environ["PATH"]])
    home = place.parent / "home"
    home.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        who["PORT"] = str(free.getsockname()[1])
    return kept | who | {"PATH": path, "PYTHONPATH": str(place), "HOME": str(home), "OMP_WAIT_POLICY": "PASSIVE"}


class Failed(Exception):
    """A page and what happened are not the same."""


def run(step: Step, place: Path, around: dict[str, str]) -> str:
    """Run one block; what it printed. Raises Failed when it ends with another status than 0."""
    command = ["bash", "-euo", "pipefail", "-c", step.body]
    done = subprocess.run(
        command, cwd=place, env=around, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE
    )
    if done.returncode:
        raise Failed(f"ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def serve(step: Step, place: Path, around: dict[str, str]) -> str:
    """Start a server, read the page that it names, stop it; what it printed. Raises Failed without a page."""
    server = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", step.body],
        cwd=place,
        env=around | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert server.stdout is not None
    said = ""
    try:
        for line in server.stdout:
            said += line
            address = re.search(r"http://127\.0\.0\.1:\d+\S*", line)
            if address:
                with urllib.request.urlopen(address[0].rstrip(".,;"), timeout=30) as page:
                    page.read()
                return said
        raise Failed(f"named no address:\n{said[-4000:]}")
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.communicate(timeout=60)


def follow(page: str, place: Path) -> None:
    """Work through one page in the copy `place`. Raises Failed with the line of the page."""
    around, said = environment(place), ""
    for step in steps((place / page).read_text(encoding="utf-8")):
        started = time.monotonic()
        try:
            if step.kind == "write":
                (place / step.file).parent.mkdir(parents=True, exist_ok=True)
                (place / step.file).write_text(step.body, encoding="utf-8")
            elif step.kind == "expect":
                absent = missing(step.body, said)
                if absent is not None:
                    raise Failed(f"this line did not come: {absent}\nwhat came:\n{said[-4000:]}")
            else:
                said = serve(step, place, around) if step.kind == "server" else run(step, place, around)
        except (Failed, OSError, subprocess.TimeoutExpired) as error:
            raise Failed(f"{page}:{step.line}: {error}") from error
        if step.kind in ("run", "server"):
            print(f"{time.monotonic() - started:6.1f} s  {page}:{step.line}", flush=True)


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="make tutorials", description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", default=PAGES, help="Markdown files, in the order given")
    parser.add_argument("--in", dest="folder", type=Path, help="keep the copy in this new folder")
    chosen = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="assay-tutorials-", ignore_cleanup_errors=True) as scratch:
        if chosen.folder:
            chosen.folder.mkdir(parents=True)
        place = copy(chosen.folder or Path(scratch))
        around, started = environment(place), time.monotonic()
        begin = "git init --quiet && git add --all && git commit --quiet --message cloned && python -m flows.prepare"
        try:
            run(Step("run", begin, 0), place, around)
            for page in chosen.pages:
                follow(page, place)
        except Failed as error:
            sys.exit(f"error: {error}")
        print(f"{time.monotonic() - started:6.1f} s  in all")


if __name__ == "__main__":
    main(*sys.argv[1:])
