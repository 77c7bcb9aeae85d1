"""A document as a PDF on A4 pages, with the fonts that matplotlib ships (DejaVu) in it.

Tables that are longer than a page go on with their headings on the next. What a font does not have is a box, and
text is only text: nothing in it is read as markup.
"""

import io
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from matplotlib.figure import Figure
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    Image,
    KeepTogether,
    PageTemplate,
    Paragraph,
    Spacer,
)
from reportlab.platypus import Table as Grid

from pipeline.files import whole_file
from pipeline.reports import pictures
from pipeline.reports.document import (
    Block,
    Chart,
    Document,
    Facts,
    Gallery,
    Numbers,
    Picture,
    Section,
    Table,
    Text,
    short,
)
from pipeline.reports.pdf_text import INK, REGULAR, SOFT, fonts, paragraph, plain, style

MARGIN = 17 * mm
WIDTH, HEIGHT = A4[0] - 2 * MARGIN, A4[1] - 2 * MARGIN - 6 * mm
GAP = 6 * mm
WIDE = 2.2  # width over height from which a chart takes the whole line
DPI = 150  # of charts
CELL = 400  # characters of a cell at most
LETTER, PAD = 6.5, 8.0  # points of a wide letter, and of the space between two columns
LINES, HEAD = 40, 8  # lines of a cell, and of a heading, at most: both fit on a page
LONG = 14  # rows of a table that is split over pages
START = 35 * mm  # of such a table that must fit on the page where it begins
ACROSS = 5  # key figures in a row
RULE = HexColor("#DEDDD6")
TONES = {"good": (HexColor("#005A8F"), HexColor("#EAF3F9")), "bad": (HexColor("#A34700"), HexColor("#FCEFE5"))}


def render(document: Document, path: Path) -> None:
    """Write the document as a PDF at `path`, whole or not at all. Equal documents, equal bytes."""
    fonts()
    ready = pictures.small(document)
    with whole_file(path) as partial:
        _Pages(str(partial), plain(ready.title)).build(_story(ready), canvasmaker=_Numbered)


class _Pages(BaseDocTemplate):
    """One frame on every page; headings become the PDF's outline."""

    def __init__(self, path: str, title: str) -> None:
        super().__init__(path, pagesize=A4, invariant=1, title=title, author="assay", lang="en")
        frame = Frame(MARGIN, MARGIN + 6 * mm, WIDTH, HEIGHT, 0, 0, 0, 0)
        self.addPageTemplates(PageTemplate(frames=[frame]))

    def afterFlowable(self, flowable: Flowable) -> None:
        if isinstance(flowable, _Heading):
            self.canv.bookmarkPage(flowable.anchor)
            self.canv.addOutlineEntry(flowable.text, flowable.anchor, 0)


class _Heading(Paragraph):
    def __init__(self, text: str, anchor: str) -> None:
        super().__init__(escape(text), style("heading"))
        self.text, self.anchor = text, anchor


