from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import scoring
from pipeline.detectors.image import musc
from pipeline.detectors.image.musc import MuSc
from pipeline.errors import DataError, NotFittedError, ParamsError
from pipeline.parts import features, mutual
from pipeline.parts.features import Backbone
from pipeline.parts.mutual import distances
from tests.pictures import SIDE, planted, stripes, view, whole

COARSE = Backbone(levels=[1, 3])
TINY = {"backbone": COARSE, "references": 8, "degrees": [1, 3]}


def test_scores_are_those_of_each_reference_by_hand() -> None:
    detector = MuSc(Backbone(levels=[2]), degrees=[1], windows=[1]).fit(view(stripes(5, 0)))
    test, _ = planted(2, 1)

    def tokens(x: np.ndarray) -> np.ndarray:
        (maps,) = features.load(Backbone(levels=[2])).maps(x)
        about = maps - maps.mean(dim=(1, 2, 3), keepdim=True)  # the scale is lost in what follows
        rows = about.flatten(2).mT.numpy()
        return rows / np.linalg.norm(rows, axis=2, keepdims=True)

    query, others = tokens(test), tokens(stripes(5, 0))
    each = np.linalg.norm(query[:, :, None, None] - others[None, None], axis=4).min(axis=3)  # (n, t, m)
    expected = np.sort(each, axis=2)[:, :, :1].mean(axis=2).reshape(2, SIDE // 4, SIDE // 4)  # int(0.3 * 5)
    large = torch.nn.functional.interpolate(torch.from_numpy(expected)[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
    scores = detector.score(whole(view(test)))
    np.testing.assert_allclose(scores.local, large, atol=2e-3)  # references are held in half precision
    np.testing.assert_allclose(scores.sample, large.amax(dim=(1, 2)), atol=2e-3)


def test_a_planted_defect_is_found_though_references_have_some_too() -> None:
    x, mask = planted(8, 1)
    train = np.concatenate([stripes(20, 0), planted(1, 2)[0], planted(1, 3)[0]])
    detector = MuSc(references=22).fit(view(train, np.r_[np.zeros(20), 1, 1]))
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 12 <= row < 32
    assert 16 <= column < 36
    assert detector.levels_[0].shape[0] == 22
    unlabelled = MuSc(references=22).fit(view(train, np.full(22, -1)))
    np.testing.assert_array_equal(unlabelled.score(whole(view(x))).sample, scores.sample)


def test_a_batch_scores_itself() -> None:
    x, _ = planted(9, 1)
    detector = MuSc(COARSE, references=0).fit(view(stripes(2, 0)))
    scores = detector.score(whole(view(x)))
    assert scores.sample.argmax() == 8
    assert not np.array_equal(scores.sample[:5], detector.score(whole(view(x[:5]))).sample)
    again = MuSc(COARSE, references=0).from_state(detector.state()).score(whole(view(x)))
    np.testing.assert_array_equal(again.local, scores.local)
    x[3] = x[6]
    calm = MuSc(COARSE, references=0, windows=[1]).fit(view(stripes(2, 0))).score(whole(view(x)))
    assert set(calm.local.mean(axis=(1, 2)).argsort()[:2]) == {3, 6}
    with pytest.raises(DataError, match=r"needs at least 5 in a batch, got 1 \(sample s-000\)"):
        detector.score(whole(view(x[:1])))
    many = scoring.score(detector, view(stripes(33, 4)), 32, keep_local=False)  # 32 of them leave one alone
    assert len(many.scores.sample) == 33
    large = view(x.repeat(2, axis=2).repeat(2, axis=3))
    narrow = MuSc(Backbone(levels=[0]), references=0, grid=24, memory=1).fit(large)
    with pytest.raises(DataError, match="memory must hold the distances between two images of 576 tokens, 2 MB, got 1"):
        narrow.score(whole(large))


def test_a_reference_does_not_hear_itself() -> None:
    train = stripes(8, 0)
    test = whole(view(train[:1]))
    with_it = MuSc(**TINY, windows=[1]).fit(view(train)).score(test).sample
    without = MuSc(**TINY | {"references": 7}, windows=[1]).fit(view(train[1:])).score(test).sample
    np.testing.assert_allclose(with_it, without, rtol=1e-5)
    copies = np.repeat(train[:1], 3, axis=0)
    assert (MuSc(**TINY).fit(view(copies)).score(test).sample < 2e-3).all()  # where all are copies they are heard


def test_repeats_and_survives_its_state() -> None:
    train, test = view(stripes(12, 0)), whole(view(planted(3, 1)[0]))
    first = MuSc(**TINY).fit(train)
    second = MuSc(**TINY).fit(view(stripes(4, 9))).fit(train)
    for other in (second, MuSc(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)


def test_memory_changes_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"backbone": Backbone(levels=[1]), "references": 24, "degrees": [1]}
    train, test = view(stripes(24, 0)), whole(view(planted(3, 1)[0]))
    expected = MuSc(**given).fit(train)
    met: list[int] = []

    def meeting(tokens: torch.Tensor, some: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        met.append(len(some))
        return distances(tokens, some, inside)

    monkeypatch.setattr(mutual, "distances", meeting)
    found = MuSc(**given, memory=1).fit(train)
    assert set(met) == {9, 6}  # of 24 references
    np.testing.assert_array_equal(found.rated_, expected.rated_)
    np.testing.assert_array_equal(found.score(test).sample, expected.score(test).sample)
    np.testing.assert_array_equal(found.score(test).local, expected.score(test).local)


def test_references_rate_each_other_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    expected = MuSc(**TINY | {"references": 20}).fit(view(stripes(20, 0))).rated_
    monkeypatch.setattr(musc, "BATCH", 8)
    held = mutual.scored
    monkeypatch.setattr(mutual, "scored", lambda maps, *rest: seen.append(len(maps[0])) or held(maps, *rest))
    np.testing.assert_allclose(MuSc(**TINY | {"references": 20}).fit(view(stripes(20, 0))).rated_, expected, rtol=1e-5)
    assert seen == [8, 8, 4]


def test_batch_size_does_not_matter() -> None:
    detector, test = MuSc(**TINY).fit(view(stripes(8, 0))), view(planted(7, 1)[0])
    apart = np.concatenate([detector.score(batch).sample for batch in test.batches(2)])
    np.testing.assert_allclose(detector.score(whole(test)).sample, apart, rtol=1e-4, atol=1e-5)


def test_finer_maps_are_averaged_to_the_grid() -> None:
    test = whole(view(planted(3, 1)[0]))
    fine, coarse = (MuSc(Backbone(levels=[0]), grid=grid).fit(view(stripes(6, 0))) for grid in (12, 5))
    assert fine.levels_[0].shape[2:] == (12, 12)
    assert coarse.levels_[0].shape[2:] == (4, 4)  # 3 x 3 positions each
    means = torch.nn.functional.avg_pool2d(fine.levels_[0].float(), 3)
    np.testing.assert_allclose(coarse.levels_[0], means, atol=2e-3)
    assert coarse.score(test).sample.argmax() == 2


def test_what_does_not_count_is_not_seen() -> None:
    train, region = stripes(8, 0), np.ones((8, SIDE, SIDE), bool)
    region[:, :, :24] = False
    detector = MuSc(Backbone(levels=[0]), degrees=[1, 3]).fit(view(train, region=region))
    batch = whole(view(stripes(3, 2), region=region[:3]))
    spoiled = batch.x.copy()
    spoiled[:, :, :, :8] = 255
    expected = detector.score(batch)
    found = detector.score(replace(batch, x=spoiled))
    np.testing.assert_allclose(found.sample, expected.sample, rtol=1e-4)
    assert (expected.local[:, :, :8] == 0).all()


def test_refusals() -> None:
    with pytest.raises(NotFittedError):
        MuSc().score(whole(view(stripes(2, 0))))
    with pytest.raises(NotFittedError):
        MuSc().state()
    with pytest.raises(DataError, match="at least 2 images of training to score against, got 1"):
        MuSc().fit(view(stripes(1, 0)))
    with pytest.raises(ParamsError, match="degrees must be odd widths in tokens, got 4"):
        MuSc(degrees=[1, 4])
    detector = MuSc(**TINY).fit(view(stripes(3, 0)))
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        detector.score(replace(batch, x=batch.x[:, :, 1:]))
