"""What a report says, without how it looks: a document of sections, each a list of blocks.

All text is plain text; what shows a document escapes it. Blocks that follow each other and are narrow (charts, facts)
are put side by side where the page is wide enough.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
NONE = "—"  # stands for what is not known
LONGEST = 160  # characters of an id, a path or a value that a cell shows

Tone = Literal["plain", "good", "bad", "note"]


@dataclass(frozen=True)
class Text:
    """One paragraph. `good` and `bad` are verdicts, `note` is an aside in small print."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Numbers:
    """The few key figures of a section, shown large: name, value, and a remark such as its interval ("" for none)."""

    rows: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Facts:
    """Names with their values, in two columns."""

    rows: list[tuple[str, str]]
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under `headings`; the first cell of a row heads it. `right`: columns (from 0) of numbers.

    Whoever makes a table bounds its length; `note` says how many rows more there are and where they lie."""

    headings: list[str]
    rows: list[list[str]]
    caption: str = ""
    right: frozenset[int] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """A matplotlib figure (an object, not pyplot's). `alt` tells its finding to who does not see it."""

    figure: Figure
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture: encoded bytes (PNG, WebP, JPEG) or a file, which may have vanished; then its place says so."""

    image: bytes | Path
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures of one kind, each as wide as the page."""

    pictures: list[Picture]
    caption: str = ""


Block = Text | Numbers | Facts | Table | Chart | Picture | Gallery


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it; a section without blocks is not shown."""

    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """A report. `subtitle` says of what and when, in one line; `footer` stands at the end of the page."""

    title: str
    subtitle: str
    sections: list[Section]
    footer: str = ""


def printable(value: Any) -> Any:
    """Text with what no page can show (control characters, halves of surrogate pairs) as U+FFFD; others as they are."""
    return UNPRINTABLE.sub("\ufffd", value) if isinstance(value, str) else value


def short(text: str, most: int = LONGEST) -> str:
    """Text of at most `most` characters: a longer one loses its middle."""
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[: most - 3 - half]} … {text[len(text) - half :]}"
