"""The site builds, is whole, loads nothing from elsewhere, and says what the code says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import catalogue, detectors, modalities, params, reference, rules, sinks, wrappers
from pipeline.operation import Monitor, Promote, Schedule, Score
from pipeline.rules.conformal import order
from pipeline.tables import find

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SECTIONS = (*params.READ, "candidates")
WHOLE = {  # what a section that a page shows in part stands in
    "dataset": {"source": "data/raw", "kind": "image"},
    "augment": {"kind": "none"},
    "candidates": {"one": {"detector": "image/patchcore"}},
    "promote": {"name": "x"},
    "score": {"source": "x"},
}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does, where no request reaches anything."""
    to = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(to)]
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return to


class Loads(HTMLParser):
    """What a page loads: addresses of scripts, styles, pictures, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(given.get("href") or "")
        elif tag in ("script", "img", "source", "iframe", "video", "audio", "object", "embed"):
            self.found += [address for key in ("src", "srcset", "data") if (address := given.get(key))]


def outside(address: str) -> bool:
    return "//" in address and not address.startswith("data:")


def test_no_page_and_no_style_loads_anything_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for path in pages:
        text = path.read_text(encoding="utf-8")
        loads = Loads()
        loads.feed(text)
        assert loads.found
        assert list(filter(outside, loads.found)) == [], path.name
        assert "mermaid" not in text  # the theme would load it from a CDN
    for path in site.rglob("*.css"):
        loaded = re.findall(r"url\(([^)]*)\)|@import\s+([^;]+)", path.read_text(encoding="utf-8"))
        assert [a or b for a, b in loaded if outside((a or b).strip("\"'"))] == [], path.name


def test_every_check_of_links_and_pages_is_on() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert {level for group in config["validation"].values() for level in group.values()} == {"warn"}
    assert {"omitted_files", "not_found", "absolute_links"} <= set(config["validation"]["nav"])
    assert {"not_found", "absolute_links", "unrecognized_links", "anchors"} <= set(config["validation"]["links"])
    assert config["theme"]["font"] is False


def test_a_person_finds_a_page_by_searching_and_reads_it_in_the_dark(site: Path, page: Any, served: str) -> None:
    page.goto(f"{served}/index.html")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_title("Dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.keyboard.press("/")
    page.keyboard.type("escape_rate")
    page.locator(".md-search-result__link").first.click()
    page.wait_for_url(re.compile(r"\?h="))
    assert "escape_rate" in page.locator("article").inner_text()
    page.wait_for_load_state("networkidle")  # the server ends with the test: nothing may be on its way then


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    """The address of the site on loopback; from file:// a browser does not let it search."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_pages_made_from_the_code_are_current() -> None:
    assert catalogue.page() == PAGES["docs/detectors.md"], "run python -m pipeline.catalogue"
    for name, made in reference.PAGES.items():
        assert made() == PAGES[f"docs/reference/{name}"], "run python -m pipeline.reference"


def commands() -> set[str]:
    """Every command in a shell block or in code within a line."""
    found: set[str] = set()
    for text in PAGES.values():
        shell = "\n".join(body for language, body in FENCE.findall(text) if language in ("sh", ""))
        found |= {line.strip() for line in shell.replace("\\\n", " ").splitlines()}
        found |= set(INLINE.findall(FENCE.sub("", text)))
    return found


def test_every_make_command_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {word for line in commands() for word in re.findall(r"(?:^|&& |; )make ([a-z]+)", line)}
    assert len(named) > 10
    assert named - targets == set()


def test_every_python_command_exists_and_knows_its_options() -> None:
    named = [
        (module, rest)
        for line in commands()
        for module, rest in re.findall(r"python -m ((?:pipeline|flows|benchmarks|tests)[\w.]*)([^;&|#]*)", line)
    ]
    assert len(named) > 20
    for module, rest in named:
        path = ROOT / module.replace(".", "/")
        file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        assert file.exists(), f"python -m {module}"
        source = file.read_text(encoding="utf-8")
        unknown = [option for option in re.findall(r"(?<!\S)\[?(--[a-z-]+)", rest) if f'"{option}"' not in source]
        assert unknown == [], f"python -m {module}"


