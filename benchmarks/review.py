"""The review page over a batch with 10,000 alarms: how soon it stands, how fast it answers, what it holds.

    python -m benchmarks.review                 # 10,000 images of 256 x 256 pixels
    python -m benchmarks.review --samples 100000
    python -m benchmarks.review --pictures      # the pictures of docs/review.md, from the two demos

The batch is made here: noisy stripes, all of them flagged, the model left out. Times are medians, in seconds; those of
`in Chromium` reach from the click to the last picture that is in sight. Where there is no Chromium they are left out.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import yaml

from benchmarks.scoring import made, sections, write_images

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs/pictures"
LARGEST = 200_000  # bytes of a picture in the documentation
BATCH = "bench-v1"
IN_SIGHT = """() => Promise.all([...document.images].filter(one => one.getBoundingClientRect().top < innerHeight)
    .map(one => one.decode()))"""
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
CHROMIUM += ("--disable-quic", "--disable-component-update", "--force-color-profile=srgb")


def batch_of(line: Path, count: int, side: int = 256) -> None:
    """A scored batch of `count` flagged images, in shards as scoring leaves them."""
    from pipeline.modalities.image import Image

    modality, folder = Image(size=(side, side)), line / "scores" / BATCH
    given = sections("image", "data/raw", {"detector": "none"}, size=[side, side])
    line.mkdir()
    (line / "params.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    write_images(line / "incoming", count, side)
    cut = modality.cut(line / "incoming", modality.shard, line / "cut")
    ids: list[str] = []
    for number, part in enumerate(cut.parts):
        samples, quarantine = folder / f"samples/{number:05d}", line / "quarantine"
        samples.mkdir(parents=True)
        quarantine.mkdir(exist_ok=True)
        ids += modality.ingest(part, samples, quarantine).manifest["id"].tolist()
    p = np.random.default_rng(0).uniform(0, 0.2, len(ids))
    decision = np.where(p < 0.1, "reject", "review")
    rows = pd.DataFrame({"id": ids, "score": (1 - p).astype(np.float32), "p_value": p, "decision": decision})
    rows.to_parquet(folder / "scores.parquet", index=False, row_group_size=modality.shard)
    counts = {name: int((decision == name).sum()) for name in ("accept", "review", "reject")}
    report = {
        "name": "bench",
        "version": 1,
        "batch": BATCH,
        "started": "2026-01-01T00:00:00+00:00",
        "samples": len(ids),
    }
    report |= {"shards": len(cut.parts), "failed": [], "decisions": counts}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


@contextlib.contextmanager
def served(line: Path) -> Iterator[tuple[str, float, psutil.Process]]:
    """The page over a line: its address, the seconds until it answered, its process."""
    words = [sys.executable, "-m", "pipeline.review", "--line", str(line), "--port", "0", "--who", "Anna"]
    started = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        place = process.stdout.readline().split()[-1]
        seconds = time.perf_counter() - started
        try:
            yield place, seconds, psutil.Process(process.pid)
        finally:
            process.terminate()


def get(url: str, fields: dict[str, str] | None = None) -> bytes:
    data = None if fields is None else urllib.parse.urlencode(fields).encode()
    with urllib.request.urlopen(url, data, timeout=60) as answer:
        return answer.read()


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def links(page: bytes, ending: str) -> list[str]:
    return [word for word in page.decode().split('"') if word.startswith("/b/") and word.endswith(ending)]


def measured(line: Path, votes: int = 50) -> dict[str, float]:
    """What a client without a browser sees."""
    found: dict[str, float] = {}
    with served(line) as (place, start, process):
        root = place.partition("/b/")[0]
        found["server, from the command to its address"] = start
        found["first page"] = seconds(lambda: get(place))
        thumbnails = links(get(place), "thumb.webp")
        with ThreadPoolExecutor(6) as pool:  # as many connections as a browser has

            def every() -> None:
                list(pool.map(lambda path: get(root + path), thumbnails))

            found[f"its {len(thumbnails)} thumbnails, made"] = seconds(every)
            found[f"its {len(thumbnails)} thumbnails, kept"] = seconds(every)
        pages = [f"{place}?page={number}" for number in range(2, 22)]
        found["another page"] = statistics.median(seconds(lambda url=url: get(url)) for url in pages)
        found["another order"] = statistics.median(
            seconds(lambda s=s: get(f"{place}?sort={s}")) for s in ("score", "order")
        )
        shown = links(get(place), "thumb.webp")[:20]
        samples = [root + path.removesuffix("/thumb.webp") for path in shown]
        found["a sample's page"] = statistics.median(seconds(lambda url=url: get(url)) for url in samples)
        found["a whole picture"] = statistics.median(
            seconds(lambda url=url: get(f"{url}/whole.png")) for url in samples
        )
        keys = [
            path.removesuffix("/thumb.webp")
            for number in range(1, 2 + votes // 60)
            for path in links(get(f"{place}?page={number}"), "thumb.webp")
        ][:votes]
        found["a vote, and the next sample's page"] = statistics.median(
            seconds(lambda key=key: get(f"{root}{key}/vote", {"vote": "reject", "defect": "dent"})) for key in keys
        )
        found["memory of the server, MB"] = process.memory_info().rss / 2**20
    labels = pd.read_csv(line / "scores" / BATCH / "review/labels.csv")
    assert len(labels) == votes, f"{len(labels)} labels of {votes} votes"
    return found


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Chromium without a window; None where there is none."""
    path = os.environ.get("ASSAY_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        yield None
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM))
        yield browser
        browser.close()


