"""Pictures of table rows: score, threshold, columns and values."""

import re
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw

from pipeline.protocols import Batch, Scores

LINE, MARGIN, NAME, WIDTH = 16, 12, 220, 460  # pixels
SHOWN = 40  # columns shown at most
ALARM, QUIET, GREY = (178, 36, 0), (0, 112, 107), (96, 96, 96)


def draw(batch: Batch, scores: Scores, threshold: float, out: Path) -> list[Path]:
    """One PNG per row of `batch` under `out`; the paths, in order."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for position, name in enumerate(batch.ids):
        # ids differ, but safe forms of them may not: the position tells them apart
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:80] or "row"
        path = out / f"{safe}.png"
        if path in paths:
            path = out / f"{safe}-{position}.png"
        _row(name, batch.x.iloc[position], float(scores.sample[position]), threshold).save(path)
        paths.append(path)
    return paths


def _row(name: str, values: pd.Series, score: float, threshold: float) -> Image.Image:
    more = len(values) - SHOWN
    lines = [(str(column), text(value)) for column, value in values.iloc[:SHOWN].items()]
    lines += [(f"and {more} more columns", "")] if more > 0 else []
    picture = Image.new("RGB", (WIDTH, (len(lines) + 3) * LINE + 2 * MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((MARGIN, MARGIN), _short(name, 60), "black")
    alarm = score > threshold
    verdict = f"score {score:.6g} {'>' if alarm else '<='} threshold {threshold:.6g}"
    pen.text((MARGIN, MARGIN + LINE), verdict, ALARM if alarm else QUIET)
    for place, (column, value) in enumerate(lines):
        y = MARGIN + (place + 2.5) * LINE
        pen.text((MARGIN, y), _short(column, 34), GREY)
        pen.text((NAME, y), _short(value, 36), "black")
    return picture


def text(value: object) -> str:
    """A value of a table for people."""
    if pd.isna(value):
        return "(missing)"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(text: str, most: int) -> str:
    """Printable text of at most `most` characters."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= most else shown[: most - 3] + "..."