def shown() -> list[tuple[str, str]]:
    """Params that pages show, in a block or within a line, with the page of each."""
    begins = re.compile(rf"(?:{'|'.join(SECTIONS)}):(?: *\{{|\n)")
    found = []
    for name, text in PAGES.items():
        found += [(name, body) for language, body in FENCE.findall(text) if language == "yaml"]
        found += [(name, code) for code in INLINE.findall(FENCE.sub("", text)) if begins.match(code)]
    return [(name, text) for name, text in found if not re.search(r"\b[A-Z]{3,}\b", text)]  # with a place for a name


@pytest.mark.parametrize(("page_name", "text"), shown(), ids=lambda value: value.split("\n")[0][:60])
def test_params_that_a_page_shows_are_accepted(page_name: str, text: str) -> None:
    given = yaml.safe_load(text.replace("...", "x"))
    sections = {name: {**WHOLE.get(name, {}), **part} for name, part in given.items() if isinstance(part, dict)}
    if page_name.endswith("own-detector.md"):
        sections["candidates"] = WHOLE["candidates"]  # the page's own detector is not in the table
    params.Params(WHOLE | sections, Path("params.yaml")).check()


def test_every_key_that_a_page_names_is_known() -> None:
    known = {f"{section}.{key}" for section, names in known_keys().items() for key in names}
    pattern = re.compile(rf"^((?:{'|'.join(known_keys())})\.[a-z_]+(?:\.[a-z_]+)*)(?::|$)")
    named = {key for text in PAGES.values() for code in INLINE.findall(text) for key in pattern.findall(code)}
    named = {key for key in named if not key.endswith((".md", ".py", ".json", ".parquet", ".csv", ".html", ".yaml"))}
    assert len(named) > 5
    assert named - known == set()


def known_keys() -> dict[str, set[str]]:
    def of(*classes: Any) -> set[str]:
        return {key.name for cls in classes for key in reference.keys(cls)}

    def every(table: Any) -> list[Any]:
        return [find(table, key, "x") for key in table.TABLE]

    return {
        "dataset": of(params.Dataset, *every(modalities)),
        "split": of(params.Split),
        "augment": {"kind"},
        "calibrate": {"rule", "review", "by"} | of(*every(rules)),
        "promote": of(Promote),
        "score": of(Score),
        "monitor": of(Monitor),
        "schedule": of(Schedule),
    }


def test_every_key_of_params_says_what_it_means() -> None:
    classes = [params.Dataset, params.Split, Promote, Score, Monitor, Schedule]
    classes += [find(table, key, "x") for table in (modalities, rules, sinks, wrappers) for key in table.TABLE]
    classes += [find(detectors, key, "x") for key in detectors.TABLE]
    silent = [f"{cls.__name__}.{key.name}" for cls in classes for key in reference.keys(cls) if not key.says]
    assert silent == []


def test_pictures_have_alt_texts() -> None:
    for name, text in PAGES.items():
        for alt in re.findall(r"!\[([^\]]*)\]\(", FENCE.sub("", text)):
            assert len(alt) > 10, name


def test_the_front_page_shows_every_stage_in_its_order() -> None:
    stages = [*yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]]
    shown_there = re.findall(r"<li>([a-z]+)<", PAGES["docs/index.md"])
    assert sorted(shown_there) == sorted(stages)


def test_the_numbers_of_normals_that_promises_need_are_right() -> None:
    rows = re.findall(r"^\| `alpha: ([\d.]+)` \| (\d+) \| (\d+) \| (\d+) \|$", PAGES["docs/threshold.md"], re.MULTILINE)
    assert len(rows) == 3
    for alpha, *needed in rows:
        for confidence, n in zip((None, 0.9, 0.95), map(int, needed), strict=True):
            assert order(n, float(alpha), confidence) == 1
            assert order(n - 1, float(alpha), confidence) == 0
