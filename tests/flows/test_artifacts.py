"""What runs show on Prefect's page, on a real server; and that what cannot be shown fails nothing."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prefect import flow
from prefect.artifacts import Artifact

from flows import artifacts
from tests.flows.conftest import LOOSE_SOCKETS

pytestmark = LOOSE_SOCKETS


def noise(side: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_a_run_shows_tables_texts_pictures_links_and_progress(
    prefect: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(artifacts, "EVERY", 0.0)
    (tmp_path / "small.png").write_bytes(noise(4))

    @flow(name="shows", persist_result=False)
    def shows() -> None:
        artifacts.table([{"a": n} for n in range(501)], "rows", "Lines/Camera 3", "many")
        artifacts.text("# hello", "text", "x")
        artifacts.picture(tmp_path / "small.png", "small", "x", "four pixels")
        artifacts.picture(lambda: noise(700), "large", "x")
        artifacts.version("Ünï 3", 7)
        artifacts.version("nobody", None)
        progress = artifacts.Progress(4, "stages", "progress", "x")
        for done in range(1, 5):
            progress.at(done)
        artifacts.Progress(1, "stages", "single", "x").at(1)

    shows()
    table = Artifact.get("rows-lines-camera-3")
    assert len(json.loads(table.data)) == artifacts.ROWS
    assert table.description == "many (the first 500 of 501 rows)"
    assert Artifact.get("text-x").data == "# hello"
    assert Artifact.get("small-x").data == f"data:image/png;base64,{base64.b64encode(noise(4)).decode()}"
    assert Artifact.get("large-x").data.startswith("data:image/jpeg;base64,")
    assert len(Artifact.get("large-x").data) < 1.4 * artifacts.LARGE
    link = Artifact.get("model-uni-3").data
    assert "http://127.0.0.1:5000/#/models/%C3%9Cn%C3%AF%203/versions/7" in link
    assert Artifact.get("model-nobody") is None
    assert Artifact.get("progress-x").data == 100.0
    assert Artifact.get("progress-x").description == "4 of 4 stages"
    assert Artifact.get("single-x") is None
    assert capsys.readouterr().err == ""


def test_progress_is_told_now_and_then_and_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(artifacts, "create_progress_artifact", lambda *words, **named: 1)
    monkeypatch.setattr(artifacts, "update_progress_artifact", lambda _, share, **named: told.append(share))
    progress = artifacts.Progress(1000, "shards", "shards", "x")
    for done in range(1, 1001):
        progress.at(done)
    assert told == [100.0]


def test_what_cannot_be_shown_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts.picture(tmp_path / "gone.png", "gone", "x")
    assert "warning: nothing is shown of this on Prefect's page: [Errno 2]" in capsys.readouterr().err
    artifacts.picture(lambda: b"no picture" * artifacts.LARGE, "bad", "x")
    assert "cannot identify image file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("sqlite:////a/mlflow.db", artifacts.LOCAL),
        ("http://me:secret@mlflow.plant:5000/", "http://mlflow.plant:5000"),
        ("https://plant/mlflow", "https://plant/mlflow"),
    ],
)
def test_links_go_to_the_servers_page_without_a_password(uri: str, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert artifacts.mlflow_page() == page


def test_keys_are_what_prefect_takes() -> None:
    assert artifacts.key("batch", "Öl & Gas/7 <b>") == "batch-ol-gas-7-b"
    assert artifacts.key("summary", ".") == artifacts.key("summary", "😀") == "summary-line"
    assert len(artifacts.key("batch", "x" * 999)) == 206
