"""Reports in a real browser: nothing is said, nothing is asked for, everything is reached by keys, on any screen."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.reports import batch, html
from tests.browser import PHONE
from tests.reports import worlds


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a batch with unfriendly ids, alarms, and pictures of which some are gone."""
    folder = tmp_path_factory.mktemp("report")
    html.render(batch.build(worlds.batch(folder, 400, 150, review=120)), folder / "it's 50% <b>.html")
    return folder / "it's 50% <b>.html"


def test_it_stands_by_itself(page: Any, watched: Any, report: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [page.url]
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.scripts.length") == 0
    assert page.locator("h1").inner_text().startswith("parts <script>alert('x')</script>")
    assert "<script>alert('x')</script>" in page.locator("#alarms ~ .run tbody th").first.inner_text()
    assert page.locator("tbody tr").count() < 300


def test_it_is_reached_by_keys(page: Any, report: Path) -> None:
    page.goto(report.as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto(report.as_uri())
    for _ in range(3):
        page.keyboard.press("Tab")
    link = page.evaluate("document.activeElement.getAttribute('href')")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == link
    assert page.evaluate("document.querySelector(location.hash).getBoundingClientRect().top < innerHeight")


@pytest.mark.parametrize("screen", [{"width": 1280, "height": 800}, PHONE])
def test_no_screen_has_to_be_moved_sideways(page: Any, report: Path, screen: dict[str, int]) -> None:
    page.set_viewport_size(screen)
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == screen["width"]
    inside = "[...document.querySelectorAll('section')].every(s => s.getBoundingClientRect().right <= innerWidth)"
    assert page.evaluate(inside)


def test_text_stands_out_from_its_ground(page: Any, report: Path) -> None:
    """WCAG AA: a contrast of 4.5 for every colour that text has, on the ground that it stands on."""
    page.goto(report.as_uri())
    low = page.evaluate("""() => {
      const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255)
        .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b }
      const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor
        if (!c.endsWith(', 0)')) return c } return 'rgb(255, 255, 255)' }
      return [...document.querySelectorAll('p, dt, dd, th, td, a, h1, h2, figcaption, footer')].map(e => {
        const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x)
        return (a + 0.05) / (b + 0.05) }).reduce((x, y) => Math.min(x, y)) }""")
    assert low >= 4.5
