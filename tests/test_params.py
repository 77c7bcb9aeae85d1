"""params.yaml: every section is checked; each fault ends in one sentence naming the key, what is allowed, what came."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from pipeline import operation, params
from pipeline.errors import ParamsError
from pipeline.plan import Plan
from pipeline.rules.false_alarm_rate import FalseAlarmRate

ROOT = Path(__file__).parents[1]
GOOD = {
    "root": ".",
    "dataset": {"source": "demo:wdbc", "kind": "table"},
    "split": {"calibrate": 0.3, "test": 0.3, "anomalies": {"train": 0.2}},
    "augment": {"kind": "none"},
    "candidates": {"forest": {"detector": "table/isolation_forest"}},
    "calibrate": {"alpha": 0.05, "confidence": 0.9},
    "promote": {"name": "x", "limits": {"auroc": {"min": 0.5}}},
    "score": {"source": "demo:wdbc/batch"},
}


def given(**changes: object) -> params.Params:
    return params.Params({**GOOD, **changes}, Path("params.yaml"))


def test_a_good_file_is_read_into_dataclasses() -> None:
    read = given()
    read.check()
    assert read.split == params.Split(calibrate=0.3, test=0.3, anomalies=params.Anomalies(train=0.2))
    assert read.calibrate == Plan(FalseAlarmRate(0.05, 0.9))
    assert read.promote.limits == {"auroc": operation.Limit(min=0.5)}
    assert read.candidates == ["forest"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"splitt": {}}, "splitt is not a known section (params.yaml), did you mean split?"),
        ({"split": {"calibrat": 0.1}}, "split.calibrat is not a known key (params.yaml), did you mean calibrate?"),
        ({"split": {"calibrate": 1.5}}, "split.calibrate must be less than 1, got 1.5 (params.yaml)"),
        ({"split": {"calibrate": "0.2"}}, "split.calibrate must be a valid number, got '0.2' (params.yaml)"),
        ({"split": {"calibrate": 0.5, "test": 0.5}}, "split.calibrate + split.test must leave samples to train on"),
        ({"split": [1]}, "split must hold keys and values, got [1] (params.yaml)"),
        ({"split": {"anomalies": {"tain": 1}}}, "split.anomalies.tain is not a known key (params.yaml)"),
        ({"calibrate": {"alpha": 0}}, "calibrate.alpha must be greater than 0, got 0 (params.yaml)"),
        (
            {"calibrate": {"alpha": 0.1, "review": 0.05}},
            "calibrate.review must be above calibrate.alpha (0.1), or the review band is upside down, got 0.05",
        ),
        ({"calibrate": {"rule": "guess"}}, "calibrate.rule must be one of false_alarm_rate, escape_rate, "),
        ({"promote": {}}, "promote.name is required and missing (params.yaml)"),
        ({"promote": {"name": "x", "limits": {"auroc": {"mn": 1}}}}, "promote.limits.auroc.mn is not a known key"),
        ({"dataset": {"source": "x", "kind": "tabel"}}, "dataset.kind must be one of image, table, got 'tabel'"),
        ({"dataset": {"kind": "table"}}, "dataset.source is required and missing (params.yaml)"),
        (
            {"dataset": {"source": "x", "kind": "table", "lable": "y"}},
            "dataset.lable is not a known key (params.yaml), did you",
        ),
        ({"candidates": {}}, "candidates must hold at least one named candidate, got {} (params.yaml)"),
        ({"candidates": {"a": {}}}, "candidates.a.detector is required and missing (params.yaml)"),
        (
            {"candidates": {"a": {"detector": "table/isolation_forst"}}},
            "candidates.a.detector must be one of image/patchcore",
        ),
        (
            {"candidates": {"a": {"detector": "table/isolation_forest", "seeds": 1}}},
            "candidates.a.seeds is not a known key (params.yaml), did you mean seed?",
        ),
        ({"score": {"source": "x", "batch": 0}}, "score.batch must be greater than or equal to 1, got 0 (params.yaml)"),
    ],
)
def test_each_fault_is_one_sentence(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ParamsError) as error:
        given(**changes).check()
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_broken_yaml_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="does not exist; a line's folder must hold one"):
        params.read(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(ParamsError, match="must be YAML") as error:
        params.read(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)


def test_keys_of_nested_dataclasses_are_checked_too() -> None:
    @dataclass
    class Inner:
        depth: int = 1

    @dataclass
    class Outer:
        inner: Inner | None = None
        many: dict[str, Inner] = field(default_factory=dict)

    assert params.build(Outer, {"inner": {"depth": 3}}, "outer") == Outer(Inner(3))
    for section in ({"inner": {"dept": 3}}, {"many": {"a": {"dept": 3}}}):
        with pytest.raises(ParamsError, match="dept is not a known key"):
            params.build(Outer, section, "outer")


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *ROOT.glob("examples/*/params.yaml")], ids=lambda p: p.parent.name
)
def test_every_shipped_params_file_is_good(path: Path) -> None:
    params.read(path).check()
    root = yaml.safe_load(path.read_text())["root"]
    assert (path.parent / root).resolve() == ROOT
