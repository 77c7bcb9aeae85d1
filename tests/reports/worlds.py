"""Documents, pictures and scored batches for the tests of reports, with names as unfriendly as users' can be."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from pipeline.reports.batch import Scored
from pipeline.reports.document import Chart, Document, Facts, Gallery, Numbers, Picture, Section, Table, Text

EVIL = "<script>alert('x')</script> \"quoted\" & it's 50% <b>bold</b> {{ 7 * 7 }} \x00\ud800 😀 漢 \u202edrawkcab"


def picture(kind: str, width: int = 400, height: int = 120, seed: int = 0) -> bytes:
    """A `photo` (noise), or a `drawing` of two colours, as PNG."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "drawing":
        pixels = np.where(pixels[..., :1] > 250, np.uint8([0, 0, 0]), np.uint8([255, 255, 255]))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def chart(alt: str = "a line that rises") -> Chart:
    figure = Figure(figsize=(5, 3))
    figure.add_subplot().plot([1, 2, 3])
    return Chart(figure, alt, f"{alt}, as caption")


def document(said: str, rows: int = 3) -> Document:
    """Every kind of block, each with the text `said`."""
    gone = Picture(Path("/nowhere/gone.png"), f"gone {said}", said)
    facts = [Facts([(said, said)]), Facts([("a", "b")])]
    table = Table([said, "n"], [[f"{said} {i}", str(i)] for i in range(rows)], said, frozenset({1}), said)
    shown = [Gallery([Picture(picture("photo"), said, said), gone], said), Picture(picture("drawing"), said)]
    return Document(
        f"Title {said}",
        f"Subtitle {said}",
        [
            Section(f"Texts {said}", [Text(said, "good"), Text(said, "bad"), Text(said), Text(said, "note")]),
            Section("Figures", [Numbers([(said, said, said), ("n", "1", "")]), *facts]),
            Section("Nothing", []),
            Section("Charts", [chart(said), chart(said)]),
            Section("Table", [table]),
            Section("Pictures", shown),
        ],
        f"Footer {said}",
    )


def batch(line: Path, n: int, alarms: int, review: int = 0, **more: object) -> Scored:
    """A batch as `results.write` leaves it, of `n` samples whose ids are unfriendly: the first `alarms` raise one, the
    next are for review. At most three alarms have pictures, of which the second is gone and the third is broken."""
    folder = line / "scores/b-v1"
    (folder / "alarms").mkdir(parents=True)
    decision = np.repeat(["reject", "review", "accept"], [alarms, review, n - alarms - review])
    score = np.linspace(9, 1, n).astype(np.float32)
    why = json.dumps([{"column": EVIL[:30], "value": "3", "adds": 1.5}])
    rows = pd.DataFrame({"id": [f"{i} {EVIL[:-20]}".replace("\ud800", "") for i in range(n)], "score": score})
    rows = rows.assign(p_value=0.01, decision=decision, because=np.where(decision == "reject", why, ""))
    text = dict.fromkeys(("id", "decision", "because"), "str")
    rows.sample(frac=1, random_state=0).astype(text).to_parquet(folder / "scores.parquet", index=False)
    names = [f"alarms/{i}.png" for i in range(min(alarms, 3))]
    for name in names[:1]:
        (folder / name).write_bytes(picture("photo"))
    for name in names[2:]:
        (folder / name).write_bytes(b"no picture")
    counts = {"accept": n - alarms - review, "review": review, "reject": alarms}
    report = {"name": f"parts {EVIL[:30]}", "version": 1, "batch": "b-v1", "source": EVIL[:60], "samples": n}
    report |= {"started": "2026-01-01T00:00:00+00:00", "decisions": counts, "quarantined": 0, "reasons": {}}
    report |= {"shards": 2, "failed": [], "promised_rate": 0.05, "false_discovery_rate": None, "pictures": names}
    report |= {"promise": "alarm above 2", "data_hash": "abc", **more}
    return Scored(folder, report, None, None, pd.DataFrame())
