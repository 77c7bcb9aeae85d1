"""What commands say to a person: in colour on a terminal, plain where output is piped or NO_COLOR is set.

A colour only stresses what a word says already; the sixteen colours are those that the terminal's owner has chosen.
"""

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

GOOD, BAD, NOTE, HEADING = "bold green", "bold red", "bold yellow", "bold"
LEAST = 24  # columns that a cell of text gets before a table falls apart into blocks
GAP = 2  # columns between two cells
Row = dict[str, str]
Tone = Callable[[Row, str], str]


def width() -> int | None:
    """How many columns the terminal has that stdout is; None without one, or where nobody wants colours."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def plain(row: Row, heading: str) -> str:
    """The tone of cells that nothing stresses."""
    return ""


def table(rows: list[Row], texts: set[str], tone: Tone = plain, wide: int | None = None) -> str:
    """Rows under the headings that are their keys; `texts` stand on the left, numbers on the right.

    With a terminal's width `wide` a cell has the colour `tone(row, heading)`, and every row is a block of lines where
    the table does not fit. Without, it is plain text, as wide as it comes."""
    if wide is not None:
        return _coloured(rows, texts, tone, wide)
    widths = {heading: max(len(heading), *(len(row[heading]) for row in rows)) for heading in rows[0]}
    return "\n".join(
        "  ".join(row[h].ljust(size) if h in texts else row[h].rjust(size) for h, size in widths.items()).rstrip()
        for row in [{heading: heading for heading in widths}, *rows]
    )


def sentence(text: str, tones: Mapping[str, str], wide: int | None = None) -> str:
    """The text; with a terminal's width, words that `tones` names in their colours."""
    if wide is None:
        return text
    from rich.text import Text

    told = Text(text)
    for words, tone in tones.items():
        told.highlight_words([words], tone)
    return _drawn(told, wide)


def of_batch(report: dict[str, Any]) -> dict[str, str]:
    """The words that stand out of what is said of a scored batch, for `sentence`."""
    decisions = report["decisions"]
    counts = {"review": decisions["review"], "reject": decisions["reject"], "quarantined": report["quarantined"]}
    tones = {f"{count} {what}": BAD if what == "reject" else NOTE for what, count in counts.items() if count}
    watched = report.get("monitoring")
    return tones | ({watched["says"]: BAD} if watched and (watched["drift"] or watched["broken"]) else {})


def _coloured(rows: list[Row], texts: set[str], tone: Tone, wide: int) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False, header_style=HEADING)
    needed = GAP * (len(rows[0]) - 1)
    for heading in rows[0]:
        longest = max(len(heading), *(len(row[heading]) for row in rows))
        text = heading in texts
        least = min(longest, LEAST) if text else longest
        needed += least
        made.add_column(
            heading, min_width=least, overflow="fold", no_wrap=not text, justify="left" if text else "right"
        )
    if needed > wide:
        return _drawn(Text.assemble(*(part for row in rows for part in _block(row, tone))), wide)
    for row in rows:
        made.add_row(*(Text(row[heading], tone(row, heading)) for heading in row))
    return _drawn(made, wide)


def _block(row: Row, tone: Tone) -> Iterator[tuple[str, str]]:
    """A row as lines: heading and cell."""
    left = max(map(len, row))
    for heading, cell in row.items():
        if cell:
            yield heading.ljust(left) + "  ", HEADING
            yield cell + "\n", tone(row, heading)
    yield "\n", ""


def _drawn(given: Any, wide: int) -> str:
    """What rich makes of a text (whose lines it does not break) or a table."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=wide, highlight=False)
    console.print(given, soft_wrap=isinstance(given, Text), end="")
    return console.file.getvalue().rstrip("\n")
