"""Pages for people: of each candidate that was published last, of how they compare, of a scored batch. `make report`

python -m flows.report --line examples/magnetic_tile
python -m flows.report --line examples/magnetic_tile --batch 5e9ce9231e16-v1
"""

import argparse
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingContextError
from slugify import slugify

from flows import server
from flows.settings import ROOT, shown
from pipeline import params
from pipeline.ending import LOG, one_sentence
from pipeline.errors import AssayError, RegistryError
from pipeline.params import Params


def _is_registry_down(_task: Any, _run: Any, state: Any) -> bool:
    """Whether to try again: a server may come back, a disk does not get emptier."""
    return isinstance(state.result(raise_on_failure=False), RegistryError)


@task(
    task_run_name="pages",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=_is_registry_down,
)
def make_pages(given: Params, folder: Path) -> dict[str, Any]:
    """The pages of the line in `folder` by name (see reports/pages.py); what is unchanged is left alone.

    Raises LineError when nothing was published, RegistryError when a server cannot be reached."""
    from pipeline.reports import pages

    return pages.of_line(given, folder)


@task(task_run_name="page of {folder.name}", cache_policy=NO_CACHE)
def make_batch_page(folder: Path) -> Any:
    """The page of the scored batch in `folder`. Raises DataError when none was scored there, RegistryError when the
    database cannot be reached."""
    from pipeline.reports import pages

    return pages.scored(folder)


@flow(name="report", flow_run_name="report {line}", persist_result=False)
def report(line: str = ".", batch: str = "") -> list[str]:
    """Make the pages of the line in the folder `line` (seen from the checkout), or that of its scored batch `batch`;
    the paths of the HTML files.

    Raises LineError when nothing was published, DataError for a batch that was not scored, RegistryError when a server
    cannot be reached."""
    folder = (ROOT / line).resolve()
    given = params.read(folder / "params.yaml")
    if batch:
        from pipeline.reports import pages

        found = {batch: make_batch_page(pages.batch_folder(folder, batch))}
    else:
        found = make_pages(given, folder)
    return _show(given, found)


def after_training(line: str) -> list[str]:
    """The pages of a line after its promotion, unless params say otherwise; the paths of the HTML files.

    What goes wrong is told, and undoes nothing: the line has run."""
    if not params.read((ROOT / line).resolve() / "params.yaml").score.report:
        return []
    try:
        return report(line)
    except Exception as error:  # a page tells of the work, and must not undo it
        _warn("the pages of the line could not be made", error)
        return []


def after_scoring(given: Params, folder: Path) -> str | None:
    """The page of a batch that was just scored, as the path of its HTML file; None without one. As `after_training`."""
    if not given.score.report:
        return None
    try:
        return _show(given, {folder.name: make_batch_page(folder)})[0]
    except Exception as error:
        _warn(f"the page of batch {folder.name} could not be made", error)
        return None


def _warn(what: str, error: Exception) -> None:
    """Tell on stderr and in Prefect's log what went wrong; a defect of ours leaves its traceback in the log."""
    said = str(error) if isinstance(error, AssayError) else f"{type(error).__name__}: {error}"
    print(f"warning: {what}: {said}", file=sys.stderr, flush=True)
    with suppress(MissingContextError):  # no flow is at work
        get_run_logger().warning("%s: %s", what, said, exc_info=not isinstance(error, AssayError))


def _show(given: Params, found: dict[str, Any]) -> list[str]:
    """Name the pages on the run's Prefect page; the paths of the HTML files."""
    rows = []
    for name, page in found.items():
        files = " and ".join(f"`{shown(file)}`" for file in page.files)
        rows.append(f"- {_plain(name)}: {files}{' (new)' if page.new else ''}")
    markdown = "\n".join(["Pages to open in a browser, each of them one file:", "", *rows])
    kind = "batch-page" if len(found) == 1 and next(iter(found)) not in given.candidates else "pages"
    create_markdown_artifact(markdown, key=f"{kind}-{slugify(given.promote.name)}", description="reports for people")
    return [shown(page.files[0]) for page in found.values()]


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in " .-_@" else " " for c in name)


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.report", description="make the pages of a line for people")
    parser.add_argument("--line", default=".", help="the line's folder")
    parser.add_argument("--batch", default="", help="a scored batch: the name of a folder in the line's scores/")
    chosen = parser.parse_args(words)
    folder = Path(chosen.line).resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        one_sentence(folder / LOG if folder.is_dir() else ROOT / LOG),
        server.running(lambda: params.read(folder / "params.yaml").check()),
    ):
        made = report(str(folder), chosen.batch)
    print("\n".join(made))


if __name__ == "__main__":
    main(*sys.argv[1:])
