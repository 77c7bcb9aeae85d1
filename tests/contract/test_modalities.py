"""Every kind of data keeps the Modality and Samples contracts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import modalities
from pipeline.protocols import MANIFEST, Check, Samples, Scores
from pipeline.samples import read_manifest
from tests.contract.worlds import World

KINDS = list(modalities.TABLE)
Worlds = Callable[[str], World]


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_is_ordered_indexable_and_lazy(kind: str, worlds: Worlds) -> None:
    train = worlds(kind).train
    assert isinstance(train, Samples)
    assert len(train) == 52
    assert train.label.dtype == np.int8
    assert train.ids == train.rows["id"].tolist()
    assert set(MANIFEST) <= set(train.rows.columns)
    chosen = train[train.label == 1]
    assert chosen.ids == [i for i, label in zip(train.ids, train.label, strict=True) if label == 1]
    assert train[2:4].ids == train.ids[2:4]
    assert train[np.array([3, 1])].ids == [train.ids[3], train.ids[1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 7, 52, 100])
def test_batches_give_every_sample_once_in_order(kind: str, size: int, worlds: Worlds) -> None:
    train = worlds(kind).train
    batches = list(train.batches(size))
    assert [i for batch in batches for i in batch.ids] == train.ids
    assert all(len(batch) == len(batch.x) == len(batch.label) <= size for batch in batches)
    np.testing.assert_array_equal(np.concatenate([batch.label for batch in batches]), train.label)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_two_folders_join_in_order(kind: str, worlds: Worlds) -> None:
    world = worlds(kind)
    rows = pd.concat([world.train.rows, world.test.rows], ignore_index=True)
    joined = world.modality.samples(rows.iloc[::-1])
    (batch,) = joined.batches(len(rows))
    assert batch.ids == (world.train.ids + world.test.ids)[::-1]
    (alone,) = world.test[-1:].batches(1)
    np.testing.assert_array_equal(np.asarray(batch.x)[0], np.asarray(alone.x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_saving_no_batch_gives_a_typed_empty_manifest(kind: str, worlds: Worlds, tmp_path: Path) -> None:
    made = worlds(kind).modality.save([], tmp_path)
    assert len(made) == 0
    rows = pd.concat([worlds(kind).train.rows, read_manifest(tmp_path)], ignore_index=True)
    (batch,) = worlds(kind).modality.samples(rows).batches(100)
    assert batch.ids == worlds(kind).train.ids


@pytest.mark.parametrize("kind", KINDS)
def test_saved_samples_come_back_as_they_were(kind: str, worlds: Worlds, tmp_path: Path) -> None:
    world = worlds(kind)
    (before,) = world.test.batches(17)
    world.modality.save([before], tmp_path)
    (after,) = world.modality.samples(read_manifest(tmp_path)).batches(17)
    assert after.ids == before.ids
    np.testing.assert_array_equal(np.asarray(after.x), np.asarray(before.x))
    np.testing.assert_array_equal(after.label, before.label)
    assert (after.mask is None) == (before.mask is None)
    if before.mask is not None:
        np.testing.assert_array_equal(after.mask, before.mask)


@pytest.mark.parametrize("kind", KINDS)
def test_checks_are_sentences_over_a_frame_with_ids(kind: str, worlds: Worlds) -> None:
    folder = Path(worlds(kind).train.rows["folder"].iloc[0])
    frame, suite = worlds(kind).modality.checks(folder)
    assert "id" in frame
    assert suite
    assert all(isinstance(check, Check) and check.says for check in suite)
    assert any(check.critical for check in suite)


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_can_be_looked_at(kind: str, worlds: Worlds) -> None:
    (batch,) = worlds(kind).test[-2:].batches(2)
    local = None if batch.mask is None else batch.mask.astype(np.float32)
    scores = Scores(np.array([0.1, 2.0], np.float32), local)
    looks = worlds(kind).modality.look(worlds(kind).test[-2:].rows, scores)
    assert len(looks) == 2
    for look in looks:
        assert look.picture is not None or look.fields
        assert look.picture is None or (look.picture.dtype == np.uint8 and look.picture.ndim == 3)
        assert (look.heat is None) == (local is None)


@pytest.mark.parametrize("kind", KINDS)
def test_curves_of_local_scores(kind: str, worlds: Worlds) -> None:
    (batch,) = worlds(kind).test.batches(len(worlds(kind).test))
    if batch.mask is None:
        assert worlds(kind).modality.local_curves(np.zeros((1, 2)), np.zeros((1, 2))) == {}
        return
    curves = worlds(kind).modality.local_curves(batch.mask, batch.mask.astype(np.float32))
    assert curves
    for drawn in curves.values():
        assert 2 <= len(drawn) <= 1000
        assert drawn.iloc[:, 0].is_monotonic_increasing


@pytest.mark.parametrize("kind", KINDS)
def test_draws_one_picture_per_sample(kind: str, worlds: Worlds, tmp_path: Path) -> None:
    (batch,) = worlds(kind).test[-2:].batches(2)
    local = None if batch.mask is None else batch.mask.astype(np.float32)
    paths = worlds(kind).modality.draw(batch, Scores(np.array([0.1, 2.0], np.float32), local), 1.0, tmp_path)
    assert len(paths) == 2
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in paths)
