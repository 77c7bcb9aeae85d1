from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import params
from pipeline.augmenters.smote import Smote
from pipeline.errors import DataError
from pipeline.parts.rows import read
from pipeline.protocols import Samples
from pipeline.samples import part, read_manifest
from pipeline.stages import AUGMENTED, DATASET, SPLIT
from tests import small_line
from tests.detectors.table.rows import mixed, view


def made(smote: Smote, frame: pd.DataFrame, label: list[int]) -> pd.DataFrame:
    batches = list(smote.augment(view(frame, label)))
    assert all((b.label == 1).all() and b.ids == list(b.x.index) for b in batches)
    return pd.concat([b.x for b in batches])


def numbers(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"a": rng.normal(size=n), "b": rng.normal(0, 1000, n), "c": rng.uniform(0, 50, n)})


def test_new_rows_lie_between_two_anomalies() -> None:
    frame, label = numbers(60), [0] * 50 + [1] * 10
    new = made(Smote(share=0.5, neighbours=3), frame, label)
    assert list(new.index) == [f"smote-{i:06d}" for i in range(1, 16)]  # 25 wanted, 10 there
    scale = frame.std(ddof=0).to_numpy()
    bad = frame[50:].to_numpy(float) / scale
    for point in new.to_numpy(float) / scale:
        step = bad[None, :, :] - bad[:, None, :]  # from i to j
        length = (step**2).sum(-1)
        t = ((point - bad[:, None, :]) * step).sum(-1) / np.where(length > 0, length, 1)
        off = np.linalg.norm(bad[:, None, :] + t.clip(0, 1)[..., None] * step - point, axis=-1)
        assert off.min() < 1e-9


def test_neighbours_do_not_depend_on_units() -> None:
    frame, label = numbers(60), [0] * 50 + [1] * 10
    plain, scaled = (made(Smote(), f, label) for f in (frame, frame.assign(b=frame["b"] * 1e6)))
    np.testing.assert_allclose(scaled["b"] / 1e6, plain["b"], rtol=1e-9)
    np.testing.assert_allclose(scaled["a"], plain["a"], rtol=1e-9)


def test_whole_numbers_stay_whole_and_keep_their_type() -> None:
    count = np.random.default_rng(1).integers(0, 9, 60)
    frame = numbers(60).assign(
        count=count,
        some=np.where(count == 4, np.nan, count),  # with missing values, so of decimal type
        maybe=pd.array(count, dtype="Int64"),
        half=count / 2,
    )
    new = made(Smote(), frame, [0] * 50 + [1] * 10)
    assert new[["count", "some", "maybe"]].dtypes.tolist() == ["int64", "float64", "Int64"]
    assert (new["some"] % 1 == 0).all()
    assert (new["half"] % 0.5 != 0).any()  # what is not whole is drawn anywhere between
    assert new["count"].between(count[50:].min(), count[50:].max()).all()
    assert new["count"].nunique() > 1
    np.testing.assert_array_equal(new["count"], np.rint(2 * new["half"]))  # the nearest whole number to what was drawn


def test_texts_and_switches_are_never_blended() -> None:
    frame = mixed(80)
    frame.loc[60:, "text"] = "y"
    frame.loc[60:, "on"] = True
    frame.loc[70:, "text"] = np.nan
    new = made(Smote(share=1.0, neighbours=3), frame, [0] * 60 + [1] * 20)
    assert len(new) == 40
    assert new["text"].dtype == frame["text"].dtype
    assert set(new["text"].dropna()) == {"y"}
    assert new["text"].isna().any()
    assert new["on"].dtype == bool
    assert new["on"].all()
    assert list(new.columns) == list(frame.columns)


def test_a_table_of_texts_only_gives_values_that_are_there() -> None:
    frame = mixed(60)[["text", "on"]]
    new = made(Smote(neighbours=3), frame, [0] * 50 + [1] * 10)
    assert len(new) == 15
    assert set(map(tuple, new.to_numpy())) <= set(map(tuple, frame[50:].to_numpy())) | {
        (text, on) for text in "xyz" for on in (True, False)
    }


