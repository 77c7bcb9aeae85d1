"""MLflow's and Prefect's pages of a line, as a person sees them in a browser: for tests and for the docs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from slugify import slugify

from flows import server, ui
from pipeline import tracking

# MLflow's page opens an assistant by itself, and may take an experiment for one with language models.
SETTLED = """
if (location.protocol === "http:") {
    localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
    localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
    localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"');
}
"""
FONT = "*:not(i):not(svg) { font-family: 'DejaVu Sans', sans-serif; }"  # elsewhere its digits come from an emoji font
OWN_ERRORS = ("status of 404", "ResizeObserver")  # that MLflow's page writes to the console: it asks who is logged in
PATIENCE = 30_000  # ms
WHOLE = "img[src*=get-artifact]:not([src*=compressed])"  # a picture in full size
SHOWN = f"[...document.querySelectorAll('{WHOLE}')].some(image => image.naturalWidth > 256)"


@dataclass(frozen=True)
class View:
    """A page: its address, how to get it ready, and what must be seen on it."""

    url: str
    ready: Callable[[Any], None]
    shows: tuple[str, ...]


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """MLflow's server over the store of MLFLOW_TRACKING_URI and Prefect's over its home; their addresses."""
    first, second = server.free_port(), server.free_port()
    with ui.mlflow_page(first) as process, server.dedicated(second):
        assert process is not None
        server.wait(process, f"http://{server.HOST}:{first}/health", "MLflow's server", ui._log(first), says=b"OK")
        yield f"http://{server.HOST}:{first}", f"http://{server.HOST}:{second}"


def views(mlflow: str, name: str, prefect: str, runs: dict[str, str]) -> dict[str, View]:
    """The pages of the line that is registered as `name`; `runs` are the ids of Prefect's flow runs by flow."""
    registry = tracking.connect()
    experiment = registry.client.get_experiment_by_name(name).experiment_id
    champion = registry.alias(name, "champion")
    assert champion is not None
    found = f"{mlflow}/#/experiments/{experiment}/runs"
    model = f"{mlflow}/#/models/{quote(name, safe='')}"
    run = f"{found}/{champion.run_id}/model-metrics"
    return {
        "mlflow-run": View(run, _charts, ("curve", "roc", "overlays")),
        "mlflow-overlays": View(run, _overlays, ("curve", "overlays")),
        "mlflow-compare": View(f"{found}?compareRunsMode=CHART", _charts, ("curve/roc", "curve/pr")),
        "mlflow-registry": View(f"{model}/versions/{champion.number}", _settled, ("champion", "verdict")),
        "prefect-picture": View(
            f"{prefect}/artifacts/artifact/{_last(prefect, f'worst-alarm-{slugify(name)}')}", _picture, ()
        ),
        **{
            f"prefect-{flow}": View(f"{prefect}/runs/flow-run/{run}", _artifacts, ("Completed",))
            for flow, run in runs.items()
        },
    }


def _last(prefect: str, key: str) -> str:
    """The id of the last artifact with a key."""
    asked = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
    return httpx.post(f"{prefect}/api/artifacts/filter", json=asked).raise_for_status().json()[0]["id"]


def opened(page: Any, view: View) -> None:
    """Open a view and wait until it shows what it must."""
    page.set_default_timeout(PATIENCE)
    page.goto(view.url)
    for text in view.shows:
        page.get_by_text(text, exact=False).first.wait_for()
    view.ready(page)


def _settled(page: Any) -> None:
    page.wait_for_timeout(500)


def _charts(page: Any) -> None:
    page.locator(".js-plotly-plot .scatterlayer path.js-line").nth(1).wait_for(
        state="attached"
    )  # a flat one has no area
    _settled(page)


def _overlays(page: Any) -> None:
    page.get_by_text("overlays").first.scroll_into_view_if_needed()  # cards are drawn when they come in sight
    title = page.get_by_text("overlays/anomalies").first
    title.scroll_into_view_if_needed()
    card = page.locator("[data-testid=experiment-view-compare-runs-card]").filter(has=title)
    card.locator("[data-component-id=fullscreen_button_chartcard]").click()  # beside a run's params there is no room
    picture = page.get_by_role("dialog").locator("img[src*=get-artifact]").first
    picture.click(position={"x": 128, "y": 20})
    page.locator(WHOLE).wait_for()
    page.wait_for_function(SHOWN)
    _settled(page)


def _picture(page: Any) -> None:
    page.wait_for_function(
        "[...document.images].some(image => image.src.startsWith('data:') && image.naturalWidth > 0)"
    )
    _settled(page)


def _artifacts(page: Any) -> None:
    page.get_by_text("Artifacts", exact=True).last.click()
    page.get_by_text("Created").first.wait_for()
    _settled(page)
