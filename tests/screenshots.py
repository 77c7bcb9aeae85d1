"""Pictures of MLflow's and Prefect's pages for the docs, taken from a line that has run: `python -m tests.screenshots`.

They go to docs/pictures/NAME.webp. Needs Chromium; `--line` names the line's folder (default: the demo's)."""

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from flows.settings import ROOT
from pipeline import params
from tests import servers_pages
from tests.browser import LAPTOP, OPTIONS, Watched, executable

PICTURES = ROOT / "docs/pictures"
FLOWS = ("train", "promote", "score")
LARGEST = 200_000  # bytes


def runs(api: str) -> dict[str, str]:
    """The ids of the last runs of `FLOWS` on the Prefect server at `api`."""
    import httpx

    found = httpx.post(f"{api}/flow_runs/filter", json={"sort": "START_TIME_DESC"}).json()
    last = {flow: next((run["id"] for run in found if run["name"].startswith(f"{flow} ")), None) for flow in FLOWS}
    return {flow: run for flow, run in last.items() if run}


def save(page: Any, path: Path) -> None:
    """A picture of what is in the window, as WebP."""
    from PIL import Image

    with Image.open(io.BytesIO(page.screenshot())) as image:
        for quality in (90, 75, 50):
            image.save(path, "WEBP", quality=quality, method=6)
            if path.stat().st_size <= LARGEST:
                return


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__)
    parser.add_argument("--line", type=Path, default=ROOT)
    parser.add_argument("--to", type=Path, default=PICTURES)
    parser.add_argument("only", nargs="*", help="names of pictures")
    chosen = parser.parse_args(words)
    from playwright.sync_api import sync_playwright

    name = params.read(chosen.line / "params.yaml").promote.name
    watched = Watched()
    chosen.to.mkdir(parents=True, exist_ok=True)
    with servers_pages.servers() as (mlflow, prefect), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(OPTIONS))
        context = browser.new_context(viewport=LAPTOP, reduced_motion="reduce", device_scale_factor=1)
        context.add_init_script(servers_pages.SETTLED)
        watched.watch(context)
        views = servers_pages.views(mlflow, name, prefect, runs(f"{prefect}/api"))
        for picture, view in views.items():
            if chosen.only and picture not in chosen.only:
                continue
            page = context.new_page()
            servers_pages.opened(page, view)
            page.add_style_tag(content=servers_pages.FONT)
            page.wait_for_timeout(1000)
            save(page, chosen.to / f"{picture}.webp")
            print(chosen.to / f"{picture}.webp")
            page.close()
        browser.close()
    if watched.outside:
        sys.exit(f"error: pages asked for {', '.join(sorted(set(watched.outside)))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