@pytest.mark.parametrize(
    ("variant", "least", "most"),  # 30 are wanted; adasyn rounds per anomaly, svm leaves out those among normals
    [("smote", 30, 30), ("borderline", 30, 30), ("svm", 10, 30), ("adasyn", 25, 35)],
)
def test_variants_make_about_the_share_and_repeat_under_their_seed(variant: str, least: int, most: int) -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"a": rng.normal(size=120), "b": np.r_[rng.normal(size=100), rng.normal(1.5, 1, 20)]})
    label = [0] * 100 + [1] * 20
    first, again, other = (made(Smote(variant=variant, seed=s), frame, label) for s in (0, 0, 1))
    assert least <= len(first) <= most
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_anomalies_of_other_parts_and_unknown_rows_leave_no_trace() -> None:
    frame, label = numbers(60), [0] * 50 + [1] * 10
    marked = pd.concat([frame, numbers(20, seed=1).assign(a=1e9)], ignore_index=True)
    unknown = made(Smote(), marked, [*label, *[-1] * 20])
    pd.testing.assert_frame_equal(unknown, made(Smote(), frame, label))
    hidden = view(marked, [*label, *[1] * 20])[:60]  # the marker stands outside the training part
    pd.testing.assert_frame_equal(pd.concat([b.x for b in Smote().augment(hidden)]), unknown)


def test_missing_numbers_become_medians_first() -> None:
    frame, label = numbers(60), [0] * 50 + [1] * 10
    frame.loc[::7, "a"] = np.nan
    new = made(Smote(), frame, label)
    filled = frame.assign(a=frame["a"].fillna(frame["a"].median()))
    pd.testing.assert_frame_equal(new, made(Smote(), filled, label))


