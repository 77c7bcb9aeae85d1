"""Both demos through the real DVC, Great Expectations, MLflow and Prefect, from a fresh clone."""

import json
import shutil
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.end_to_end.conftest import Checkout, kept

LINES = [("textures", "."), ("wdbc", "examples/wdbc")]


@pytest.fixture(params=LINES, ids=lambda p: p[0])
def ran(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The name of a demo line that has run, and its folder."""
    request.getfixturevalue("wdbc")
    return request.param


def report(checkout: Checkout, line: str, name: str) -> dict[str, object]:
    return json.loads((checkout.path / line / "reports" / name).read_text(encoding="utf-8"))


def rows(checkout: Checkout, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(checkout.path / "mlflow.db") as store:
        return store.execute(query).fetchall()


def test_ends_with_a_champion_that_scored_a_batch(ran: tuple[str, str], checkout: Checkout) -> None:
    name, line = ran
    champion = rows(checkout, f"select version from registered_model_aliases where name='{name}' and alias='champion'")
    assert len(champion) == 1
    (scored,) = (checkout.path / line / "scores").glob("*/scores.parquet")
    scores = pd.read_parquet(scored)
    assert scores["id"].is_unique
    assert set(scores["decision"]) <= {"accept", "review", "reject"}
    assert (scores["model_version"].astype(int) == int(str(champion[0][0]))).all()
    assert scores["p_value"].between(0, 1, inclusive="right").all()
    receipt = report(checkout, line, "published.json")
    given = yaml.safe_load((checkout.path / line / "params.yaml").read_text())
    assert set(receipt["candidates"]) == set(given["candidates"])


def test_the_summary_names_every_candidate_the_champion_and_the_pages(checkout: Checkout, textures: str) -> None:
    for word in ("patchcore", "gaussian", "champion", "AUROC", "reports/", "make ui"):
        assert word in textures
    assert "Traceback" not in textures


def test_calibration_normals_are_in_no_other_part(ran: tuple[str, str], checkout: Checkout) -> None:
    data = checkout.path / ran[1] / "data"
    parts = pd.read_parquet(data / "split.parquet").merge(pd.read_parquet(data / "dataset/manifest.parquet"), on="id")
    assert parts["id"].is_unique
    assert (parts.loc[parts["part"] == "calibrate", "label"] == 0).all()
    for key in ("group", "sha256"):
        known = parts[parts[key].fillna("") != ""]
        assert (known.groupby(key)["part"].nunique() == 1).all()


def test_models_hold_no_pickle(ran: tuple[str, str], checkout: Checkout) -> None:
    files = [p for folder in ("models", "../../mlartifacts" if ran[1] != "." else "mlartifacts")
             for p in (checkout.path / ran[1] / folder).rglob("*") if p.is_file()]  # fmt: skip
    assert files
    assert not [p for p in files if p.suffix in {".pkl", ".pickle", ".pt", ".pth", ".joblib"}]
    assert not [p for p in files if p.read_bytes()[:2] in {b"\x80\x04", b"\x80\x05"}]


def test_nothing_to_do_means_nothing_done(ran: tuple[str, str], checkout: Checkout) -> None:
    _, line = ran
    before = checkout.lock(line)
    assert "Data and pipelines are up to date." in checkout.repro(line)
    assert checkout.lock(line) == before


def test_the_same_run_again_adds_nothing(checkout: Checkout, wdbc: str) -> None:
    counts = [rows(checkout, f"select count(*) from {table}") for table in ("model_versions", "runs", "logged_models")]
    said = checkout.train("examples/wdbc")
    assert said.count("up to date") == 15
    assert counts == [
        rows(checkout, f"select count(*) from {table}") for table in ("model_versions", "runs", "logged_models")
    ]
    assert len(list((checkout.path / "examples/wdbc/scores").glob("*/scores.parquet"))) == 1


def test_one_line_does_not_touch_another(checkout: Checkout, textures: str, wdbc: str) -> None:
    assert kept(checkout) == checkout.marks["textures"]  # as it was before the other line ran
    changed = checkout.run("git", "status", "--porcelain", "--untracked-files=no")
    assert "params.yaml" not in changed


def test_editing_one_candidate_leaves_the_others_up_to_date(checkout: Checkout, wdbc: str) -> None:
    params = checkout.path / "examples/wdbc/params.yaml"
    text = params.read_text()
    try:
        params.write_text(text.replace("detector: table/knn", "detector: table/knn, neighbours: 7"))
        stale = json.loads(checkout.run("dvc", "status", "--json", line="examples/wdbc"))
    finally:
        params.write_text(text)
    assert set(stale) == {"train@knn", "calibrate@knn", "evaluate@knn", "compare", "publish"}


def test_push_wipe_pull_reproduce_gives_identical_hashes(checkout: Checkout, wdbc: str, tmp_path: Path) -> None:
    line = checkout.path / "examples/wdbc"
    before = checkout.lock("examples/wdbc")
    checkout.run("dvc", "remote", "add", "--local", "--default", "shelf", str(tmp_path / "shelf"), line="examples/wdbc")
    checkout.run("dvc", "push", line="examples/wdbc")
    for folder in ("models", "reports", "data/dataset", "data/quarantine", "data/augmented", ".dvc/cache"):
        shutil.rmtree(line / folder)
    (line / "data/split.parquet").unlink()
    checkout.run("dvc", "pull", line="examples/wdbc", expect=None)  # the receipt is in no remote, by design
    said = checkout.repro("examples/wdbc")
    assert "Running stage 'publish'" in said
    assert "Running stage 'train" not in said
    assert checkout.lock("examples/wdbc") == before


def test_a_fresh_registry_is_filled_again(checkout: Checkout, wdbc: str, tmp_path: Path) -> None:
    words = ("python", "-m", "flows.train", "--line", "examples/wdbc", "--no-score")
    said = checkout.run(*words, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    assert "champion" in said
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute("select count(*) from model_versions").fetchone() == (3,)
