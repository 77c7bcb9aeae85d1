"""Labels through the flow and its command: real DVC, a real Prefect server, up to the next training."""

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from prefect.settings import PREFECT_API_URL

from flows import label
from flows.settings import stage_environment
from pipeline import batch, feedback, params, store
from pipeline.errors import DataError, LineError
from pipeline.labelled import SAMPLES
from pipeline.samples import part, read_manifest
from pipeline.stages import DATASET, MODELS, SPLIT, augment, ingest, split, train
from tests import small_line
from tests.flows.conftest import LOOSE_SOCKETS
from tests.scored import images, scored

ROOT = Path(__file__).parents[2]
pytestmark = LOOSE_SOCKETS
DVC = SAMPLES.with_name("samples.dvc")


def under_dvc(line: Path) -> Path:
    """Make a folder with params a line on the DAG of this checkout, as `pipeline.line` does."""
    (line / ".dvc").mkdir()
    (line / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n    no_scm = true\n")
    for watched in ("data/raw", "data/labelled"):
        (line / watched).mkdir(parents=True, exist_ok=True)
        (line / watched / ".gitkeep").touch()
    (line / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
    sections = yaml.safe_load((line / "params.yaml").read_text(encoding="utf-8"))
    small_line.write(line, sections | {"root": str(ROOT), "dataset": sections["dataset"] | {"watch": "data/raw"}})
    return line


def dvc(line: Path, *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=line, env=stage_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def plant(tmp_path: Path, database: str, prefect: None) -> Path:
    """A table line that has scored one batch `night` of six rows: 0 and 1 are alarms."""
    line = tmp_path / "plant"
    line.mkdir()
    small_line.write(line, small_line.PARAMS)
    small_line.table(6, 0, 5).drop(columns="label").to_csv(line / "night.csv", index=False)
    decisions = ["reject", "reject", "review", "accept", "accept", "accept"]
    scored(line, "night", params.read(line / "params.yaml").modality, line / "night.csv", decisions)
    return under_dvc(line)


def labels(line: Path, text: str) -> dict:
    (line / "labels.csv").write_text(text, encoding="utf-8")
    return label.labels(str(line), "labels.csv")


def test_from_a_scored_batch_to_the_next_training(ready: Path, prefect: None) -> None:
    from prefect.artifacts import Artifact

    under_dvc(ready)
    batch.score_batch(params.read(ready / "params.yaml"), ready)
    truth = small_line.table(20, 6, seed=1).set_index("id")["label"]
    before = part(ready / DATASET, ready / SPLIT, "train")
    seen = pd.read_parquet(next(ready.glob("scores/*/scores.parquet"))).set_index("id")["decision"]
    alarms, others = seen.index[seen == "reject"], seen.index[seen != "reject"][:3]
    given = truth[[int(name) for name in [*alarms, *others]]]
    given.to_csv(ready / "labels.csv")
    report = label.labels(str(ready), "labels.csv")
    assert (report["given"], report["added"], report["lost"], report["refused"]) == (len(given), len(given), 0, 0)
    (row,) = report["quality"].to_dict("records")
    assert row["precision"] == truth[alarms.astype(int)].mean()
    assert row["labelled_accepted"] == 3
    assert f"{row['precision']:.1%}" in Artifact.get("labels-parts").data
    assert f"versions/{row['version']}" in Artifact.get("model-parts").data
    assert (ready / DVC).exists()

    assert "Running stage 'ingest'" in dvc(ready, "repro", "ingest")
    rows = read_manifest(ready / DATASET)
    back = rows[rows["id"].str.startswith("labelled/")]
    assert sorted(back["label"]) == sorted(given)
    with contextlib.chdir(ready):
        split.main()
        augment.main()
        train.main("many")
    after = part(ready / DATASET, ready / SPLIT, "train")
    assert set(after["id"]) == {*before["id"], *back["id"]}
    assert store.load(ready / MODELS / "many").detector

    text = (ready / DVC).read_text()
    again = label.labels(str(ready), "labels.csv")
    assert (again["new"], again["same"], again["added"], again["relabelled"]) == (0, len(given), 0, 0)
    assert (ready / DVC).read_text() == text
    assert "up to date" in dvc(ready, "status", "ingest")
    first = int(alarms[0])
    assert labels(ready, f"id,label\n{first},{1 - truth[first]}\n")["relabelled"] == 1
    assert (ready / DVC).read_text() != text


def test_labelled_images_are_trained_on(tmp_path: Path, database: str, prefect: None) -> None:
    line = tmp_path / "camera"
    images(line / "data/raw/good", 12, 0)
    images(line / "data/raw/bad", 2, 1)
    sections = {
        "root": str(ROOT),
        "dataset": {"source": "data/raw", "kind": "image", "size": [48, 48]},
        "split": {"calibrate": 0.3, "test": 0.3},
        "augment": {"kind": "none"},
        "candidates": {"one": {"detector": "image/gaussian"}},
        "promote": {"name": "parts"},
        "score": {"source": "incoming"},
    }
    given = small_line.write(line, sections)
    source = images(line / "incoming", 6, 2)
    scored(line, "night", given.modality, source, ["reject"] * 3 + ["accept"] * 3)
    under_dvc(line)
    assert labels(line, "id;label\n0.png;good\n1.png;good\n2.png;bad\n9.png;bad\n")["refused"] == 1
    with contextlib.chdir(line):
        for stage in (ingest, split, augment):
            stage.main()
        train.main("one")
    rows = part(line / DATASET, line / SPLIT, "train").set_index("id")
    back = rows[rows.index.str.startswith("labelled/")]
    assert back["label"].to_dict() == {f"labelled/night/{n}.png": int(n == 2) for n in range(3)}
    (whole,) = given.modality.samples(rows.reset_index()).batches(40)
    scores = store.load(line / MODELS / "one").detector.score(whole).sample
    assert np.isfinite(scores).all()


def test_killed_between_the_copy_and_dvc_it_is_finished_by_the_same_command(
    plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "id,label\n0,0\n1,1\n"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(label, "_dvc", killed)
        with pytest.raises(KeyboardInterrupt):
            label.labels.fn(str(_with(plant, text)), "labels.csv")
    assert list((plant / SAMPLES).glob("night/*/manifest.parquet"))
    assert not (plant / DVC).exists()
    report = label.labels(str(plant), "labels.csv")
    assert (report["same"], report["added"]) == (2, 0)
    made = (plant / DVC).read_text()
    shutil.rmtree(plant / SAMPLES)  # and as if nothing had been interrupted
    (plant / DVC).unlink()
    assert label.labels(str(plant), "labels.csv")["added"] == 2
    assert (plant / DVC).read_text() == made


def _with(line: Path, text: str) -> Path:
    (line / "labels.csv").write_text(text, encoding="utf-8")
    return line


def test_what_others_labelled_is_brought_here_first(plant: Path) -> None:
    """A clone: git brought samples.dvc, the samples are in DVC's cache, or not even there."""
    labels(plant, "id,label\n0,0\n")
    shutil.rmtree(plant / SAMPLES)
    shutil.rmtree(plant / ".assay")
    assert labels(plant, "id,label\n1,1\n")["added"] == 1
    assert len(list((plant / SAMPLES).glob("night/*/manifest.parquet"))) == 2
    text = (plant / DVC).read_text()
    for gone in (SAMPLES, ".assay", ".dvc/cache"):
        shutil.rmtree(plant / gone)
    with pytest.raises(LineError, match="fetch them with dvc pull data/labelled/samples.dvc"):
        labels(plant, "id,label\n4,0\n")
    assert (plant / DVC).read_text() == text


def test_no_label_that_can_be_used_is_an_error(plant: Path) -> None:
    said = r"none of 2 labels can be used, the first: id must be that of a sample scored in this line, got 'x' \(row 1"
    with pytest.raises(DataError, match=said):
        labels(plant, "id,label\nx,1\n1,maybe\n")
    assert len(pd.read_csv(plant / feedback.REFUSED)) == 2
    assert not (plant / SAMPLES).exists()


@pytest.fixture
def signals() -> Iterator[None]:
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


def test_the_command_tells_by_its_status_what_became_of_the_file(
    plant: Path, signals: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    file = plant / "labels.csv"
    label.main("--line", str(plant))
    assert "no labels yet" in capsys.readouterr().out
    file.write_text("id,label\n0,1\n99,1\n")
    with pytest.raises(SystemExit) as ended:
        label.main("--line", str(plant), str(file))
    said = capsys.readouterr()
    assert ended.value.code == 3
    assert "1 labels: 1 new, 0 changed, 0 as before; 1 rows refused; 1 samples added" in said.out
    assert "night: precision 100.0% (2.5% to 100.0%), recall unknown; labelled: 1 of 2 alarms" in said.out
    assert "1 rows were refused" in said.err
    file.write_text("id,label\n99,1\n")
    with pytest.raises(SystemExit) as ended:
        label.main("--line", str(plant), str(file))
    assert ended.value.code == 1
    assert "error: none of 1 labels can be used" in capsys.readouterr().err
