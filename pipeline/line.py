"""Make a new line: a folder with its own params, lock, models and reports, on the one DAG of this checkout.

python -m pipeline.line lines/camera3 --like examples/magnetic_tile
"""

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

from pipeline.ending import one_sentence
from pipeline.errors import ParamsError

ROOT = Path(__file__).resolve().parents[1]
DVC_CONFIG = """[core]
    analytics = false
    check_update = false
[plots]
    html_template = ../{back}/pipeline/reports/dvc/page.html
"""


def make(line: Path, like: Path) -> None:
    """Create the folder `line` with the params of the line `like`, their `root` set for the new place.

    Raises ParamsError when the folder is outside the checkout or holds a line already."""
    place = line.resolve()
    if place == ROOT or not place.is_relative_to(ROOT):
        raise ParamsError(f"a line must be a folder inside {ROOT.name}/ (LINE=lines/NAME, say), got {line}")
    if (place / "params.yaml").exists():
        raise ParamsError(f"{line} holds a line already (params.yaml stands); edit it, or name another folder")
    if not (like / "params.yaml").exists():
        raise ParamsError(f"the line to start from must hold a params.yaml, {like} does not")
    back = os.path.relpath(ROOT, place).replace(os.sep, "/")
    for watched in ("data/raw", "data/labelled"):
        (place / watched).mkdir(parents=True, exist_ok=True)
        (place / watched / ".gitkeep").touch()
    (place / ".dvc").mkdir(exist_ok=True)
    (place / ".dvc/config").write_text(DVC_CONFIG.format(back=back), encoding="utf-8")
    shutil.copyfile(ROOT / ".dvc/.gitignore", place / ".dvc/.gitignore")
    (place / "dvc.yaml").unlink(missing_ok=True)
    (place / "dvc.yaml").symlink_to(f"{back}/dvc.yaml")
    text = (like / "params.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^root:.*$", f"root: {back} # the way from this folder to the checkout", text, flags=re.MULTILINE)
    text = re.sub(r"^( +name:).*$", rf"\1 {place.name} # the registered name", text, count=1, flags=re.MULTILINE)
    (place / "params.yaml").write_text(text, encoding="utf-8")


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="make line", description=__doc__)
    parser.add_argument("line", type=Path, help="the new folder, inside this checkout")
    parser.add_argument("--like", type=Path, default=ROOT, help="the line whose params to start from")
    chosen = parser.parse_args(words)
    make(chosen.line, chosen.like)
    print(f"{chosen.line}/params.yaml stands; edit it, then: make run LINE={chosen.line}")


if __name__ == "__main__":
    with one_sentence():
        main(*sys.argv[1:])