def test_a_column_without_any_value_stays_without() -> None:
    frame, label = numbers(60), [0] * 50 + [1] * 10
    new = made(Smote(), frame.assign(none=np.nan, nothing=None), label)
    assert new[["none", "nothing"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(new[list(frame)], made(Smote(), frame, label))
    with pytest.raises(DataError, match="needs a column with values in the training part, got missing ones only"):
        made(Smote(), frame[[]].assign(none=np.nan), label)


@pytest.mark.parametrize("variant", ["smote", "borderline", "svm", "adasyn"])
def test_constant_huge_and_many_columns_and_any_name(variant: str) -> None:
    rng = np.random.default_rng(1)
    wide = pd.DataFrame(rng.normal(size=(60, 80)), columns=[f"Maß {i} µm" for i in range(80)])
    frame = wide.assign(gleich=3.25, 巨大=rng.normal(size=60) * 1e300)
    new = made(Smote(variant=variant, neighbours=3), frame, [0] * 50 + [1] * 10)
    assert list(new) == list(frame)
    assert np.isfinite(new.to_numpy()).all()
    assert (new["gleich"] == 3.25).all()


def test_constant_columns_beside_texts() -> None:
    frame = pd.DataFrame({"größe": np.full(60, 7), "farbe": ["rot", "grün", "blau"] * 20})
    new = made(Smote(neighbours=3), frame, [0] * 50 + [1] * 10)
    assert (new["größe"] == 7).all()
    assert set(new["farbe"]) <= {"rot", "grün", "blau"}


def test_unlabelled_rows_stand_for_normal_where_none_is_labelled() -> None:
    frame = numbers(60)
    alone, beside = (made(Smote(), frame, [good] * 50 + [1] * 10) for good in (0, -1))
    pd.testing.assert_frame_equal(alone, beside)


def test_nothing_is_added_where_there_are_enough() -> None:
    assert list(Smote(share=0.2).augment(view(numbers(60), [0] * 50 + [1] * 10))) == []
    assert list(Smote(share=0.1).augment(view(numbers(11), [0] * 10 + [1]))) == []  # however few there are


@pytest.mark.parametrize(
    ("smote", "label", "says"),
    [
        (Smote(), [0] * 60, r"needs labelled anomalies in the training part, got none; .* split\.anomalies\.train"),
        (Smote(), [1] * 60, r"needs normals \(label 0\) in the training part, got 60 anomalies only"),
        (
            Smote(),
            [0] * 55 + [1] * 5,
            r"^augment\.neighbours must be less than the labelled anomalies in the training part, 5, as each new "
            r"one is drawn between one of them and one of the k others nearest to it, got 5; lower it to at most 4",
        ),
        (Smote(neighbours=1), [0] * 59 + [1], r"part, 1, as .*, got 1; give training at least 2 with split\.anomalies"),
    ],
)
def test_too_little_to_work_from(smote: Smote, label: list[int], says: str) -> None:
    with pytest.raises(DataError, match=says):
        list(smote.augment(view(numbers(60), label)))


def test_variants_that_cannot_work_say_so() -> None:
    label = [0] * 50 + [1] * 10
    with pytest.raises(
        DataError, match=r"augment\.variant must be smote where columns hold texts .* \('on'\), got svm"
    ):
        list(Smote(variant="svm").augment(view(mixed(60), label)))
    apart = numbers(60)
    apart.loc[50:, "a"] += 1000  # no anomaly has a normal near it
    with pytest.raises(DataError, match=r"variant borderline found no labelled anomaly to start from"):
        list(Smote(variant="borderline").augment(view(apart, label)))
    with pytest.raises(DataError, match=r"augment\.variant adasyn cannot work here: Not any neigbours"):
        list(Smote(variant="adasyn").augment(view(apart, label)))
    with pytest.raises(DataError, match="column 'a' must hold finite numbers, got infinity"):
        list(Smote().augment(view(numbers(60).assign(a=np.inf), label)))


def marked(label: pd.Series, parts: pd.Series) -> pd.DataFrame:
    """Rows that carry a mark in three columns where they are not in the training part."""
    rng = np.random.default_rng(5)
    outside = (parts != "train").to_numpy()
    frame = pd.DataFrame({"a": rng.normal(0, 1, len(label)) + 2 * label, "b": rng.normal(0, 1, len(label))})
    frame["a"] = np.where(outside, 1e6, 0) + frame["a"]
    frame["seen"] = np.where(outside, "later", "early")
    frame["flag"] = outside
    return frame.assign(label=label).rename_axis("id").reset_index()


def test_no_synthetic_row_knows_calibration_or_test_and_none_gets_there(tmp_path: Path) -> None:
    shares: dict[str, Any] = {"train": 0.4, "calibrate": 0.2}
    sections = {
        **small_line.PARAMS,
        "split": {"calibrate": 0.3, "test": 0.3, "anomalies": shares, "seed": 0},
        "augment": {"kind": "smote", "share": 0.9, "seed": 0},
    }
    (tmp_path / "data/raw").mkdir(parents=True)
    modality = small_line.write(tmp_path, sections).modality
    label = pd.Series([0] * 100 + [1] * 40)
    source = tmp_path / "data/raw/parts.csv"

    def split() -> pd.DataFrame:
        small_line.run(tmp_path)  # ingest, split, augment
        return pd.read_parquet(tmp_path / SPLIT).astype({"id": int}).sort_values("id", ignore_index=True)

    def carries(samples: Samples) -> np.ndarray:
        frame = read(samples)
        return np.column_stack([frame["a"] > 1e5, frame["seen"] == "later", frame["flag"]])

    marked(label, pd.Series(["train"] * 140)).to_csv(source, index=False)
    planned = split()
    unmarked = pd.read_parquet(tmp_path / AUGMENTED / "table.parquet")
    marked(label, planned["part"]).to_csv(source, index=False)
    pd.testing.assert_frame_equal(split(), planned)  # the mark changed nobody's part
    rows = {name: part(tmp_path / DATASET, tmp_path / SPLIT, name) for name in ("train", "calibrate", "test")}
    assert all((some["label"] == 1).any() for some in rows.values())
    given = {name: modality.samples(some) for name, some in rows.items()}
    assert not carries(given["train"]).any()
    assert carries(given["calibrate"]).all()
    assert carries(given["test"]).all()

    added = read_manifest(tmp_path / AUGMENTED)
    assert len(added) == 90 * 40 // 100 - 16
    assert not carries(modality.samples(added)).any()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / AUGMENTED / "table.parquet"), unmarked)  # not even a bit
    whole = modality.samples(read_manifest(tmp_path / DATASET))
    leaky = pd.concat([b.x for b in params.read(tmp_path / "params.yaml").augmenter.augment(whole)])
    assert (leaky["seen"] == "later").any()  # had it seen the other parts, they would show

    made_up = set(added["id"])
    for name in ("calibrate", "test"):
        assert not made_up & set(rows[name]["id"])
        assert (rows[name]["defect"] != "synthetic").all()
        assert len(rows[name]) == (planned["part"] == name).sum()
