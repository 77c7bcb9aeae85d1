"""Publishing a real line into a real MLflow store: once per content, whole after any interruption, exact."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline import params, publication, tracking
from pipeline.errors import LineError, ParamsError, RegistryError
from pipeline.golden import GOLDEN, max_difference
from pipeline.model import Model
from pipeline.samples import read_manifest
from pipeline.tracking import Registry
from tests import small_line

ROOT = Path(__file__).parents[1]


def publish(line: Path) -> tuple[dict[str, Any], dict[str, str]]:
    return publication.publish(params.read(line / "params.yaml"), line)


def counts(registry: Registry) -> tuple[int, int]:
    """How many runs and how many versions there are."""
    experiment = registry.client.get_experiment_by_name("parts")
    runs = registry.client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} <= {"FINISHED"}
    return len(runs), len(registry.client.search_model_versions("name = 'parts'"))


def stop_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Let the call `name` be interrupted, as by Ctrl-C, before it does anything."""

    def interrupted(*words: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupted)


def test_one_run_and_one_version_per_candidate_and_none_the_second_time(line: Path, store: str) -> None:
    receipt, status = publish(line)
    registry = tracking.connect()
    assert receipt["name"] == "parts"
    assert {c: e["version"] for c, e in receipt["candidates"].items()} == {"many": 1, "few": 2}
    assert status == {"many": "registered", "few": "registered"}
    assert counts(registry) == (2, 2)
    assert publish(line) == (receipt, {"many": "already there", "few": "already there"})
    assert counts(registry) == (2, 2)
    assert not (line / publication.PUBLISHING).exists()


def test_a_run_holds_all_that_made_it(line: Path, store: str, tmp_path: Path) -> None:
    receipt, _ = publish(line)
    registry = tracking.connect()
    entry = receipt["candidates"]["few"]
    run = registry.client.get_run(entry["run_id"])
    assert run.data.params["detector.trees"] == "2"
    assert run.data.params["calibrate.alpha"] == "0.1"
    metrics = json.loads((line / "reports/candidates/few/metrics.json").read_text())
    assert run.data.metrics["auroc"] == metrics["auroc"]
    assert run.data.metrics[publication.CHECKED] == 0.0
    version = registry.version("parts", 2)
    assert version.tags["candidate"] == "few"
    assert version.tags["content_hash"] == entry["content_hash"] == run.data.tags["content_hash"]
    assert version.tags["detector"] == "table/isolation_forest"
    assert version.tags[publication.CHECKED] == "0.0"
    artifacts = Path(registry.client.download_artifacts(entry["run_id"], "", str(tmp_path)))
    for name in ("params.yaml", "dvc.lock"):
        assert (artifacts / name).read_bytes() == (line / name).read_bytes()
    assert (artifacts / "report/metrics.json").exists()
    assert list((artifacts / "report").glob("*.png"))


def test_runs_line_up_on_mlflows_pages(line: Path, store: str) -> None:
    receipt, _ = publish(line)
    client = tracking.connect().client
    runs = {name: client.get_run(entry["run_id"]) for name, entry in receipt["candidates"].items()}
    names = {name: {key for key in run.data.metrics if not key.startswith("history/")} for name, run in runs.items()}
    assert names["few"] == names["many"]
    assert {"auroc", "curve/roc", "curve/pr", publication.CHECKED} <= names["few"]
    for name, run in runs.items():
        roc = client.get_metric_history(run.info.run_id, "curve/roc")
        assert sorted(point.step for point in roc) == list(range(101))
        assert max(roc, key=lambda point: point.step).value == 1.0
        assert run.data.tags["mlflow.loggedImages"] == "True"
        pictures = {file.path for file in client.list_artifacts(run.info.run_id, "images")}
        assert any(path.startswith("images/overlays~normals+step+0+") for path in pictures)
        assert name in run.data.tags["mlflow.note.content"]
    found = client.search_runs(
        [runs["few"].info.experiment_id],
        "tags.kind = 'table' and tags.rule = 'false_alarm_rate' and tags.augment = 'none' and tags.candidate = 'few'",
    )
    assert [run.info.run_id for run in found] == [runs["few"].info.run_id]
    assert "on average at most 10 % of normals raise one" in found[0].data.tags["promise"]


def test_parity_can_be_checked_again_from_what_was_logged(line: Path, store: str, tmp_path: Path) -> None:
    receipt, _ = publish(line)
    registry = tracking.connect()
    golden = Path(registry.client.download_artifacts(receipt["candidates"]["few"]["run_id"], "golden", str(tmp_path)))
    rows = read_manifest(golden)
    assert len(rows) == GOLDEN
    assert set(rows["label"]) == {0, 1}
    expected = pd.read_parquet(golden / "scores.parquet")
    model = Model.load(line / "models/few", line / "models/few.calibration.json")
    came = registry.load(registry.version("parts", 2)).predict(model.stored.modality.to_frame(rows))
    assert max_difference(expected, came) == 0.0


