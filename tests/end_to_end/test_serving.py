"""`mlflow models serve` with a champion: real servers, real requests, the scores and decisions of a scored batch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from PIL import Image as Pil

from pipeline import batch, params, recalibration
from tests import small_line
from tests.modalities.pictures import huge_png
from tests.pictures import stripes
from tests.postgres import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds that a server may take to start


@dataclass(frozen=True)
class Served:
    """A server of the champion of `line`, and the batch that was scored with it: one row per sample, by id."""

    url: str
    line: Path
    scores: pd.DataFrame

    def post(self, body: Any = None, **given: Any) -> requests.Response:
        return requests.post(f"{self.url}/invocations", json=body, timeout=60, **given)

    def rows(self, body: Any = None, **given: Any) -> list[dict[str, Any]]:
        came = self.post(body, **given)
        assert came.status_code == 200, came.text
        return came.json()["predictions"]

    def refusal(self, body: Any = None, **given: Any) -> str:
        came = self.post(body, **given)
        assert came.status_code == 400, came.text
        said = came.json()
        assert "stack_trace" not in said
        assert "Traceback" not in came.text
        assert "\n" not in said["message"]
        return said["message"]

    def expected(self, ids: list[str]) -> list[dict[str, Any]]:
        return self.scores.loc[ids, ["score", "p_value", "decision"]].to_dict("records")


@contextmanager
def served(line: Path, folder: Path) -> Iterator[Served]:
    """Make the line's champion, score its batch, and serve the champion from another folder."""
    store = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        small_line.promoted(line)
        given = params.read(line / "params.yaml")
        recalibration.recalibrate(given, line, {"alpha": 0.3, "review": 0.5})  # the server must follow this
        scored = pd.read_parquet(Path(batch.score_batch(given, line)["folder"], "scores.parquet"))
    port = free_port()
    words = ("models", "serve", "-m", f"models:/{given.promote.name}@champion", "--env-manager", "local")
    with (folder / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": store,
                "PYTHONPATH": str(ROOT),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + PATIENCE
        while not answers(port):
            assert server.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < until, (folder / "serve.log").read_text()
            time.sleep(0.1)
        yield Served(f"http://127.0.0.1:{port}", line, scored.set_index("id"))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def table(line_that_ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("table")
    with served(Path(shutil.copytree(line_that_ran, folder / "line")), folder) as found:
        yield found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("images")
    line = folder / "line"
    pictures = stripes(48, seed=0)
    pictures[40:, :, 10:20, 10:20] = 255
    for index, picture in enumerate(pictures):
        kind = "incoming" if index % 6 == 0 else "data/raw/good" if index < 40 else "data/raw/bad"
        (line / kind).mkdir(parents=True, exist_ok=True)
        Pil.fromarray(picture.transpose(1, 2, 0)).save(line / kind / f"{index:02d}.png")
    (line / "dvc.lock").write_text("schema: '2.0'\n", encoding="utf-8")
    changed = {
        "dataset": {"source": "data/raw", "kind": "image", "size": [48, 48]},
        "candidates": {"gaussian": {"detector": "image/gaussian", "backbone": "filterbank"}},
        "promote": {"name": "stripes"},
        "score": {"source": "incoming"},
    }
    small_line.write(line, small_line.PARAMS | changed)
    small_line.run(line, "gaussian")
    with served(line, folder) as found:
        yield found


def incoming(table: Served) -> pd.DataFrame:
    """The rows of the batch that were not quarantined."""
    frame = pd.read_csv(table.line / "incoming.csv", dtype={"a": str})
    return frame[frame["a"] != "broken"].astype({"a": float})


def test_a_table_as_json_gives_the_scores_of_the_batch(table: Served) -> None:
    frame = incoming(table)
    expected = table.expected(frame["id"].astype(str).tolist())
    assert {row["decision"] for row in expected} == {"accept", "review", "reject"}
    columns = frame.to_dict("list")
    for body in (
        {"dataframe_records": frame.to_dict("records")},
        {"dataframe_records": frame[list("dcba")].to_dict("records")},
        {"dataframe_split": frame.to_dict("split")},
        {"inputs": columns},
        {"instances": frame.to_dict("records")},
    ):
        assert table.rows(body) == expected
    assert [table.rows({"inputs": {k: v[i : i + 1] for k, v in columns.items()}})[0] for i in (0, 3)] == [
        expected[i] for i in (0, 3)
    ]
    assert table.rows({"dataframe_records": []}) == []


def test_a_table_as_csv_gives_the_scores_of_the_batch(table: Served) -> None:
    frame = incoming(table)
    data = frame.to_csv(index=False).encode()
    came = table.rows(data=data, headers={"Content-Type": "text/csv"})
    assert came == table.expected(frame["id"].astype(str).tolist())


def test_a_table_that_cannot_be_scored_ends_in_one_sentence(table: Served) -> None:
    row = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
    lacking = {name: row[name] for name in "abc"}
    assert table.refusal({"dataframe_records": [lacking]}).startswith("column 'd' is missing; the model was trained on")
    assert table.refusal({"dataframe_records": [row | {"e": 1}]}).startswith("column 'e' is unknown")
    assert table.refusal({"dataframe_records": [row | {"a": "x"}]}) == (
        "column 'a' must hold numbers as in training, got texts"
    )
    assert "must hold finite numbers, got inf" in table.refusal(
        data=b'{"dataframe_records": [{"a": 1e999, "b": 1, "c": 1, "d": 1}]}',
        headers={"Content-Type": "application/json"},
    )
    assert table.refusal({"inputs": [[1, 2, 3, 4]]}) == "samples must come as columns with names, got ndarray"
    assert "same length" in table.refusal({"inputs": {"a": [1, 2], "b": [1], "c": [1], "d": [1]}})
    assert table.rows({"dataframe_records": [row]})  # and goes on


def test_images_as_paths_or_base64_give_the_scores_of_the_batch(images: Served) -> None:
    files = sorted((images.line / "incoming").iterdir())
    expected = images.expected([file.name for file in files])
    assert len({row["decision"] for row in expected}) > 1
    texts = [b64encode(file.read_bytes()).decode() for file in files]
    mixed = [{"path": str(files[0])}, *({"image": f"data:image/png;base64,{text}"} for text in texts[1:])]
    for body in (
        {"dataframe_split": {"columns": ["path"], "data": [[str(file)] for file in files]}},
        {"dataframe_records": [{"image": text} for text in texts]},
        {"dataframe_records": mixed},
        {"inputs": {"image": texts}},
    ):
        assert images.rows(body) == expected
    csv = pd.DataFrame({"path": files}).to_csv(index=False).encode()
    assert images.rows(data=csv, headers={"Content-Type": "text/csv"}) == expected
    (alone,) = images.rows({"dataframe_records": [{"image": texts[1]}]})
    assert alone == expected[1] | {"score": pytest.approx(expected[1]["score"], rel=1e-5)}  # of another size of batch


def test_an_image_that_cannot_be_scored_ends_in_one_sentence(images: Served) -> None:
    def refusal(**row: object) -> str:
        return images.refusal({"dataframe_records": [row]})

    (good, *_) = sorted((images.line / "incoming").iterdir())
    data = good.read_bytes()
    assert refusal(image="no base64!").startswith("row 1: column image must hold base64 of a file, got 'no base64!'")
    assert refusal(image=b64encode(b"plain words").decode()).startswith(
        "image in row 1 cannot be used: not an image in a known format"
    )
    assert refusal(image=b64encode(data[:-200]).decode()).startswith("image in row 1 cannot be used: truncated")
    assert refusal(image=b64encode(huge_png()).decode()) == (
        "image in row 1 cannot be used: 10000 x 10000 pixels are more than dataset.max_pixels allows (50,000,000)"
    )
    assert refusal(path=str(good.with_name("none.png"))).endswith("cannot be used: the file is missing")
    assert refusal(path=str(good.parent)).endswith("cannot be used: the file cannot be read: Is a directory")
    assert refusal(path=b64encode(data).decode()).startswith("row 1: column path must hold the path of a file")
    assert refusal(path=str(good), image=b64encode(data).decode()) == "row 1 must have a path or an image, got both"
    assert refusal(path=None, category="") == "row 1 must have a path or an image, got neither"
    assert refusal(file=str(good)).endswith("got the columns file")
    assert np.isfinite(images.rows({"dataframe_records": [{"path": str(good)}]})[0]["score"])  # and goes on
