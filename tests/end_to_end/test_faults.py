"""What goes wrong in the middle: each ends in one sentence and a status, loses nothing, and a rerun is whole."""

import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import copied
from tests.end_to_end.conftest import Checkout, clone

LINE = "examples/wdbc"


@pytest.fixture
def own(tmp_path: Path, migrated: Path) -> Checkout:
    """A clone that the test may break. Its Prefect database is there already: making it takes seconds."""
    checkout = clone(tmp_path)
    (checkout.path / ".prefect").mkdir()
    copied(migrated, checkout.path / ".prefect/prefect.db")
    return checkout


def change(checkout: Checkout, section: str, **values: object) -> None:
    path = checkout.path / LINE / "params.yaml"
    sections = yaml.safe_load(path.read_text())
    sections[section] |= values
    path.write_text(yaml.safe_dump(sections, sort_keys=False))


def sentence(said: str) -> str:
    (line,) = [row for row in said.splitlines() if row.startswith("error: ")][:1]
    assert "Traceback" not in said
    return line


def test_a_misspelt_key_stops_before_anything_runs(own: Checkout) -> None:
    change(own, "candidates", knn={"detector": "table/knn", "neighbors": 5})
    said = own.train(LINE, expect=1)
    assert "candidates.knn.neighbors is not a known key" in sentence(said)
    assert not (own.path / LINE / "data/dataset").exists()


def test_a_source_that_does_not_exist_is_named(own: Checkout) -> None:
    change(own, "dataset", source="data/raw/nothing.csv")
    said = own.train(LINE, expect=1)
    assert "nothing.csv" in sentence(said)
    assert "ingest" in said
    assert not (own.path / LINE / "data/dataset").exists()


def test_fewer_normals_than_the_promise_needs(checkout: Checkout, wdbc: str) -> None:
    params, model = (checkout.path / LINE / name for name in ("params.yaml", "models/knn.calibration.json"))
    text, before = params.read_text(), model.read_bytes()
    try:
        change(checkout, "calibrate", alpha=0.001, confidence=0.99)
        said = checkout.repro(LINE, "--single-item", "calibrate@knn", expect=255)
        assert "error: " in said
        assert "4603" in said  # the smallest n with 0.999 ** n <= 0.01
        assert not model.exists()
    finally:
        params.write_text(text)
    checkout.repro(LINE, "--single-item", "calibrate@knn")
    assert model.read_bytes() == before


def test_a_server_that_is_down_fails_clearly_and_the_rerun_publishes(checkout: Checkout, wdbc: str) -> None:
    said = checkout.repro(
        LINE, "--force", "--single-item", "publish", expect=255, MLFLOW_TRACKING_URI="http://me:secret@127.0.0.1:9"
    )
    assert "127.0.0.1:9" in sentence(said)
    assert "secret" not in said
    checkout.repro(LINE)
    assert (checkout.path / LINE / "reports/published.json").exists()


@pytest.mark.parametrize("stage", ["ingest", "train@smote"])
def test_ctrl_c_in_the_middle_of_a_stage_then_identical_hashes(stage: str, checkout: Checkout, wdbc: str) -> None:
    words = ("--force", "--single-item", stage)  # what is there already would be up to date, or come from the cache
    before = yaml.safe_load(checkout.lock(LINE))["stages"][stage]["outs"]
    process = checkout.start("dvc", "repro", *words, line=LINE)
    log = []
    assert process.stdout is not None
    for row in process.stdout:
        log.append(row)
        if f"Running stage '{stage}'" in row:
            time.sleep(0.6)  # the interpreter has started, and imports or works; the whole stage takes 1.5 s at least
            os.killpg(process.pid, signal.SIGINT)
            break
    process.communicate(timeout=60)
    assert process.returncode != 0, log
    assert not (checkout.path / LINE / before[0]["path"]).exists()
    assert "Running stage" in checkout.repro(LINE, *words)
    assert yaml.safe_load(checkout.lock(LINE))["stages"][stage]["outs"] == before
    assert not list((checkout.path / LINE).rglob("*.partial-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can only be mounted by root")
def test_a_full_disk_in_the_middle_of_a_stage(own: Checkout) -> None:
    data = own.path / LINE / "data"
    for kept in sorted(data.rglob("*"), reverse=True):
        kept.unlink() if kept.is_file() else kept.rmdir()
    if own.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(data), expect=None):
        pytest.skip("this machine's root may not mount a small file system")
    try:
        for name in ("raw", "labelled"):
            (data / name).mkdir()
        said = own.repro(LINE, "ingest", expect=255)
        assert "No space left on device" in sentence(said)
        assert not (data / "dataset").exists()
        assert not list(data.glob(".*"))
    finally:
        own.run("umount", str(data))
    own.repro(LINE, "ingest", expect=None)
