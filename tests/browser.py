"""A real browser for the tests: Debian's Chromium without a window, driven by Playwright.

A page fails its test when anything is written to its console as an error, when a script fails, or when a request leaves
this machine. Where there is no Chromium these tests are skipped, and say so.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# nothing that Chromium does by itself may reach out, and root has no sandbox
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)
HERE = {"127.0.0.1", "localhost", "[::1]", ""}
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def executable() -> str | None:
    """Chromium's path: ASSAY_CHROMIUM, or the first that is installed."""
    return os.environ.get("ASSAY_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Watched:
    """What pages of a context said and asked for that they must not."""

    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def watch(self, context: Any) -> None:
        """Note errors and requests of every page of `context`."""
        context.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", lambda request: self._asked(request.url))

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "file", "about") and (parts.hostname or "") not in HERE:
            self.outside.append(url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, started once for each file of tests: while it runs, this thread looks as if an event loop ran in it,
    and Prefect's clients would give coroutines to tests that come after."""
    path = executable()
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(OPTIONS))
        yield chromium
        chromium.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    """What this test's pages did wrong; nothing must be left in it when the test ends."""
    found = Watched()
    yield found
    assert found.errors == [], found.errors
    assert found.outside == [], found.outside


@pytest.fixture
def context(browser: Any, watched: Watched) -> Iterator[Any]:
    """A person's browser of this test's own, with cookies of its own, on a laptop's screen."""
    opened = browser.new_context(viewport=LAPTOP, reduced_motion="reduce")
    watched.watch(opened)
    yield opened
    opened.close()


@pytest.fixture
def page(context: Any) -> Any:
    """One page in `context`."""
    return context.new_page()
