"""Text of a report in a PDF: fonts, styles, and what a font cannot show."""

from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from reportlab import rl_config
from reportlab.lib.colors import HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Paragraph

REGULAR, BOLD = "DejaVu", "DejaVu-Bold"
INK, SOFT = HexColor("#1A1A1A"), HexColor("#5A5A56")
BOX = "□"  # stands for a character that the font does not have
PLANE = 0xFFFF  # reportlab loses the text of characters above


def paragraph(text: str, look: str) -> Paragraph:
    """Plain text in one of the styles below; nothing in it is read as markup."""
    return Paragraph(escape(plain(text)), style(look))


def plain(text: str) -> str:
    """Text in one line of characters that the font has; others are a box each."""
    known = fonts()
    return "".join(c if ord(c) in known else " " if c in "\n\t" else BOX for c in text)


@cache
def fonts() -> frozenset[int]:
    """Make the fonts known to reportlab; the code points that they have. Also lets it write pictures as they are: as
    text they take ten times as long."""
    import matplotlib

    rl_config.useA85 = 0
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    for name, file in ((REGULAR, "DejaVuSans.ttf"), (BOLD, "DejaVuSans-Bold.ttf")):
        pdfmetrics.registerFont(TTFont(name, str(folder / file)))
    each = [pdfmetrics.getFont(name).face.charToGlyph for name in (REGULAR, BOLD)]
    return frozenset(code for code in each[0].keys() & each[1].keys() if 32 <= code <= PLANE and not _steers(code))


def _steers(code: int) -> bool:
    """Whether a character only changes the direction of others."""
    return 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069


@cache
def style(look: str) -> ParagraphStyle:
    looks: dict[str, dict[str, Any]] = {
        "title": {"fontName": BOLD, "fontSize": 17, "leading": 21, "spaceAfter": 2},
        "subtitle": {"textColor": SOFT, "fontSize": 9, "leading": 12, "spaceAfter": 8},
        "heading": {
            "fontName": BOLD,
            "fontSize": 11.5,
            "leading": 15,
            "spaceBefore": 10,
            "spaceAfter": 5,
            "keepWithNext": 1,
        },
        "label": {
            "fontName": BOLD,
            "fontSize": 8.5,
            "leading": 12,
            "spaceBefore": 3,
            "spaceAfter": 2,
            "keepWithNext": 1,
        },
        "text": {"fontSize": 9, "leading": 12.5, "spaceAfter": 5},
        "verdict": {"fontSize": 9, "leading": 12.5},
        "note": {"fontSize": 7.5, "leading": 10, "textColor": SOFT, "spaceAfter": 5},
        "small": {"fontSize": 7.5, "leading": 10, "textColor": SOFT},
        "figure": {"fontName": BOLD, "fontSize": 13, "leading": 17},
        "cell": {"fontSize": 8, "leading": 10.5},
        "soft cell": {"fontSize": 8, "leading": 10.5, "textColor": SOFT},
        "right cell": {"fontSize": 8, "leading": 10.5, "alignment": TA_RIGHT},
        "soft right cell": {"fontSize": 8, "leading": 10.5, "textColor": SOFT, "alignment": TA_RIGHT},
    }
    return ParagraphStyle(look, **({"fontName": REGULAR, "textColor": INK} | looks[look]))
