import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.detectors.image.resad import Corrupted, ResAD
from pipeline.errors import DataError, NotFittedError
from pipeline.parts import features
from pipeline.parts.features import Backbone
from pipeline.parts.residuals import residuals
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN, Samples
from pipeline.samples import View
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 4, "batch": 4, "couplings": 2, "codes": 8, "shots": 2, "backbone": Backbone(levels=[0, 1])}


def chequers(n: int, seed: int) -> np.ndarray:
    """uint8 `(n, 3, SIDE, SIDE)`: small chequers at chance phases, with noise; another category than stripes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] * 2 * np.pi / 6
    a, b = rng.uniform(0, 2 * np.pi, (2, n, 1, 1))
    grey = 110 + 60 * np.sin(x + a) * np.sin(y + b) + rng.normal(0, 4, (n, SIDE, SIDE))
    return np.repeat(grey[:, None], 3, axis=1).clip(0, 255).astype(np.uint8)


def both(n: int, seed: int) -> Samples:
    """n images of `stripes`, then n of `chequers`."""
    x = np.concatenate([stripes(n, seed), chequers(n, seed)])
    return view(x, category=["stripes"] * n + ["chequers"] * n)


def named(x: np.ndarray, category: str) -> Samples:
    return view(x, category=[category] * len(x))


def test_of_a_reference_itself_nothing_is_left() -> None:
    train = both(3, 0)
    detector = ResAD(**{**TINY, "shots": 3}).fit(train)
    for x, name in ((stripes(3, 0), "stripes"), (chequers(3, 0), "chequers")):
        for maps, bank in zip(detector._maps(x), detector._banks[name], strict=True):
            assert maps.abs().max() > 1
            assert residuals(maps, bank).abs().max() < 1e-5
    found = detector.score(whole(train)).sample
    odd = detector.score(whole(named(stripes(3, 0), "chequers"))).sample  # judged by the wrong references
    assert odd.min() > found.max()


def test_a_new_category_is_referred_to_and_no_network_changes() -> None:
    detector = ResAD(Backbone(levels=[0, 1]), steps=40, batch=4, couplings=4, codes=16)
    detector.fit(named(stripes(12, 0), "stripes"))
    test, before = whole(named(stripes(4, 1), "stripes")), detector.state().arrays
    expected = detector.score(test).sample
    x = chequers(4, 5)
    x[-1, :, 16:28, 20:32] = 240
    new = whole(named(x, "chequers"))
    with pytest.raises(DataError, match="category 'chequers' has no references, only 'stripes' have: .* refer"):
        detector.score(new)
    assert detector.refer(named(chequers(4, 6), "chequers")) is detector
    scores = detector.score(new)
    assert scores.sample.argmax() == 3
    row, column = np.unravel_index(scores.local[3].argmax(), (SIDE, SIDE))
    assert 12 <= row < 32
    assert 16 <= column < 36
    for name, array in before.items():
        np.testing.assert_array_equal(detector.state().arrays[name], array)
    np.testing.assert_array_equal(detector.score(test).sample, expected)
    detector.refer(named(chequers(4, 7), "chequers"))  # replaces
    assert not np.array_equal(detector.score(new).sample, scores.sample)
    mixed = whole(view(np.concatenate([test.x, new.x]), category=["stripes"] * 4 + ["chequers"] * 4))
    np.testing.assert_allclose(detector.score(mixed).sample[:4], expected, rtol=1e-4)


def test_only_the_categories_of_learn_are_learned_from() -> None:
    train = both(4, 0)
    one = ResAD(**TINY, learn=["stripes"]).fit(train)
    alone = ResAD(**TINY).fit(named(stripes(4, 0), "stripes"))
    assert one.history_ == alone.history_
    assert list(one.references_) == ["stripes", "chequers"]
    test = whole(named(chequers(2, 3), "chequers"))
    alone.refer(named(chequers(4, 0), "chequers"))
    np.testing.assert_array_equal(one.score(test).sample, alone.score(test).sample)
    assert ResAD(**TINY).fit(train).history_ != one.history_
    for learn, told in ((["stripes", "dots"], "'dots'"), ([], "none")):
        with pytest.raises(DataError, match=f"learn must name .* 'stripes', 'chequers', got {told}"):
            ResAD(**TINY, learn=learn).fit(train)


def test_the_idea_can_be_left_out() -> None:
    train, wrong = both(4, 0), whole(named(stripes(2, 1), "chequers"))
    right = whole(named(stripes(2, 1), "stripes"))
    without = ResAD(**TINY, residual=False).fit(train)
    np.testing.assert_array_equal(without.score(right).sample, without.score(wrong).sample)
    expected = ResAD(**TINY).fit(train).score(right).sample
    for off in ({"match": 0.0}, {"constrain": 0.0}):
        assert not np.array_equal(ResAD(**TINY, **off).fit(train).score(right).sample, expected)
    free = ResAD(**TINY, constrain=0.0).fit(train)
    assert not any(level.last.weight.any() for level in free.networks_.constraintors)


def test_labels_teach_where_they_have_masks(caplog: pytest.LogCaptureFixture) -> None:
    x, mask = planted(8, 0)
    label = np.r_[np.zeros(7), 1]
    made = ResAD(**TINY).fit(view(x[:7]))
    taught = ResAD(**TINY).fit(view(x, label, mask))
    assert taught.history_ != made.history_
    assert not caplog.records
    unknown = np.where(label[:, None, None] == 1, UNKNOWN, NORMAL) * np.ones(mask.shape)
    with caplog.at_level(logging.WARNING):
        assert ResAD(**TINY).fit(view(x, label, unknown)).history_ == made.history_
    assert (
        "1 of 1 anomalous images have no mask that counts: the networks learn from synthetic anomalies" in caplog.text
    )
    caplog.clear()
    samples = view(x, label, mask)
    bare = View(samples.rows, lambda rows: replace(samples._read(rows), mask=None))
    assert ResAD(**TINY).fit(bare).history_ == made.history_
    more = np.concatenate([x, x[-1:]]), np.r_[label, 1], np.concatenate([mask, mask[-1:] * UNKNOWN])
    assert ResAD(**TINY).fit(view(*more)).history_ == taught.history_
    assert "1 of 2 anomalous images have no mask that counts: the networks learn from the others" in caplog.text


def test_synthetic_anomalies_have_masks() -> None:
    train = view(stripes(3, 0))
    (batch,) = Corrupted(train, 0).batches(8)
    changed = (batch.x != whole(train).x).any(axis=1)
    assert (batch.label == ANOMALOUS).all()
    assert batch.mask.any(axis=(1, 2)).all()
    assert not changed[batch.mask == NORMAL].any()
    region = np.zeros((12, SIDE, SIDE), bool)
    region[:, 4:18, 30:44] = True
    (within,) = Corrupted(view(stripes(12, 0), region=region), 0).batches(12)
    assert (within.mask == ANOMALOUS).any(axis=(1, 2)).all()
    assert not (within.mask == ANOMALOUS)[~region].any()


def test_the_losses_fall_and_a_planted_defect_is_found() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    detector = ResAD(Backbone(levels=[0, 1]), steps=60, batch=4, couplings=4, codes=16, rate=5e-3)
    detector.fit(view(stripes(12, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    first, last = ([detector.history_[i][name] for name in ("likelihood", "contraction")] for i in (0, -1))
    assert (np.array(last) < 0.9 * np.array(first)).all()
    x, mask = planted(8, 1)
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 12 <= row < 32
    assert 16 <= column < 36


def test_what_does_not_count_is_not_seen() -> None:
    detector, region = ResAD(**{**TINY, "backbone": Backbone(levels=[0])}, smooth=0.0), np.ones((6, SIDE, SIDE), bool)
    region[:, :, :24] = False
    train = stripes(6, 0)
    other = train.copy()
    other[:, :, :, :8] = np.random.default_rng(1).integers(0, 256, (6, 3, SIDE, 8))
    batch = whole(view(stripes(2, 3), region=region[:2]))
    spoiled = replace(batch, x=batch.x.copy())
    spoiled.x[:, :, 16:28, :8] = 255  # farther off than a filter reaches
    detector.fit(view(train, region=region))
    expected, levels = detector.score(batch), detector.references_[""]
    assert len(levels[0]) == 2 * 12 * 6
    np.testing.assert_array_equal(detector.score(spoiled).sample, expected.sample)
    assert (detector.score(replace(spoiled, region=None)).sample > expected.sample + 0.1).all()
    detector.refer(view(other, region=region))
    np.testing.assert_array_equal(detector.score(batch).local, expected.local)
    history = detector.history_
    assert detector.fit(view(other, region=region)).history_ == history  # nor do textures come from there
    np.testing.assert_array_equal(detector.score(batch).local, expected.local)


def test_a_labelled_anomaly_that_does_not_count_teaches_nothing(caplog: pytest.LogCaptureFixture) -> None:
    x, mask = planted(8, 0)
    region = np.zeros(mask.shape, bool)
    region[:, 32:] = True  # below the square
    label = np.r_[np.zeros(7), 1]
    with caplog.at_level(logging.WARNING):
        found = ResAD(**TINY).fit(view(x, label, mask, region))
    assert found.history_ == ResAD(**TINY).fit(view(x[:7], region=region[:7])).history_
    assert "1 of 1 anomalous images have no mask that counts: the networks learn from synthetic" in caplog.text


def test_repeats_and_survives_its_state_bit_for_bit() -> None:
    train, test = both(4, 0), whole(both(2, 1))
    first = ResAD(**TINY).fit(train)
    second = ResAD(**TINY).fit(named(stripes(2, 9), "dots")).fit(train)
    for other in (second, ResAD(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
        assert list(other.references_) == ["stripes", "chequers"]
    assert first.history_ == second.history_
    assert not np.array_equal(first.score(test).sample, ResAD(**TINY, seed=1).fit(train).score(test).sample)
    apart = np.concatenate([first.score(b).sample for b in both(2, 1).batches(1)])
    np.testing.assert_allclose(first.score(test).sample, apart, rtol=1e-4, atol=1e-5)


def test_refusals_and_a_single_flat_image(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = whole(view(stripes(2, 0)))
    for call in (ResAD().score, ResAD().embed, ResAD().refer):
        with pytest.raises(NotFittedError):
            call(batch)
    with pytest.raises(DataError, match="at least one normal"):
        ResAD(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    detector = ResAD(**TINY).fit(view(np.full((1, 3, SIDE, SIDE), 100, np.uint8)))
    assert np.isfinite(detector.score(batch).sample).all()
    assert np.array_equal(detector.score(replace(batch, category=None)).sample, detector.score(batch).sample)
    assert detector.embed(batch).shape == (2, 32)
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        detector.score(replace(batch, x=batch.x[:, :, 1:]))
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 48 x 40 \(sample s-000\)"):
        detector.refer(named(stripes(2, 0)[..., :40], "new"))
    assert list(detector.references_) == [""]
    with pytest.raises(DataError, match="at least one normal"):
        detector.refer(view(stripes(2, 0), np.ones(2)))
    found = features.Features.maps
    monkeypatch.setattr(features.Features, "maps", lambda self, x: [m[:, :1] for m in found(self, x)])
    with pytest.raises(DataError, match=r"at least 2 channels for a flow, got \[1, 1\]"):
        ResAD(**TINY).fit(view(stripes(2, 0)))
