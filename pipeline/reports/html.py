"""A document as one HTML file that needs nothing else: no request, no script; pictures and charts lie in it as data.

The page's look is in page.html.j2. Everything that a document says is escaped there, and what no page can show
(control characters, halves of surrogate pairs) is replaced before.
"""

import base64
import io
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from slugify import slugify

from pipeline.files import whole_file
from pipeline.reports import pictures
from pipeline.reports.document import Block, Chart, Document, Facts, Gallery, Picture, Table, printable

TEMPLATE = Path(__file__).with_name("page.html.j2")
NARROW = (Chart, Facts)  # blocks that stand side by side
SLIM = 5  # columns of a table that may stand beside a chart
WIDE = 2.2  # width over height from which a picture or a chart takes the whole line
SALT = "assay"  # of the ids in charts: equal charts, equal bytes


def render(document: Document, path: Path) -> None:
    """Write the document as an HTML file at `path`, whole or not at all."""
    text = page(pictures.small(document))
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def page(document: Document) -> str:
    """The HTML of a document that went through `pictures.small`."""
    loader = FileSystemLoader(TEMPLATE.parent)
    world = Environment(
        loader=loader,
        autoescape=True,
        finalize=_plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    world.globals |= {"kind_of": _kind, "svg": _svg, "picture": _picture, "wide": _wide}
    return world.get_template(TEMPLATE.name).render(document=document, sections=_sections(document))


def _plain(value: Any) -> Any:
    """A value as the template shows it, before it is escaped; what the template made itself stays."""
    return value if isinstance(value, Markup) else printable(value)


def _kind(block: Block) -> str:
    return type(block).__name__


def _sections(document: Document) -> list[dict[str, Any]]:
    """The sections that have anything to show: title, anchor, and runs of blocks that stand side by side or alone."""
    found, taken = [], set()
    for number, section in enumerate((s for s in document.sections if s.blocks), 1):
        anchor = slugify(section.title) or f"part-{number}"
        anchor = anchor if anchor not in taken else f"{anchor}-{number}"
        taken.add(anchor)
        found.append({"title": section.title, "anchor": anchor, "runs": _runs(section.blocks)})
    return found


def _runs(blocks: list[Block]) -> list[dict[str, Any]]:
    """Blocks in groups that stand side by side, or one below the other: a chart alone takes a slim table beside it."""
    found: list[tuple[bool, list[Block]]] = []
    for narrow, some in groupby(blocks, key=lambda block: isinstance(block, NARROW)):
        rest = list(some)
        if found and found[-1][0] and len(found[-1][1]) == 1 and _slim(rest[0]):
            found[-1][1].append(rest.pop(0))
        if rest:
            found.append((narrow, rest))
    return [{"side_by_side": narrow and len(some) > 1, "blocks": some} for narrow, some in found]


def _slim(block: Block) -> bool:
    return isinstance(block, Table) and len(block.headings) <= SLIM and not block.note


def _svg(figure: Figure) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": SALT, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue().encode()).decode("ascii")


def _picture(picture: Picture) -> dict[str, Any] | None:
    """Source and size of a picture; None for one that is missing."""
    found = pictures.encoded(picture)
    if found is None:
        return None
    source = f"data:{found.mime};base64,{base64.b64encode(found.data).decode('ascii')}"
    wide = found.width >= WIDE * found.height
    return {"source": source, "width": found.width, "height": found.height, "wide": wide}


def _wide(block: Gallery | Chart) -> bool:
    """Whether a chart, or any picture of a gallery, takes the whole line."""
    if isinstance(block, Chart):
        width, height = block.figure.get_size_inches()
        return bool(width >= WIDE * height)
    sizes = [found for found in map(pictures.encoded, block.pictures) if found is not None]
    return any(found.width >= WIDE * found.height for found in sizes)
