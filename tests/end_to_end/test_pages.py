"""MLflow's and Prefect's pages show a line's champion, its curves and what its runs left, in a real browser."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import screenshots, servers_pages, small_line
from tests.browser import Watched

ROOT = Path(__file__).parents[2]
# in a process of its own: Prefect's worker of events would hold this one to a server that ends with the test
RUNS = """
import sys
from flows.promote import promote
from flows.score import score
promote(sys.argv[1])
score(sys.argv[1])
"""


@pytest.fixture
def views(ready: Path, browser: Any) -> Iterator[dict[str, servers_pages.View]]:
    """The pages of the small line, after it was promoted and a batch of three shards was scored."""
    small_line.scoring(ready, shard=10)
    with servers_pages.servers() as (mlflow, prefect):
        api = f"{prefect}/api"
        words = [sys.executable, "-c", RUNS, str(ready)]
        subprocess.run(words, cwd=ROOT, env=os.environ | {"PREFECT_API_URL": api}, check=True, capture_output=True)
        yield servers_pages.views(mlflow, "parts", prefect, screenshots.runs(api))


def test_pages_show_the_champion_its_curves_and_the_artifacts(
    views: dict[str, servers_pages.View], context: Any, watched: Watched
) -> None:
    context.add_init_script(servers_pages.SETTLED)
    page = context.new_page()

    servers_pages.opened(page, views["mlflow-registry"])
    assert "table/isolation_forest" in page.inner_text("body")

    servers_pages.opened(page, views["mlflow-compare"])
    said = page.inner_text("body")
    for name in ("many (curve/roc)", "few (curve/roc)", "many (curve/pr)", "few (curve/pr)"):
        assert name in said

    servers_pages.opened(page, views["mlflow-overlays"])  # a picture is seen

    servers_pages.opened(page, views["prefect-promote"])
    assert {"promotion-parts", "model-parts"} <= set(page.inner_text("body").split())
    servers_pages.opened(page, views["prefect-score"])
    assert {"batch-parts", "worst-alarm-parts", "model-parts", "shards-parts"} <= set(page.inner_text("body").split())
    page.get_by_text("model-parts").first.click()
    link = page.get_by_role("link", name="parts version 1 in MLflow")
    link.wait_for()
    assert str(link.get_attribute("href")).endswith("/#/models/parts/versions/1")
    servers_pages.opened(page, views["prefect-picture"])

    page.close()
    watched.errors[:] = [error for error in watched.errors if not any(own in error for own in servers_pages.OWN_ERRORS)]
    assert watched.errors == []
