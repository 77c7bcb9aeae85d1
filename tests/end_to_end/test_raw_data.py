"""Raw data versioned by DVC: added, imported, pushed, wiped, pulled; a change makes ingest run again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.end_to_end.conftest import Checkout, clone

LINE = "lines/plant"


@pytest.fixture
def line(tmp_path: Path) -> Checkout:
    """A clone with a line of its own, made as a user makes it, on a table in data/raw/."""
    checkout = clone(tmp_path)
    checkout.run("python", "-m", "pipeline.line", LINE, "--like", "examples/wdbc")
    params = checkout.path / LINE / "params.yaml"
    sections = yaml.safe_load(params.read_text())
    sections["dataset"] = {"source": "data/raw/table.csv", "watch": "data/raw", "kind": "table"}
    sections["augment"] = {"kind": "none"}
    params.write_text(yaml.safe_dump(sections, sort_keys=False))
    return checkout


def table(path: Path, rows: int) -> None:
    rng = np.random.default_rng(rows)
    frame = pd.DataFrame(rng.normal(size=(rows, 3)), columns=["a", "b", "c"]).assign(label=0)
    frame.loc[::10, "label"] = 1
    frame.to_csv(path, index=False)


def test_added_pushed_wiped_and_pulled_gives_the_same_line(line: Checkout, tmp_path: Path) -> None:
    here = line.path / LINE
    table(here / "data/raw/table.csv", 200)
    line.run("dvc", "add", "data/raw/table.csv", line=LINE)
    line.run("dvc", "remote", "add", "--default", "shelf", str(tmp_path / "shelf"), line=LINE)
    line.repro(LINE, "validate", "augment")
    before = line.lock(LINE)
    line.run("dvc", "push", line=LINE)
    tracked = line.run("git", "status", "--porcelain", "--untracked-files=all", line=LINE)
    assert "table.csv.dvc" in tracked
    assert "dataset" not in tracked
    for gone in ("data/dataset", "data/quarantine", "data/augmented", ".dvc/cache", "reports"):
        shutil.rmtree(here / gone)
    (here / "data/raw/table.csv").unlink()
    (here / "data/split.parquet").unlink()
    line.run("dvc", "pull", line=LINE, expect=None)  # stages that never ran have nothing on the shelf
    said = line.repro(LINE, "validate", "augment")
    assert "Running stage" not in said
    assert line.lock(LINE) == before


def test_imported_data_are_followed_to_where_they_lie(line: Checkout, tmp_path: Path) -> None:
    origin = tmp_path / "plant.csv"
    table(origin, 200)
    line.run("dvc", "import-url", str(origin), "data/raw/table.csv", line=LINE)
    line.repro(LINE, "split")
    assert json.loads(line.run("dvc", "status", "--json", "ingest", line=LINE)) == {}
    table(origin, 300)
    line.run("dvc", "update", "data/raw/table.csv.dvc", line=LINE)
    assert set(json.loads(line.run("dvc", "status", "--json", "ingest", line=LINE))) >= {"ingest"}
    line.repro(LINE, "split")
    assert len(pd.read_parquet(line.path / LINE / "data/split.parquet")) == 300


def test_imported_from_another_repository_it_is_pinned_to_a_commit(line: Checkout, tmp_path: Path) -> None:
    other = tmp_path / "archive"
    other.mkdir()
    table(other / "table.csv", 200)
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (("git", "init", "--quiet"), ("dvc", "init", "--quiet"), ("dvc", "add", "--quiet", "table.csv")):
        line.run(*command, line=str(other))
    line.run("git", "add", "--all", line=str(other))
    line.run("git", *who, "commit", "--quiet", "--message", "a table", line=str(other))
    line.run("dvc", "import", str(other), "table.csv", "--out", "data/raw/table.csv", line=LINE)
    assert "rev_lock" in (line.path / LINE / "data/raw/table.csv.dvc").read_text()
    line.repro(LINE, "split")
    assert len(pd.read_parquet(line.path / LINE / "data/split.parquet")) == 200