def test_the_version_scores_in_another_process_as_it_did_here(line: Path, store: str, tmp_path: Path) -> None:
    publish(line)
    model = Model.load(line / "models/many", line / "models/many.calibration.json")
    rows = read_manifest(line / "data/dataset").iloc[:20]
    model.stored.modality.to_frame(rows).to_parquet(tmp_path / "frame.parquet")
    code = (
        "import sys, pandas as pd, mlflow.pyfunc; frame = pd.read_parquet(sys.argv[1]);"
        "mlflow.pyfunc.load_model('models:/parts/1').predict(frame).to_parquet(sys.argv[2])"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "frame.parquet"), str(tmp_path / "scores.parquet")]
    subprocess.run(words, check=True, cwd=ROOT, capture_output=True)
    here = model.score(model.stored.modality.samples(rows))
    assert max_difference(here, pd.read_parquet(tmp_path / "scores.parquet")) == 0.0


def test_no_pickle_is_stored_and_every_requirement_is_pinned(line: Path, store: str, tmp_path: Path) -> None:
    publish(line)
    files = [p for p in (tmp_path / "mlartifacts").rglob("*") if p.is_file()]
    assert any(p.name == "state.safetensors" for p in files)
    assert not [p for p in files if p.suffix in {".pkl", ".pickle", ".pt", ".joblib"}]
    assert not [p for p in files if p.read_bytes()[:2] in {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}]
    requirements = next(p for p in files if p.name == "requirements.txt").read_text().split()
    assert {"mlflow", "numpy", "pandas", "safetensors"} <= {line.partition("==")[0] for line in requirements}
    assert all("==" in line and "+" not in line for line in requirements)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("registry", "_log"),
        ("client", "create_model_version"),
        ("registry", "load"),
        ("registry", "tag"),
    ],
)
def test_whatever_an_interruption_leaves_the_next_call_makes_whole(
    place: str, name: str, line: Path, store: str
) -> None:
    owner = {
        "registry": Registry,
        "client": type(tracking.connect().client),
    }[place]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, owner, name)
        with pytest.raises(KeyboardInterrupt):
            publish(line)
    assert not (line / publication.PUBLISHING).exists()
    receipt, _ = publish(line)
    registry = tracking.connect()
    assert counts(registry) == (2, 2)
    for entry in receipt["candidates"].values():
        assert registry.version("parts", entry["version"]).tags[publication.CHECKED] == "0.0"


def test_a_model_that_scores_differently_is_tagged_and_refused(
    line: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Registry.load

    class Off:
        def __init__(self, model: Any) -> None:
            self.model = model

        def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
            return self.model.predict(frame).assign(score=lambda found: found["score"] + 0.25)

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "load", lambda self, version: Off(load(self, version)))
        with pytest.raises(RegistryError, match=r"parts version 1 \(many\).* got a difference of 0\.25; it is tagged"):
            publish(line)
    registry = tracking.connect()
    assert publication.UNUSABLE in registry.version("parts", 1).tags
    receipt, _ = publish(line)  # and when it scores as it should, the tag goes
    assert receipt["candidates"]["many"]["version"] == 1
    assert publication.UNUSABLE not in registry.version("parts", 1).tags


def _calibration(line: Path) -> None:
    path = line / "reports/candidates/many/metrics.json"
    path.write_text(path.read_text().replace('"auroc"', '"auroc_"'))


def _params(line: Path) -> None:
    sections = small_line.PARAMS | {"split": {"calibrate": 0.3, "test": 0.3, "seed": 0, "order": "random"}}
    small_line.write(line, sections)


@pytest.mark.parametrize(("change", "again"), [(_calibration, {"many"}), (_params, {"many", "few"})])
def test_other_content_is_another_version(
    change: Callable[[Path], None], again: set[str], line: Path, store: str
) -> None:
    publish(line)
    change(line)
    _, status = publish(line)
    assert {c for c, said in status.items() if said == "registered"} == again


def test_only_the_candidates_of_params_count(line: Path, store: str) -> None:
    shutil.copytree(line / "models/few", line / "models/stale")
    small_line.write(line, small_line.PARAMS | {"candidates": {"few": small_line.PARAMS["candidates"]["few"]}})
    receipt, _ = publish(line)
    assert list(receipt["candidates"]) == ["few"]
    assert counts(tracking.connect()) == (1, 1)


def test_another_store_lacks_what_the_receipt_says(line: Path, store: str, tmp_path: Path) -> None:
    receipt, _ = publish(line)
    assert publication.missing_versions(receipt) == []
    registry = tracking.connect()
    registry.client.delete_model_version("parts", "2")
    assert publication.missing_versions(receipt) == ["few"]
    shutil.rmtree(tmp_path / "mlartifacts")
    assert publication.missing_versions(receipt) == ["many", "few"]


def test_an_unfinished_candidate_is_named_before_anything_is_written(line: Path, store: str) -> None:
    (line / "models/few.calibration.json").unlink()
    with pytest.raises(LineError, match=r"few\.calibration\.json is needed to publish few and is missing"):
        publish(line)
    assert tracking.connect().client.get_experiment_by_name("parts") is None


def test_a_name_that_mlflow_refuses_is_refused_by_its_key(line: Path, store: str) -> None:
    small_line.write(line, small_line.PARAMS | {"promote": {"name": "a/b"}})
    with pytest.raises(ParamsError, match=r"promote\.name must hold no slash, colon or quote, got 'a/b'"):
        publish(line)
