from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.detectors.image.fastflow import FastFlow
from pipeline.errors import DataError, NotFittedError
from pipeline.parts import features
from pipeline.parts.features import Backbone
from pipeline.parts.moments import standardised
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 4, "batch": 4, "couplings": 2, "backbone": Backbone(levels=[0, 2])}


def test_scores_are_the_likelihoods_of_the_flows() -> None:
    detector = FastFlow(**TINY, smooth=0.0).fit(view(stripes(6, 0)))
    test = whole(view(planted(3, 1)[0]))
    found = []
    for flow, scale, maps in zip(
        detector.flows_, detector.scales_, features.load(TINY["backbone"]).maps(test.x), strict=True
    ):
        x = standardised(maps, *scale).double()
        total = 0
        for coupling in flow.double().couplings:
            x, shares = coupling(x)
            total = total + shares
        density = torch.distributions.Normal(0, 1).log_prob(x).sum(dim=1) + total
        found.append(torch.exp(density / x.shape[1]))  # of a position, as if it had one channel
    odd = {"likelihoods": -sum(found).log(), "logarithms": -sum(one.log() for one in found) / 2}  # all of one size
    detector.flows_.float()
    for combine, expected in odd.items():
        detector.combine = combine
        scores = detector.score(test)
        large = nn.functional.interpolate(expected[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
        np.testing.assert_allclose(scores.local, large, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scores.sample, expected.amax(dim=(1, 2)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(*odd.values(), atol=0.1)


@pytest.mark.parametrize(("kernels", "sees"), [("alternating", True), ("3x3", True), ("1x1", False)])
def test_a_position_is_judged_with_its_neighbours(kernels: str, sees: bool) -> None:
    detector = FastFlow(**TINY, kernels=kernels).fit(view(stripes(6, 0)))
    maps = torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    changed = maps.clone()
    changed[:, :, 6, 6] += 3
    before, after = (detector.flows_[0].log_likelihood(m)[0] for m in (maps, changed))
    assert (before[6, 6] - after[6, 6]).abs() > 1e-3
    assert bool((before[6, 7] - after[6, 7]).abs() > 1e-4) == sees
    assert before[1, 1] == after[1, 1]


def test_the_loss_falls_and_a_planted_defect_is_found() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    x, mask = planted(8, 1)
    detector = FastFlow(Backbone(levels=[0, 1]), couplings=4, steps=40, batch=4, rate=3e-3).fit(view(stripes(16, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    losses = [row["level0"] + row["level1"] for row in detector.history_]
    assert [row["step"] for row in detector.history_] == list(range(1, 41))
    assert losses[0] == pytest.approx(np.log(2 * np.pi) + 1, abs=0.3)  # a flow starts as a standard normal
    assert losses[-1] < losses[0] - 0.5
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    assert scores.local.shape == (8, SIDE, SIDE)
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 12 <= row < 32
    assert 16 <= column < 36


def test_what_does_not_count_is_not_seen() -> None:
    detector, region = (
        FastFlow(**{**TINY, "backbone": Backbone(levels=[0])}, smooth=0.0),
        np.ones((6, SIDE, SIDE), bool),
    )
    region[:, :, :24] = False
    train = stripes(6, 0)
    detector.fit(view(train, region=region))
    batch = whole(view(train[:2], region=region[:2]))
    expected = detector.score(batch).sample
    spoiled = batch.x.copy()
    spoiled[:, :, 16:28, :8] = 255  # farther off than a filter reaches
    np.testing.assert_array_equal(detector.score(replace(batch, x=spoiled)).sample, expected)
    assert (detector.score(replace(batch, x=spoiled, region=None)).sample > expected + 1).all()
    other = train.copy()
    other[:, :, :, :8] = 0
    history = detector.history_
    assert detector.fit(view(other, region=region)).history_ == history


def test_repeats_and_survives_its_state_bit_for_bit() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    first = FastFlow(**TINY).fit(train)
    second = FastFlow(**TINY).fit(view(stripes(2, 9))).fit(train)
    for other in (second, FastFlow(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    assert first.history_ == second.history_
    assert not np.array_equal(first.score(test).sample, FastFlow(**TINY, seed=1).fit(train).score(test).sample)
    x, mask = planted(7, 0)
    with_one = FastFlow(**TINY).fit(view(x, np.r_[np.zeros(6), 1], mask))
    np.testing.assert_array_equal(with_one.score(test).sample, FastFlow(**TINY).fit(view(x[:6])).score(test).sample)


def test_batch_size_does_not_matter() -> None:
    detector, test = FastFlow(**TINY).fit(view(stripes(4, 0))), view(planted(7, 1)[0])
    apart = np.concatenate([detector.score(b).sample for b in test.batches(1)])
    np.testing.assert_allclose(detector.score(whole(test)).sample, apart, rtol=1e-4, atol=1e-5)


def test_refusals_and_a_single_flat_image(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        FastFlow().score(batch)
    with pytest.raises(NotFittedError):
        FastFlow().embed(batch)
    with pytest.raises(DataError, match="at least one normal"):
        FastFlow(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    detector = FastFlow(**TINY).fit(view(np.full((1, 3, SIDE, SIDE), 100, np.uint8)))
    assert np.isfinite(detector.score(batch).sample).all()
    assert detector.embed(batch).shape == (2, 32)
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        detector.score(replace(batch, x=batch.x[:, :, 1:]))
    found = features.Features.maps
    monkeypatch.setattr(features.Features, "maps", lambda self, x: [m[:, :1] for m in found(self, x)])
    with pytest.raises(DataError, match=r"at least 2 channels for a flow, got \[1, 1\]"):
        FastFlow(**TINY).fit(view(stripes(2, 0)))
