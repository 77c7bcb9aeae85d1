"""The report of one detector: what it holds, what it leaves out, and that it repeats byte for byte."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from pipeline import figures, metrics, threshold
from pipeline.errors import DataError
from pipeline.evaluation import POINTS, WORST, evaluate
from pipeline.files import sha256
from pipeline.plan import Plan
from pipeline.protocols import Batch, Scores
from pipeline.rules.false_alarm_rate import FalseAlarmRate
from pipeline.samples import View
from pipeline.threshold import Calibration, Scored

SIDE = 8


@dataclass
class Brightest:
    """A detector that needs no fit: a sample's score is its brightest pixel."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "normals"
    maps: bool = True

    def score(self, batch: Batch) -> Scores:
        local = batch.x[:, 0].astype(np.float32)
        return Scores(local.max(axis=(1, 2)), local if self.maps else None)


@dataclass
class Pictures:
    """A modality of tiny grey pictures that notes what it was asked to draw."""

    masks: bool = True
    drawn: dict[str, list[str]] = field(default_factory=dict)

    def samples(self, rows: pd.DataFrame) -> View:
        return View(rows, self._read)

    def _read(self, rows: pd.DataFrame) -> Batch:
        x = np.zeros((len(rows), 3, SIDE, SIDE), np.uint8)
        mask = np.zeros((len(rows), SIDE, SIDE), np.int8)
        for i, row in enumerate(rows.itertuples()):
            x[i, :] = np.random.default_rng(row.seed).integers(0, 20, (SIDE, SIDE))
            x[i, :, 2:4, 2:4] = row.level
            if row.label == 1 and row.masked:
                mask[i, 2:4, 2:4] = 1
            elif row.label != 0:
                mask[i] = -1
        return Batch(rows["id"].tolist(), x, rows["label"].to_numpy(np.int8), mask if self.masks else None)

    def local_metrics(self, truth: np.ndarray, local: np.ndarray) -> dict[str, float]:
        found = {"pixel_auroc": metrics.pixel_auroc(truth, local), "aupro": metrics.aupro(truth, local)}
        return {**found, "pictures": int((truth >= 0).all(axis=(1, 2)).sum()), "undefined": float("nan")}

    def local_curves(self, truth: np.ndarray, local: np.ndarray) -> dict[str, pd.DataFrame]:
        curve = metrics.pro_curve(truth, local)
        return {"pro": pd.DataFrame({"false_alarm_rate": curve.x, "region_overlap": curve.y})}

    def draw(self, batch: Batch, scores: Scores, threshold: float, out: Path) -> list[Path]:
        self.drawn[out.name] = batch.ids
        np.testing.assert_array_equal(scores.sample, batch.x[:, 0].max(axis=(1, 2)))  # in the batch's order
        if scores.local is not None:
            np.testing.assert_array_equal(scores.local, batch.x[:, 0])
        for name, picture in zip(batch.ids, batch.x, strict=True):
            Image.fromarray(picture[0]).save(out / f"{name}.png")
        return [out / f"{name}.png" for name in batch.ids]


def rows(label: list[int], level: list[int], defect: list[str | None]) -> pd.DataFrame:
    n = len(label)
    frame = pd.DataFrame({"id": [f"t{i:03d}" for i in range(n)], "label": np.array(label, np.int8)})
    return frame.assign(level=level, defect=defect, seed=range(n), masked=True)


@pytest.fixture
def part() -> pd.DataFrame:
    """40 normals with levels 20..59, 20 dents (50..69), 5 holes (90) and 2 samples of unknown label."""
    level = [*range(20, 60), *range(50, 70), *[90] * 5, 30, 95]
    return rows([0] * 40 + [1] * 25 + [-1] * 2, level, [None] * 40 + ["dent"] * 20 + ["hole"] * 5 + [None] * 2)


@pytest.fixture
def calibration() -> Calibration:
    """Calibration scores 10..58: alarm above 54 at 10 % (r = 5 of 50), review above 49 at 20 %."""
    plan = Plan(FalseAlarmRate(0.1, None), FalseAlarmRate(0.2, None))
    return threshold.calibrate(plan, Scored(np.arange(10, 59, dtype=np.float32)), "model")


