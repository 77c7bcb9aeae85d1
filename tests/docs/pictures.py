"""Pictures of a line's reports for the docs: `python -m tests.docs.pictures --line DIR`

They go to docs/pictures/: report-candidate, report-batch and comparison, as WebP. Needs Chromium, and a line that has
run.
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

from tests.browser import LAPTOP, OPTIONS, executable

ROOT = Path(__file__).resolve().parents[2]
HEIGHT = 1120  # pixels of a page that are shown


def newest(line: Path, pattern: str) -> Path:
    """The file that was written last; raises ValueError without any."""
    return max(line.glob(pattern), key=lambda path: path.stat().st_mtime)


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.docs.pictures", description=__doc__)
    parser.add_argument("--line", type=Path, default=ROOT)
    parser.add_argument("--candidate", default="patchcore")
    parser.add_argument("--to", type=Path, default=ROOT / "docs/pictures")
    chosen = parser.parse_args(words)
    from playwright.sync_api import sync_playwright

    pages = {
        "report-candidate": chosen.line / f"reports/pages/{chosen.candidate}.html",
        "comparison": chosen.line / "reports/pages/comparison.html",
        "report-batch": newest(chosen.line, "scores/*/report.html"),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(OPTIONS))
        page = browser.new_page(viewport={**LAPTOP, "height": HEIGHT})
        for name, path in pages.items():
            page.goto(path.resolve().as_uri())
            page.wait_for_load_state("networkidle")
            with Image.open(io.BytesIO(page.screenshot())) as image:
                image.save(chosen.to / f"{name}.webp", "WEBP", quality=80, method=6)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
