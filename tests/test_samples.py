"""Views decode in the background, a few batches ahead and no more."""

import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.protocols import Batch
from pipeline.samples import AHEAD, View, normals, part, presumed_normal, read_manifest, teaching


def rows(n: int) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"s{i}" for i in range(n)], "label": np.arange(n) % 2})


def view(n: int, seen: list[str]) -> View:
    def read(some: pd.DataFrame) -> Batch:
        seen.extend(some["id"])
        return Batch(some["id"].tolist(), some["id"].to_numpy(), some["label"].to_numpy(np.int8))

    return View(rows(n), read)


def test_nothing_is_decoded_before_it_is_asked_for_and_only_a_few_ahead() -> None:
    seen: list[str] = []
    samples = view(100, seen)
    assert seen == []
    batches = samples.batches(10)
    assert seen == []
    next(batches)
    assert len(seen) <= 10 * (AHEAD + 1)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_an_error_while_decoding_reaches_the_reader() -> None:
    def read(some: pd.DataFrame) -> Batch:
        raise DataError("s0 vanished")

    with pytest.raises(DataError, match="s0 vanished"):
        list(View(rows(4), read).batches(2))


@pytest.mark.parametrize(("label", "expected"), [([0, 1, -1, 0], [0, 1, 3]), ([-1, 1, -1, 1], [0, 1, 2, 3])])
def test_normals_and_anomalies_teach_and_the_unlabelled_where_they_stand_for_normals(
    label: list[int], expected: list[int]
) -> None:
    some = View(pd.DataFrame({"id": range(4), "label": label}), lambda rows: Batch([], None, None))
    assert teaching(some).ids == expected
    with pytest.raises(DataError, match="at least one normal sample"):
        teaching(some[np.array([1])])


def test_normals_are_label_0_and_must_exist() -> None:
    assert normals(view(6, [])).ids == ["s0", "s2", "s4"]
    with pytest.raises(DataError, match="got none among 1 samples"):
        normals(View(rows(2).iloc[1:], view(1, [])._read))


def test_a_part_is_the_manifest_rows_of_that_part(tmp_path: Path) -> None:
    rows(4).to_parquet(tmp_path / "manifest.parquet")
    pd.DataFrame({"id": ["s3", "s1", "s0"], "part": ["test", "train", "train"]}).to_parquet(tmp_path / "split.parquet")
    train = part(tmp_path, tmp_path / "split.parquet", "train")
    assert train["id"].tolist() == ["s0", "s1"]
    assert (train["folder"] == str(tmp_path)).all()
    with pytest.raises(DataError, match="must hold a manifest.parquet that can be read"):
        read_manifest(tmp_path / "nothing")


def test_unlabelled_samples_stand_for_normal_only_where_no_normal_is_labelled() -> None:
    np.testing.assert_array_equal(presumed_normal(np.int8([0, -1, 1])), [True, False, False])
    np.testing.assert_array_equal(presumed_normal(np.int8([-1, -1, 1])), [True, True, False])
    np.testing.assert_array_equal(presumed_normal(np.int8([1, 1])), [False, False])