def run(frame: pd.DataFrame, calibration: Calibration, out: Path, *, maps: bool = True, masks: bool = True):
    modality = Pictures(masks=masks)
    out.mkdir(parents=True)
    return evaluate(Brightest(maps=maps), calibration, modality.samples(frame), modality, out), modality


def test_every_number_of_the_report(part, calibration, tmp_path) -> None:
    assert calibration.thresholds == {"alarm": 54.0, "review": 49.0}
    found, _ = run(part, calibration, tmp_path / "out")
    label, score = part["label"][:65], part["level"][:65]
    assert found["auroc"] == pytest.approx(roc_auc_score(label, score))
    assert found["ap"] == pytest.approx(average_precision_score(label, score))
    assert found["f1_max"] == pytest.approx(max(2 * t / (2 * t + f + m) for t, f, m in confusions(label, score)))
    assert found["promised_false_alarm_rate"] == 0.1
    assert (found["n_normal"], found["n_anomalous"]) == (40, 25)
    assert (found["false_alarms"], found["false_alarm_rate"]) == (5, 5 / 40)  # 55..59
    assert found["false_alarm_rate_low"] < 5 / 40 < found["false_alarm_rate_high"]
    assert (found["escapes"], found["detection_rate"]) == (5, 20 / 25)  # dents of 50..54 escape
    assert found["review_share"] == pytest.approx((5 + 5) / 67)  # 50..54 of either class
    assert found["defect.dent.detection_rate"] == 15 / 20
    assert found["defect.hole.detection_rate"] == found["defect.hole.auroc"] == 1.0
    dents = np.r_[0:60]
    assert found["defect.dent.auroc"] == pytest.approx(roc_auc_score(label[dents], score[dents]))
    assert found["pictures"] == 65  # not those of unknown label
    assert found["pixel_auroc"] > 0.9
    assert "undefined" not in found
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == found
    assert list(found) == sorted(found)


def confusions(label: pd.Series, score: pd.Series) -> list[tuple[int, int, int]]:
    """True positives, false positives and misses at every threshold."""
    return [
        (
            int(((score >= t) & (label == 1)).sum()),
            int(((score >= t) & (label == 0)).sum()),
            int(((score < t) & (label == 1)).sum()),
        )
        for t in score.unique()
    ]


