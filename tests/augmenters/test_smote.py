import numpy as np
import pandas as pd
import pytest

from pipeline.augmenters.smote import Smote
from pipeline.errors import DataError
from tests.detectors.table.rows import mixed, view


def made(smote: Smote, frame: pd.DataFrame, label: list[int]) -> pd.DataFrame:
    batches = list(smote.augment(view(frame, label)))
    assert all((b.label == 1).all() and b.ids == list(b.x.index) for b in batches)
    return pd.concat([b.x for b in batches])


def numbers(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"a": rng.normal(size=n), "b": rng.normal(0, 1000, n), "whole": rng.integers(0, 50, n)})


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


def test_nothing_is_added_where_there_are_enough() -> None:
    assert list(Smote(share=0.2).augment(view(numbers(60), [0] * 50 + [1] * 10))) == []


@pytest.mark.parametrize(
    ("smote", "label", "says"),
    [
        (Smote(), [0] * 60, r"needs labelled anomalies in the training part, got none; .* split\.anomalies\.train"),
        (Smote(), [1] * 60, r"needs normals \(label 0\) in the training part, got 60 anomalies only"),
        (Smote(), [0] * 55 + [1] * 5, r"augment\.neighbours must be less than the labelled anomalies .*, 5, got 5"),
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