class _Numbered(Canvas):
    """Writes title and `page n of m` below each page, once it is known how many there are."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._before: list[dict[str, Any]] = []

    def showPage(self) -> None:
        self._before.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        for number, page in enumerate(self._before, 1):
            self.__dict__.update(page)
            self.setFont(REGULAR, 7.5)
            self.setFillColor(SOFT)
            self.drawString(MARGIN, MARGIN - 4 * mm, _fitting(self._doc.info.title, WIDTH - 35 * mm))
            self.drawRightString(A4[0] - MARGIN, MARGIN - 4 * mm, f"page {number} of {len(self._before)}")
            super().showPage()
        super().save()


def _fitting(text: str, width: float) -> str:
    while stringWidth(text, REGULAR, 7.5) > width:
        text = text[: len(text) * 9 // 10 - 1] + "…"
    return text


def _story(document: Document) -> list[Flowable]:
    story: list[Flowable] = [paragraph(document.title, "title"), paragraph(document.subtitle, "subtitle")]
    for number, section in enumerate(s for s in document.sections if s.blocks):
        story += _section(section, f"section-{number}")
    return [*story, Spacer(1, 4 * mm), paragraph(document.footer, "note")]


def _section(section: Section, anchor: str) -> list[Flowable]:
    found: list[Flowable] = []
    waiting: list[Chart] = []
    for block in [*section.blocks, None]:
        if isinstance(block, Chart) and not _wide(block):
            waiting.append(block)
            continue
        found += [_beside(waiting[at : at + 2]) for at in range(0, len(waiting), 2)]
        waiting = []
        found += [] if block is None else _block(block)
    heading = _Heading(plain(section.title), anchor)
    if _long(section.blocks[0]):
        heading.keepWithNext = False
        return [CondPageBreak(START + 12 * mm), heading, *found]
    return [heading, *found]


def _long(block: Block) -> bool:
    """Whether a block begins on the page where it stands, rather than whole on the next."""
    return isinstance(block, Table | Facts) and len(block.rows) > LONG


def _block(block: Block) -> list[Flowable]:
    match block:
        case Text():
            return [paragraph(block.text, "note") if block.tone == "note" else _said(block)]
        case Numbers():
            return [_numbers(block)]
        case Facts():
            return [*_label(block.caption, _long(block)), _facts(block)]
        case Table():
            note = [paragraph(block.note, "note")] if block.note else []
            return [*_label(block.caption, _long(block)), _table(block), Spacer(1, 2 * mm), *note]
        case Picture():
            return [KeepTogether(_picture(block, WIDTH))]
        case Gallery():
            return _label(block.caption) + _gallery(block)
        case Chart():
            return [KeepTogether([_drawn(block.figure, WIDTH), paragraph(block.caption, "note")])]


def _wide(chart: Chart) -> bool:
    width, height = chart.figure.get_size_inches()
    return bool(width >= WIDE * height)


def _said(block: Text) -> Flowable:
    if block.tone not in TONES:
        return paragraph(block.text, "text")
    edge, wash = TONES[block.tone]
    box = Grid([[paragraph(block.text, "verdict")]], [WIDTH], spaceAfter=3 * mm, splitInRow=1)
    box.setStyle([("BACKGROUND", (0, 0), (0, 0), wash), ("LINEBEFORE", (0, 0), (0, 0), 3, edge)])
    return box


def _numbers(block: Numbers) -> Flowable:
    cells = [
        [paragraph(short(name), "small"), paragraph(short(value), "figure"), paragraph(short(remark), "small")]
        for name, value, remark in block.rows
    ]
    across = len(cells) if len(cells) <= ACROSS else -(-len(cells) // 2)
    rows = [cells[at : at + across] for at in range(0, len(cells), across)]
    rows = [[*row, *[""] * (across - len(row))] for row in rows]
    grid = Grid(rows, [WIDTH / across] * across, spaceAfter=2 * mm)
    grid.setStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)])
    return grid


def _facts(block: Facts) -> Flowable:
    rows = [
        [paragraph(short(name, CELL), "soft cell"), paragraph(short(value, CELL), "cell")] for name, value in block.rows
    ]
    return _ruled(rows, [WIDTH * 0.32, WIDTH * 0.68], 0)


def _table(block: Table) -> Flowable:
    cells = [[plain(short(cell, CELL)) for cell in row] for row in [block.headings, *block.rows]]
    widths = _widths(cells)
    looks = ["right cell" if column in block.right else "cell" for column in range(len(block.headings))]
    heads = [f"soft {look}" for look in looks]
    rows = [
        [
            paragraph(short(cell, _fits(width, LINES if at else HEAD)), look)
            for cell, width, look in zip(row, widths, looks if at else heads, strict=True)
        ]
        for at, row in enumerate(cells)
    ]
    return _ruled(rows, widths, 1)


def _fits(width: float, lines: int) -> int:
    """How many characters are sure to fit into so many lines."""
    return max(int((width - PAD) * lines / LETTER), 3)


def _ruled(rows: list[list[Flowable]], widths: list[float], heads: int) -> Flowable:
    grid = Grid(rows, widths, repeatRows=heads, spaceAfter=3 * mm)
    rules = [("LINEBELOW", (0, 0), (-1, -1), 0.4, RULE), ("VALIGN", (0, 0), (-1, -1), "TOP")]
    rules += [("LINEBELOW", (0, 0), (-1, 0), 0.8, INK)] if heads else []
    pads = [(f"{side}PADDING", (0, 0), (-1, -1), pad) for side, pad in (("LEFT", 0), ("TOP", 1.5), ("BOTTOM", 2.5))]
    grid.setStyle(rules + pads)
    return grid


def _widths(cells: list[list[str]]) -> list[float]:
    """Columns as wide as their longest cell where all fit, else the wide ones give way."""
    wanted = [max(stringWidth(row[at], REGULAR, 8) for row in cells) + 10 for at in range(len(cells[0]))]
    share = WIDTH / len(wanted)
    spare = WIDTH - sum(min(want, share) for want in wanted)
    over = sum(max(want - share, 0) for want in wanted)
    grown = min(1.0, spare / over) if over else 0.0
    found = [min(want, share) + max(want - share, 0) * grown for want in wanted]
    rest = (WIDTH - sum(found)) / len(found)
    return [width + max(rest, 0) for width in found]


def _beside(charts: list[Chart]) -> Flowable:
    """One chart or two in a row, each with its caption."""
    width = (WIDTH - GAP) / 2
    cells = [[_drawn(chart.figure, width), paragraph(chart.caption, "note")] for chart in charts]
    grid = Grid([cells], [width + GAP / 2] * len(cells), hAlign="LEFT", spaceAfter=3 * mm)
    pads = [(f"{side}PADDING", (0, 0), (-1, -1), 0) for side in ("LEFT", "TOP", "BOTTOM")]
    grid.setStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), ("RIGHTPADDING", (0, 0), (-1, -1), GAP / 2), *pads])
    return grid


def _drawn(figure: Figure, width: float) -> Flowable:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    buffer.seek(0)
    inches = figure.get_size_inches()
    return Image(buffer, width, width * inches[1] / inches[0])


def _gallery(block: Gallery) -> list[Flowable]:
    """Panels one below the other, upright pictures two in a row."""
    sizes = [found for found in map(pictures.encoded, block.pictures) if found is not None]
    if any(found.width > found.height for found in sizes) or len(block.pictures) < 2:
        return [KeepTogether(_picture(each, WIDTH)) for each in block.pictures]
    width = (WIDTH - GAP) / 2
    drawn = [_picture(each, width) for each in block.pictures]
    rows = [[*drawn[at : at + 2], ""][:2] for at in range(0, len(drawn), 2)]
    grid = Grid(rows, [width + GAP / 2] * 2)
    grid.setStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)])
    return [grid]


def _picture(picture: Picture, width: float) -> list[Flowable]:
    found = pictures.encoded(picture)
    caption = [paragraph(picture.caption, "note")] if picture.caption else []
    if found is None:
        gone = f"The picture is gone: it was deleted or damaged after this was scored ({picture.alt})."
        return [paragraph(gone, "note"), *caption]
    scale = min(width / found.width, HEIGHT * 0.42 / found.height, 0.6)
    return [Image(io.BytesIO(found.data), found.width * scale, found.height * scale, hAlign="LEFT"), *caption]


def _label(text: str, long: bool = False) -> list[Flowable]:
    """What stands above a block, on the same page as its beginning."""
    if not text:
        return []
    label = paragraph(text, "label")
    label.keepWithNext = not long
    return [CondPageBreak(START), label] if long else [label]
