"""No group and no content crosses parts; shares, strata, time order and given splits are kept."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.params import Anomalies, Split
from pipeline.protocols import MANIFEST
from pipeline.split import assign

SHARED = Path(__file__).parents[1] / "../shared/data/splits"


def manifest(label: list[int], **columns: list) -> pd.DataFrame:
    """A manifest of as many samples as labels, each with content of its own, no group and no split."""
    n = len(label)
    rows = pd.DataFrame({"id": [f"s{i:04d}" for i in range(n)], "sha256": [f"c{i}" for i in range(n)]})
    rows["label"] = np.array(label, np.int8)
    for name in list(MANIFEST)[3:]:
        rows[name] = None
    return rows.assign(**columns)


def parts(rows: pd.DataFrame, split: Split) -> pd.DataFrame:
    """The manifest with its parts, after checking that every row has exactly one."""
    found = assign(rows, split)
    assert list(found.columns) == ["id", "part"]
    assert set(found["part"]) <= {"train", "calibrate", "test", "unused"}
    return rows.merge(found, on="id", validate="one_to_one")


def counts(found: pd.DataFrame, *by: str) -> dict:
    """Rows for each value of the columns `by` and the part."""
    return found.value_counts([*by, "part"]).to_dict()


def test_normals_by_shares_and_anomalies_to_the_test() -> None:
    found = parts(manifest([0] * 100 + [1] * 7 + [-1] * 3), Split(calibrate=0.3, test=0.2))
    expected = {(0, "train"): 50, (0, "calibrate"): 30, (0, "test"): 20, (1, "test"): 7, (-1, "unused"): 3}
    assert counts(found, "label") == expected


def test_shares_of_the_anomalies_stratified_by_defect() -> None:
    rows = manifest([0] * 20 + [1] * 30, defect=[None] * 20 + ["dent"] * 20 + ["hole"] * 10)
    found = parts(rows, Split(anomalies=Anomalies(train=0.5, calibrate=0.2)))
    assert counts(found[found["label"] == 1], "defect") == {
        ("dent", "train"): 10,
        ("dent", "calibrate"): 4,
        ("dent", "test"): 6,
        ("hole", "train"): 5,
        ("hole", "calibrate"): 2,
        ("hole", "test"): 3,
    }


def test_each_category_is_split_by_the_same_shares() -> None:
    found = parts(manifest([0] * 80, category=["a"] * 50 + ["b"] * 20 + ["c"] * 10), Split(calibrate=0.3, test=0.2))
    expected = {"a": (25, 15, 10), "b": (10, 6, 4), "c": (5, 3, 2)}
    for name, numbers in expected.items():
        assert [counts(found, "category")[name, part] for part in ("train", "calibrate", "test")] == list(numbers)


def test_many_tiny_categories_still_fill_every_part() -> None:
    found = parts(manifest([0] * 50, category=[f"k{i}" for i in range(50)]), Split(calibrate=0.2, test=0.2))
    assert counts(found) == {("train",): 30, ("calibrate",): 10, ("test",): 10}


def test_the_oldest_train_and_the_newest_test() -> None:
    time = pd.date_range("2024-01-01", periods=50, tz="UTC")[np.random.default_rng(0).permutation(50)]
    rows = manifest([0] * 40 + [1] * 10, time=time)
    found = parts(rows, Split(order="time", calibrate=0.25, test=0.25, anomalies=Anomalies(train=0.4)))
    normal, anomalous = found[found["label"] == 0], found[found["label"] == 1]
    train, calibrate, test = (normal["time"][normal["part"] == p] for p in ("train", "calibrate", "test"))
    assert (len(train), len(calibrate), len(test)) == (20, 10, 10)
    assert train.max() < calibrate.min()
    assert calibrate.max() < test.min()
    early, late = (anomalous["time"][anomalous["part"] == p] for p in ("train", "test"))
    assert (len(early), len(late)) == (4, 6)
    assert early.max() < late.min()


def test_time_order_needs_times() -> None:
    rows = manifest([0] * 10, time=[f"2024-01-{i:02d}" for i in range(1, 10)] + [None])
    with pytest.raises(DataError, match=r"split.order time needs a time for every sample, got none for s0009$"):
        assign(rows, Split(order="time"))


def test_normals_follow_the_anomalies_of_their_group() -> None:
    """Groups of ten; g0 and g1 hold an anomaly each, so their 18 normals are tested and count towards that share."""
    rows = manifest([1 if i in (0, 10) else 0 for i in range(100)], group=[f"g{i // 10}" for i in range(100)])
    found = parts(rows, Split(calibrate=0.2, test=0.2))
    assert set(found["part"][found["group"].isin(["g0", "g1"])]) == {"test"}
    assert counts(found) == {("train",): 60, ("calibrate",): 20, ("test",): 20}


def test_groups_of_normals_only_lets_anomalies_leave_their_group() -> None:
    rows = manifest([int(i % 5 == 0) for i in range(100)], group=[f"g{i // 5}" for i in range(100)])
    with pytest.raises(DataError, match="split leaves no normal samples to train: of 80 normal, 20 anomalous"):
        assign(rows, Split())
    found = parts(rows, Split(groups="normals"))
    assert counts(found, "label") == {(0, "train"): 48, (0, "calibrate"): 16, (0, "test"): 16, (1, "test"): 20}
    normal = found[found["label"] == 0]
    assert (normal.groupby("group")["part"].nunique() == 1).all()


def test_links_run_over_groups_and_contents_in_turn() -> None:
    """s0 - s1 by group, s1 - s2 by content, s2 - s3 by group: all four stay together with the anomaly s3."""
    label = [0, 0, 0, 1] + [0] * 20
    group = ["a", "a", "b", "b"] + [None] * 20
    content = ["p", "q", "q", "r"] + [f"c{i}" for i in range(20)]
    found = parts(manifest(label, group=group, sha256=content), Split())
    assert found["part"][:4].tolist() == ["test"] * 4


def drawn(rng: np.random.Generator) -> pd.DataFrame:
    """A manifest with few or many groups, copies and categories."""
    n = int(rng.integers(12, 60))
    labels, groups = [0, 0, 0, 0, 1, -1], [None, None, "", *(f"g{i}" for i in range(12))]
    column = lambda values: [values[i] for i in rng.integers(0, len(values), n)]  # noqa: E731
    contents = [f"c{i}" for i in rng.integers(0, 3 * n, n)]
    return manifest(
        column(labels), group=column(groups), sha256=contents, category=column([None, "x", "y"]), time=column([*"1234"])
    )


def test_nothing_crosses_and_the_order_of_rows_does_not_matter() -> None:
    """A property of 60 drawn manifests; those with too few free normals for every part are refused."""
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        rows, share = drawn(rng), float(rng.choice([0.0, 0.3]))
        order = str(rng.choice(["random", "time"]))
        split = Split(order=order, anomalies=Anomalies(train=share, calibrate=share), seed=int(rng.integers(6)))
        try:
            found = parts(rows, split)
        except DataError:
            refused += 1
            continue
        nothing_crosses(found, share)
        pd.testing.assert_frame_equal(assign(rows, split), assign(rows.iloc[rng.permutation(len(rows))], split))
    assert refused <= 45


def nothing_crosses(found: pd.DataFrame, share: float) -> None:
    used = found[found["part"] != "unused"]
    assert (found["label"][found["part"] == "unused"] == -1).all()
    assert (used.groupby("sha256")["part"].nunique() == 1).all()
    grouped = used[used["group"].fillna("") != ""]
    assert (grouped.groupby("group")["part"].nunique() == 1).all()
    calibrated = set(used["sha256"][used["part"] == "calibrate"])
    assert not calibrated & set(used["sha256"][used["part"] != "calibrate"])
    if share == 0:
        assert (used["label"][used["part"] == "calibrate"] == 0).all()
        assert (used["part"][used["label"] == 1] == "test").all()


def test_the_seed_decides_and_new_samples_hardly_move_old_ones() -> None:
    rows = manifest([0] * 400)
    first = assign(rows, Split(seed=1))
    pd.testing.assert_frame_equal(first, assign(rows, Split(seed=1)))
    assert (first["part"] != assign(rows, Split(seed=2))["part"]).sum() > 100
    more = assign(manifest([0] * 410), Split(seed=1)).iloc[:400]
    assert (first["part"] != more["part"]).sum() <= 10


def test_a_given_split_is_respected_by_any_of_its_names() -> None:
    given_split = ["train", "Train", "calibrate", "calibration", "val", "validation", "test", "test ", "test"]
    rows = manifest([0, 0, 0, 0, 0, 0, 0, 1, -1], split=given_split)
    assert parts(rows, Split())["part"].tolist() == ["train"] * 2 + ["calibrate"] * 4 + ["test"] * 3


@pytest.mark.parametrize("seed", range(8))
def test_calibration_comes_out_of_given_training_normals_by_whole_groups(seed: int) -> None:
    label = [0] * 40 + [1] + [0] * 9 + [1] * 5
    group = [f"g{i // 4}" for i in range(40)] + ["mixed"] * 2 + [None] * 13
    rows = manifest(label, group=group, split=["train"] * 42 + ["test"] * 13)
    found = parts(rows, Split(calibrate=0.4, seed=seed))
    calibrate = found[found["part"] == "calibrate"]
    assert len(calibrate) == 16  # 0.4 x 41 training normals, in whole groups of four
    assert (calibrate["label"] == 0).all()
    assert "mixed" not in set(calibrate["group"])
    assert (found.dropna(subset="group").groupby("group")["part"].nunique() == 1).all()
    assert (found["part"][42:] == "test").all()


def test_shares_of_the_anomalies_come_out_of_a_given_test() -> None:
    label, given = [0] * 30 + [1] * 20, ["train"] * 10 + ["val"] * 10 + ["test"] * 30
    rows = manifest(label, split=given, defect=[None] * 30 + ["dent"] * 10 + ["hole"] * 10)
    found = parts(rows, Split(anomalies=Anomalies(train=0.2, calibrate=0.1)))
    assert counts(found[found["label"] == 0]) == {("train",): 10, ("calibrate",): 10, ("test",): 10}
    shares = {"train": 2, "calibrate": 1, "test": 7}
    assert counts(found[found["label"] == 1], "defect") == {
        (d, p): n for d in ("dent", "hole") for p, n in shares.items()
    }


def test_an_anomaly_does_not_leave_a_given_test_without_the_normals_of_its_group() -> None:
    rows = manifest([0] * 30 + [1] * 4, split=["train"] * 10 + ["val"] * 10 + ["test"] * 14)
    rows["group"] = [f"g{i}" for i in range(30)] + ["g29", "g28", "g27", None]
    found = parts(rows, Split(anomalies=Anomalies(train=0.25)))
    assert found["part"][found["label"] == 1].tolist() == ["test", "test", "test", "train"]
    with pytest.raises(DataError, match="asks for 2 of the given test's 4 anomalies, but only 1 share no group"):
        parts(rows, Split(anomalies=Anomalies(train=0.5)))
    moved = parts(rows, Split(anomalies=Anomalies(train=0.5), groups="normals"))
    assert counts(moved[moved["label"] == 1]) == {("train",): 2, ("test",): 2}


def test_a_given_split_that_leaks_a_group_is_refused_by_name() -> None:
    rows = manifest([0] * 9, group=["a"] * 3 + ["b"] * 3 + ["c"] * 3, split=["train", "calibrate", "test"] * 3)
    with pytest.raises(DataError) as caught:
        assign(rows, Split())
    assert str(caught.value) == (
        "the given split must keep samples of group a in one part, got s0000, s0001, s0002 in calibrate and test and "
        "train (3 such groups); mend the split, or set split.groups to normals if only anomalies cross (params.yaml)"
    )
    with pytest.raises(DataError, match=r"group a \(normal\)"):
        assign(rows, Split(groups="normals"))


def test_a_given_split_that_leaks_content_is_refused_with_the_ids() -> None:
    rows = manifest([0] * 6, sha256=list("abcdea"), split=["train", "train", "calibrate", "calibrate", "test", "test"])
    for groups in ("whole", "normals"):
        with pytest.raises(
            DataError, match="samples of identical content in one part, got s0000, s0005 in test and train"
        ):
            assign(rows, Split(groups=groups))


@pytest.mark.parametrize(("value", "came"), [("holdout", "'holdout'"), (None, "nothing"), ("", "nothing")])
def test_an_unknown_or_missing_split_value_is_refused(value: str | None, came: str) -> None:
    rows = manifest([0] * 4, split=["train", "test", "calibrate", value])
    with pytest.raises(DataError, match=f"split must be one of train, .* got {came} for s0003$"):
        assign(rows, Split())


def test_no_normals_at_all() -> None:
    with pytest.raises(DataError, match="no normal samples to train: of 0 normal, 3 anomalous and 0 unlabelled"):
        assign(manifest([1, 1, 1]), Split())


def test_unlabelled_samples_stand_for_normals_where_none_is_labelled() -> None:
    rows = manifest([-1] * 20 + [1] * 4)
    as_normals = assign(rows.assign(label=[0] * 20 + [1] * 4), Split())
    pd.testing.assert_frame_equal(assign(rows, Split()), as_normals)
    mixed = assign(rows.assign(label=[0] * 10 + [-1] * 10 + [1] * 4), Split())
    assert (mixed["part"] == "unused").sum() == 10


def test_too_few_normals_to_calibrate() -> None:
    with pytest.raises(DataError, match="split leaves no normal samples to calibrate: of 1 normal"):
        assign(manifest([0, 1, 1]), Split())


def test_nothing_to_test() -> None:
    with pytest.raises(DataError, match="split leaves nothing to test: of 10 normal"):
        assign(manifest([0] * 10), Split(test=0.0))


def test_ids_must_be_unique() -> None:
    rows = manifest([0] * 3)
    rows["id"] = ["a", "b", "a"]
    with pytest.raises(DataError, match="the manifest's ids must be unique, got a more than once"):
        assign(rows, Split())


def test_sentences_name_five_rows_and_the_count_of_the_others() -> None:
    rows = manifest([0] * 9, split=["train"] + ["odd"] * 8)
    with pytest.raises(DataError, match="got 'odd' for s0001, s0002, s0003, s0004, s0005 and 3 more"):
        assign(rows, Split())


@pytest.mark.skipif(not SHARED.exists(), reason="the real data of ../shared are not here")
@pytest.mark.parametrize(
    ("name", "groups", "numbers"),
    [
        ("magnetic_tile", "whole", (580, 186, 186, 392)),
        ("mvtec_screw", "whole", (256, 64, 41, 119)),
        ("kolektorsdd", "normals", (174, 56, 103, 50)),
    ],
)
def test_the_splits_of_real_data_are_taken_over(name: str, groups: str, numbers: tuple[int, ...]) -> None:
    rows = pd.read_csv(SHARED / f"{name}.csv", dtype={"group": "str"})
    rows = rows.assign(id=rows["path"], sha256=rows["path"], category=None, severity=None, time=None)
    found = counts(parts(rows, Split(groups=groups)), "label")
    assert tuple(found[key] for key in [(0, "train"), (0, "calibrate"), (0, "test"), (1, "test")]) == numbers
