from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.detectors.image.cflow import CFlow
from pipeline.errors import DataError, NotFittedError, ParamsError
from pipeline.parts import features
from pipeline.parts.features import Backbone
from pipeline.parts.flows import positions
from pipeline.parts.moments import standardised
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 4, "batch": 64, "couplings": 2, "condition": 8, "backbone": Backbone(levels=[0, 2])}


def halves(n: int, seed: int) -> np.ndarray:
    """uint8 `(n, 3, SIDE, SIDE)`: upright stripes on the left, lying ones on the right, with noise."""
    y, x = np.mgrid[:SIDE, :SIDE] * 2 * np.pi / 8
    grey = 120 + 50 * np.sin(np.where(x < 6 * np.pi, x, y)) + np.random.default_rng(seed).normal(0, 6, (n, SIDE, SIDE))
    return np.repeat(grey[:, None], 3, axis=1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("condition", "told"), [(64, True), (0, False)])
def test_what_is_normal_elsewhere_is_odd_only_with_the_condition(condition: int, told: bool) -> None:
    detector = CFlow(Backbone(levels=[0]), couplings=4, condition=condition, steps=60, batch=256, rate=1e-2)
    detector.fit(view(halves(8, 0)))
    right, wrong = halves(1, 1), halves(1, 1)[..., ::-1].copy()
    scores = detector.score(whole(view(np.concatenate([right, wrong]))))
    both = scores.local[:, 4:-4, [*range(4, 16), *range(32, 44)]].mean(axis=(1, 2))  # neither the step nor the edges
    assert bool(both[1] > both[0] + 1) == told


def test_scores_are_likelihoods_as_shares_of_the_largest_in_training() -> None:
    train = view(stripes(6, 0))
    detector, test = CFlow(**TINY, smooth=0.0).fit(train), whole(view(planted(3, 1)[0]))

    def likelihoods(x: np.ndarray) -> list[torch.Tensor]:
        found = []
        for flow, scale, maps in zip(
            detector.flows_, detector.scales_, features.load(TINY["backbone"]).maps(x), strict=True
        ):
            rows = standardised(maps, *scale).permute(0, 2, 3, 1).flatten(1, 2)
            z, determinant = flow(rows, positions((12, 12), 8).expand(len(x), 144, 8))
            density = torch.distributions.Normal(0, 1).log_prob(z).sum(dim=2) + determinant
            found.append((density / rows.shape[2]).view(-1, 12, 12).exp())
        return found

    normal, found = likelihoods(whole(train).x), likelihoods(test.x)
    np.testing.assert_allclose(detector.likeliest_, [one.max().log() for one in normal], rtol=1e-2)  # of half precision
    total = sum(one / best.exp() for one, best in zip(found, detector.likeliest_, strict=True))
    large = nn.functional.interpolate(-total.log()[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
    scores = detector.score(test)
    np.testing.assert_allclose(scores.local, large, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scores.sample, -total.log().amin(dim=(1, 2)), rtol=1e-3, atol=1e-3)


def test_the_loss_falls_and_a_planted_defect_is_found() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    x, mask = planted(8, 1)
    detector = CFlow(Backbone(levels=[0, 1]), couplings=4, condition=8, steps=60, batch=256, rate=3e-3)
    detector.fit(view(stripes(16, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    losses = [row["level0"] + row["level1"] for row in detector.history_]
    assert [row["step"] for row in detector.history_] == list(range(1, 61))
    assert losses[0] == pytest.approx(np.log(2 * np.pi) + 1, abs=0.3)  # a flow starts as a standard normal
    assert np.mean(losses[-5:]) < losses[0] - 0.5
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    assert scores.local.shape == (8, SIDE, SIDE)
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 12 <= row < 32
    assert 16 <= column < 36


def test_what_does_not_count_is_not_seen() -> None:
    detector = CFlow(**{**TINY, "backbone": Backbone(levels=[0])}, smooth=0.0)
    region = np.ones((6, SIDE, SIDE), bool)
    region[:, :, :24] = False
    train = stripes(6, 0)
    detector.fit(view(train, region=region))
    batch = whole(view(train[:2], region=region[:2]))
    expected = detector.score(batch).sample
    spoiled = batch.x.copy()
    spoiled[:, :, 16:28, :8] = 255  # farther off than a filter reaches
    np.testing.assert_array_equal(detector.score(replace(batch, x=spoiled)).sample, expected)
    assert (detector.score(replace(batch, x=spoiled, region=None)).sample > expected + 1).all()
    other, history, likeliest = train.copy(), detector.history_, detector.likeliest_
    other[:, :, :, :8] = 0
    assert detector.fit(view(other, region=region)).history_ == history
    assert torch.equal(detector.likeliest_, likeliest)


def test_repeats_and_survives_its_state_bit_for_bit() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    first = CFlow(**TINY).fit(train)
    second = CFlow(**TINY).fit(view(stripes(2, 9))).fit(train)
    for other in (second, CFlow(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    assert first.history_ == second.history_
    assert not np.array_equal(first.score(test).sample, CFlow(**TINY, seed=1).fit(train).score(test).sample)
    x, mask = planted(7, 0)
    with_one = CFlow(**TINY).fit(view(x, np.r_[np.zeros(6), 1], mask))
    np.testing.assert_array_equal(with_one.score(test).sample, CFlow(**TINY).fit(view(x[:6])).score(test).sample)


def test_batch_size_does_not_matter() -> None:
    detector, test = CFlow(**TINY).fit(view(stripes(4, 0))), view(planted(7, 1)[0])
    apart = np.concatenate([detector.score(b).sample for b in test.batches(1)])
    np.testing.assert_allclose(detector.score(whole(test)).sample, apart, rtol=1e-4, atol=1e-5)


def test_refusals_and_a_single_flat_image(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(ParamsError, match="multiple of 4, .* got 6"):
        CFlow(condition=6)
    with pytest.raises(NotFittedError):
        CFlow().score(batch)
    with pytest.raises(NotFittedError):
        CFlow().embed(batch)
    with pytest.raises(DataError, match="at least one normal"):
        CFlow(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    detector = CFlow(**TINY).fit(view(np.full((1, 3, SIDE, SIDE), 100, np.uint8)))
    assert np.isfinite(detector.score(batch).sample).all()
    assert detector.embed(batch).shape == (2, 32)
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        detector.score(replace(batch, x=batch.x[:, :, 1:]))
    found = features.Features.maps
    monkeypatch.setattr(features.Features, "maps", lambda self, x: [m[:, :1] for m in found(self, x)])
    with pytest.raises(DataError, match=r"at least 2 channels for a flow, got \[1, 1\]"):
        CFlow(**TINY).fit(view(stripes(2, 0)))
