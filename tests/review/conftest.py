"""Lines with a scored batch to review, and the page over them, served by a thread of the test's own."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
import yaml
from PIL import Image as Pil

from pipeline.files import sha256, write_json
from pipeline.modalities.image import Image
from pipeline.modalities.table import Table
from pipeline.review import app
from pipeline.review.__main__ import bound
from pipeline.review.batches import Line
from pipeline.review.guard import Guard
from pipeline.samples import read_manifest
from tests import small_line
from tests.pictures import stripes
from tests.scored import scored

BATCH = "night-v1"
MODEL = ".assay/models/parts/v1-0123-given"  # where batch.py keeps it
NAMES = (
    "a b.png",
    "quo\"te's.png",
    "<script>alert(1)</script>.png",
    "emoji 🧲.png",
    "dots..in...png",
    "deep/er/&amp;.png",
    "=1+1.png",
    "semi;colon,comma.png",
    "%2e%2e.png",
    "plain.png",
    "zz accepted.png",
)
DECISIONS = [
    "reject",
    "review",
    "reject",
    "review",
    "reject",
    "reject",
    "reject",
    "review",
    "review",
    "reject",
    "accept",
]


def params(line: Path, kind: str, **options: Any) -> Path:
    """The params of a line whose only use is to be reviewed."""
    sections = {**small_line.PARAMS, "dataset": {"source": "data/raw", "kind": kind, **options}}
    (line / "params.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
    return line


@pytest.fixture(scope="session")
def pictures_scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A line that scored images with odd names, all but one of them to be reviewed; its model is damaged, so that no
    page asks a registry for it. Not to be changed."""
    line = tmp_path_factory.mktemp("pictures") / "line"
    for name, image in zip(NAMES, stripes(len(NAMES), 0), strict=True):
        path = line / "incoming" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Pil.fromarray(image.transpose(1, 2, 0)).resize((96, 64)).save(path)
    scored(line, BATCH, Image(size=(48, 48)), line / "incoming", DECISIONS)
    (line / MODEL).mkdir(parents=True)
    (line / MODEL / "calibration.json").write_text("nonsense")
    return params(line, "image", size=[48, 48])


@pytest.fixture
def pictures(pictures_scored: Path, tmp_path: Path) -> Path:
    """A copy of that line, for this test alone."""
    return Path(shutil.copytree(pictures_scored, tmp_path / "pictures"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A line that scored six rows of a table, four of them to be reviewed."""
    line = tmp_path / "rows"
    line.mkdir()
    small_line.table(6, 0, seed=5).drop(columns="label").to_csv(line / "incoming.csv", index=False)
    scored(line, BATCH, Table(), line / "incoming.csv", ["reject", "reject", "review", "accept", "accept", "review"])
    return params(line, "table")


@dataclass
class Served:
    """A page that is being served; `stop` ends it, as Ctrl-C does."""

    url: str
    port: int
    stop: Callable[[], None]


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Serve a line's page: `serve(folder)`, as often as one likes."""
    stops: list[Callable[[], None]] = []

    def start(line: Path, who: str | None = None, token: str | None = None, port: int = 0) -> Served:
        listening = bound("127.0.0.1", port)
        port = listening.getsockname()[1]
        guarded = Guard(app.make(Line(line), who), "127.0.0.1", token, f"assay_review_{port}")
        server = uvicorn.Server(uvicorn.Config(guarded, log_level="error", ws="none", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()

        def stop() -> None:
            server.should_exit = server.force_exit = True
            thread.join(10)
            listening.close()

        stops.append(stop)
        return Served(f"http://127.0.0.1:{port}", port, stop)

    yield start
    for stop in stops:
        stop()


def model(line: Path, maps: bool) -> Path:
    """Put the model that scored a line of pictures where it belongs; with or without maps."""
    from pipeline import store, threshold
    from pipeline.detectors.image.gaussian import Gaussian
    from pipeline.plan import Plan

    modality, folder = Image(size=(48, 48)), line / "scores" / BATCH
    samples = modality.samples(read_manifest(folder / "samples/00000"))
    place = line / MODEL
    (place / "model").mkdir(parents=True)
    detector = Gaussian(maps=maps).fit(samples)
    store.save(detector, "image/gaussian", place / "model", kind="image", modality=modality, data="")
    plan = Plan.read({"alpha": 0.1, "confidence": None}, "calibrate", "params.yaml")
    known = threshold.Scored(np.arange(20, dtype=np.float32) / 4)
    calibration = threshold.calibrate(plan, known, sha256(place / "model"))
    write_json(place / "calibration.json", calibration.to_json())
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    write_json(folder / "report.json", report | {"promise": calibration.says()})
    return line


@pytest.fixture
def heated(pictures: Path) -> Path:
    """A line of pictures with the model that scored it, which tells places."""
    return model(pictures, maps=True)


@pytest.fixture
def page(serve: Callable[..., Served], context: Any) -> Any:
    """A page in a browser that is closed before what it shows is no longer served."""
    return context.new_page()