def in_chromium(line: Path) -> dict[str, float]:
    """What a person sees; every thumbnail is to be made first."""
    found: dict[str, float] = {}
    shutil.rmtree(line / ".assay/review/pictures")
    with served(line) as (place, _, _), chromium() as browser:
        if browser is None:
            return found
        page = browser.new_context(viewport=LAPTOP).new_page()
        page.goto(place.partition("/b/")[0])  # the browser itself is awake

        def first() -> None:
            page.goto(place)
            page.evaluate(IN_SIGHT)

        found["first page with the pictures in sight, in Chromium"] = seconds(first)

        def vote() -> None:
            id = page.locator("h1.id").inner_text()
            page.keyboard.press("a")
            page.locator("h1.id").filter(has_not_text=id).wait_for()
            page.locator("#picture").evaluate("one => one.decode()")

        page.keyboard.press("s")
        page.locator("h1.id").wait_for()
        found["a vote by key, and the next picture, in Chromium"] = statistics.median(seconds(vote) for _ in range(20))
    return found


def demo(place: Path, params: Path, **options: Any) -> Path:
    """A demo line with a scored batch, run in this process with its first candidate."""
    from pipeline import batch, tracking
    from pipeline.params import read

    given = yaml.safe_load(params.read_text(encoding="utf-8")) | {"root": "."}
    name = next(iter(given["candidates"]))
    given["candidates"] = {name: given["candidates"][name]}
    given["calibrate"] |= {"review": 0.15}
    given["dataset"] |= options
    (place / "data/raw").mkdir(parents=True)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{place.as_posix()}/mlflow.db"
    os.environ["ASSAY_DATABASE_URL"] = f"sqlite:///{place.as_posix()}/assay.db"
    tracking.initialise()
    made(place, given)
    return Path(batch.score_batch(read(place / "params.yaml"), place)["folder"])


def pictures(work: Path) -> None:
    """Take the pictures of docs/review.md."""
    PICTURES.mkdir(exist_ok=True)
    demo(work / "textures", ROOT / "params.yaml")
    demo(work / "wdbc", ROOT / "examples/wdbc/params.yaml")
    with chromium() as browser:
        if browser is None:
            sys.exit("error: no Chromium on this machine (Debian: apt-get install chromium)")
        for line, shots in (("textures", images), ("wdbc", tables)):
            with served(work / line) as (place, _, _):
                shots(browser, place)


def images(browser: Any, place: str) -> None:
    page = browser.new_context(viewport=LAPTOP, reduced_motion="reduce").new_page()
    page.goto(f"{place}/start?sort=score")
    page.locator("#heat").wait_for(timeout=120_000)
    for key in ("r", "j", "a", "u"):
        page.keyboard.press(key)
        page.wait_for_timeout(400)
    page.goto(place)
    page.wait_for_load_state("networkidle")
    shot(page, "review-grid")
    page.locator(".card", has_text="scratch/brick").locator("a").click()
    page.locator("#heat").wait_for(timeout=60_000)
    page.locator("#heat").evaluate("one => one.decode()")
    shot(page, "review-image")
    phone = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, reduced_motion="reduce").new_page()
    phone.goto(page.url)
    phone.locator("#heat").wait_for(timeout=60_000)
    phone.locator("#heat").evaluate("one => one.decode()")
    shot(phone, "review-phone")


def tables(browser: Any, place: str) -> None:
    page = browser.new_context(viewport=LAPTOP, reduced_motion="reduce").new_page()
    page.goto(f"{place}/start?sort=score")
    shot(page, "review-row")


def shot(page: Any, name: str) -> None:
    """One picture, in fewer colours where it would be large."""
    from PIL import Image

    page.wait_for_timeout(300)
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path)
    picture = Image.open(path).convert("RGB")
    picture.save(path, optimize=True)
    for colours in (256, 128, 64):
        if path.stat().st_size > LARGEST:
            picture.quantize(colours, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1024:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--pictures", action="store_true", help="take the pictures of docs/review.md instead")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.pictures:
            pictures(Path(folder))
            return
        line = Path(folder) / "line"
        batch_of(line, chosen.samples)
        found = measured(line) | in_chromium(line)
    print(f"{chosen.samples} flagged images of 256 x 256 pixels, {os.cpu_count()} cores")
    for what, value in found.items():
        print(f"{what:52} {value:8.3f}")


if __name__ == "__main__":
    main()