def test_scores_are_listed_for_every_sample_with_decision_and_p_value(part, calibration, tmp_path) -> None:
    run(part, calibration, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert list(table.columns) == ["id", "label", "defect", "score", "p_value", "decision"]
    assert table["id"].tolist() == part["id"].tolist()
    assert table["score"].tolist() == part["level"].tolist()
    assert table["defect"].iloc[[0, 40, 64]].tolist() == ["", "dent", "hole"]
    by_id = table.set_index("id")
    assert by_id.loc["t000", ["p_value", "decision"]].tolist() == [40 / 50, "accept"]  # 20: 39 of 49 are at least 20
    assert by_id.loc["t030", ["p_value", "decision"]].tolist() == [10 / 50, "review"]  # 50
    assert by_id.loc["t066", ["p_value", "decision"]].tolist() == [1 / 50, "reject"]  # 95, unknown label


def test_what_samples_belong_to_stands_beside_their_scores(part, calibration, tmp_path) -> None:
    severity = [np.nan] * 40 + [2.5] * 27
    run(part.assign(group=["g", None] + [""] * 65, category="", severity=severity), calibration, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert "category" not in table
    assert table["group"].tolist()[:3] == ["g", "", ""]
    assert table["severity"].iloc[-1] == 2.5


def test_curves_and_pictures_of_them(part, calibration, tmp_path) -> None:
    found, _ = run(part, calibration, tmp_path / "out")
    roc = pd.read_csv(tmp_path / "out" / "roc.csv")
    assert np.trapezoid(roc["detection_rate"], roc["false_alarm_rate"]) == pytest.approx(found["auroc"])
    pr = pd.read_csv(tmp_path / "out" / "pr.csv")
    assert (2 * pr["precision"] * pr["recall"] / (pr["precision"] + pr["recall"])).max() == pytest.approx(
        found["f1_max"]
    )
    pro = pd.read_csv(tmp_path / "out" / "pro.csv")
    area = np.trapezoid(pro["region_overlap"], pro["false_alarm_rate"]) / 0.3
    assert area == pytest.approx(found["aupro"], abs=0.01)
    assert (tmp_path / "out" / "pro.png").is_file()
    bins = pd.read_csv(tmp_path / "out" / "histogram.csv")
    assert (bins["normal"].sum(), bins["anomalous"].sum()) == (40, 25)
    for name in ("roc", "pr", "histogram"):
        picture = Image.open(tmp_path / "out" / f"{name}.png")
        picture.load()
        assert picture.size == (720, 480)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10  # something is drawn


def test_the_worst_errors_are_drawn(part, calibration, tmp_path) -> None:
    _, modality = run(part, calibration, tmp_path / "out")
    assert modality.drawn == {
        "normals_scored_highest": [f"t{i:03d}" for i in range(39, 39 - WORST, -1)],
        "anomalies_scored_lowest": [f"t{i:03d}" for i in range(40, 40 + WORST)],
    }
    index = pd.read_csv(tmp_path / "out/overlays/index.csv")
    assert index["id"].tolist() == [name for each in modality.drawn.values() for name in each]
    assert all((tmp_path / "out/overlays" / path).is_file() for path in index["path"])
    assert len(list((tmp_path / "out" / "overlays").rglob("*.png"))) == len(index) == 2 * WORST


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_still_gives_a_report_and_says_what_is_missing(part, calibration, tmp_path, caplog, only) -> None:
    with caplog.at_level(logging.WARNING):
        found, modality = run(part[part["label"] == only], calibration, tmp_path / "out")
    (said,) = caplog.messages
    numbers = "40 and 0" if only == 0 else "0 and 25"
    assert said == (f"AUROC needs both normal and anomalous test samples, got {numbers}; it is left out of the report")
    assert "auroc" not in found
    assert ("false_alarm_rate" in found, "detection_rate" in found) == (only == 0, only == 1)
    assert not (tmp_path / "out" / "roc.png").exists()
    assert (tmp_path / "out" / "histogram.png").exists()
    assert len(modality.drawn) == 1
    assert ("aupro" in found) == (only == 1)


def test_without_maps_or_masks_there_are_no_local_metrics(part, calibration, tmp_path) -> None:
    for i, given in enumerate(({"maps": False}, {"masks": False}, {"maps": False, "masks": False})):
        found, _ = run(part, calibration, tmp_path / str(i), **given)
        assert "pixel_auroc" not in found
        assert "auroc" in found


def test_anomalies_without_a_mask_do_not_count_as_normal_pixels(part, calibration, tmp_path) -> None:
    whole, _ = run(part[part["level"] != 90], calibration, tmp_path / "a")
    found, _ = run(part.assign(masked=part["level"] != 90), calibration, tmp_path / "b")
    assert found["pictures"] == 60
    assert found["pixel_auroc"] == whole["pixel_auroc"]


def test_only_samples_of_unknown_label_are_scored_and_listed(part, calibration, tmp_path) -> None:
    unknown = part[part["label"] == -1].assign(group="g", sensitive="x", severity=1.0)
    found, modality = run(unknown, calibration, tmp_path / "out")
    counts = dict.fromkeys(["n_normal", "n_anomalous", "false_alarms", "escapes"], 0)
    assert found == {**counts, "promised_false_alarm_rate": 0.1, "review_share": 0.0, "alarm_rate": 0.5}
    listed = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert listed["decision"].tolist() == ["accept", "reject"]
    assert modality.drawn == {}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.json", "scores.parquet"]


def test_an_empty_test_part_is_refused(part, calibration, tmp_path) -> None:
    with pytest.raises(DataError, match="needs at least one sample in the test part, got none"):
        run(part.iloc[:0], calibration, tmp_path / "out")


def test_equal_input_gives_equal_bytes(part, calibration, tmp_path) -> None:
    run(part, calibration, tmp_path / "a")
    run(part, calibration, tmp_path / "b")
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_long_curves_are_thinned_but_keep_their_ends(calibration, tmp_path) -> None:
    table = rows([0, 1] * 1500, [5] * 3000, [None] * 3000)

    class Spread(Brightest):
        def score(self, batch: Batch) -> Scores:
            return Scores(np.array([int(name[1:]) for name in batch.ids], np.float32))

    modality = Pictures()
    modality.draw = lambda batch, scores, threshold, out: [out / f"{name}.png" for name in batch.ids]
    evaluate(Spread(), calibration, modality.samples(table), modality, tmp_path)
    roc = pd.read_csv(tmp_path / "roc.csv")
    assert len(roc) == POINTS
    assert roc.iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]


def test_bins_hold_every_sample_once_even_when_all_scores_are_equal() -> None:
    bins = figures.bin_scores(np.array([0, 0, 1]), np.float32([7, 7, 7]), count=5)
    assert (bins["normal"].sum(), bins["anomalous"].sum(), len(bins)) == (2, 1, 5)
    assert (bins["low"].iloc[0], bins["high"].iloc[-1]) == (6.5, 7.5)
    apart = figures.bin_scores(np.array([0, 1, 0, 1]), np.float32([0, 1, 2, 4]), count=4)
    assert apart["normal"].tolist() == [1, 0, 1, 0]
    assert apart["anomalous"].tolist() == [0, 1, 0, 1]


def test_groups_are_judged_whole_and_false_alarms_by_sensitive_value(calibration, tmp_path) -> None:
    """The alarm is above 54, where p is at most 5 / 50: a group of two needs p_(1) <= 0.05 or both at most 0.1."""
    frame = rows([0, 0, 0, 0, 1, 0, 0, -1], [56, 20, 55, 55, 95, 20, 30, 95], [None] * 8)
    frame = frame.assign(group=[*"aabbccdd"], sensitive=["x", "x", "y", "y", "x", "y", None, "y"])
    found, _ = run(frame, calibration, tmp_path / "out")
    assert (found["group.n_normal"], found["group.n_anomalous"]) == (3, 1)
    assert found["group.specificity"] == pytest.approx(2 / 3)  # a: 2 x 4 / 50 > 0.1; b: both at 5 / 50
    assert (found["group.sensitivity"], found["group.auroc"]) == (1.0, 1.0)
    assert (found["sensitive.x.false_alarm_rate"], found["sensitive.x.n_normal"]) == (0.5, 2)
    assert (found["sensitive.y.false_alarm_rate"], found["sensitive.y.n_normal"]) == (pytest.approx(2 / 3), 3)
    assert found["sensitive.largest_difference"] == pytest.approx(1 / 6)
    assert found["sensitive.p_value"] == pytest.approx(1.0)


def test_thresholds_can_go_by_the_sensitive_value(tmp_path) -> None:
    """y's normals score 30 higher: with its own thresholds each value alarms at the rate it was promised."""
    of = ["x"] * 49 + ["y"] * 49
    scores = np.r_[np.arange(10, 59), np.arange(40, 89)].astype(np.float32)
    plan = Plan.read({"alpha": 0.1, "confidence": None, "by": "sensitive"})
    calibration = threshold.calibrate(plan, Scored(scores, normals_of=of), "model")
    level = [*range(10, 59), *range(40, 89)]
    frame = rows([0] * 98, level, [None] * 98).assign(sensitive=of, group="")
    found, _ = run(frame, calibration, tmp_path / "own")
    assert found["sensitive.x.false_alarm_rate"] == found["sensitive.y.false_alarm_rate"] == 4 / 49
    together = threshold.calibrate(Plan(FalseAlarmRate(0.1, None)), Scored(scores), "model")
    found, _ = run(frame, together, tmp_path / "together")
    assert found["sensitive.x.false_alarm_rate"] == 0.0
    assert found["sensitive.p_value"] < 0.01
