"""The README's table of detectors, made from the code.

python -m pipeline.catalogue        # rewrites the table in README.md
"""

from pathlib import Path
from typing import Any

from pipeline import detectors
from pipeline.tables import find

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- detectors: made by python -m pipeline.catalogue -->\n", "<!-- end of detectors -->\n"


def table() -> str:
    """One row per detector: its name in params, what it learns from, its paper, its first docstring line."""
    rows = ["| `detector` | learns from | what it does | source |", "|---|---|---|---|"]
    for key in detectors.TABLE:
        cls: Any = find(detectors, key, "detector")
        does = cls.__doc__.strip().splitlines()[0].rstrip(".")
        rows.append(f"| `{key}` | {cls.learns_from} | {does} | {cls.paper} |")
    return "\n".join(rows) + "\n"


def renewed(text: str) -> str:
    """`text` with the table between its two marks made anew."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{table()}{END}{tail}"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
