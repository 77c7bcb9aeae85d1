from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.detectors.image.simplenet import Head, SimpleNet
from pipeline.errors import DataError, NotFittedError
from pipeline.parts import features
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 5, "batch": 64, "hidden": 8}


def test_the_loss_by_hand() -> None:
    head = Head(1, 2).eval()  # eval: batch norm keeps to its running mean 0 and variance 1
    with torch.no_grad():
        head.adapter.weight.fill_(2.0)
        first, norm, _, last = head.discriminator
        norm.eps = 0.0
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        first.bias.zero_()
        last.weight.copy_(torch.tensor([[0.5, 1.0]]))
        last.bias.fill_(-0.25)
    patches, noise = torch.tensor([[0.5], [-0.1]]), torch.tensor([[-3.0], [0.1]])
    # adapted 1 and -0.2, with noise -2 and -0.1; D(q) = 0.5 leaky(q) + leaky(-q) - 0.25
    normal = np.array([0.5 - 0.2 - 0.25, 0.5 * -0.04 + 0.2 - 0.25])
    anomalous = np.array([0.5 * -0.4 + 2 - 0.25, 0.5 * -0.02 + 0.1 - 0.25])
    expected = np.mean(np.maximum(0, 0.5 - normal) + np.maximum(0, 0.5 + anomalous))
    assert head.loss(patches, noise).item() == pytest.approx(expected, rel=1e-6)


def test_scores_are_those_of_the_network_in_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test, nets = stripes(6, 0), whole(view(planted(3, 1)[0])), []
    monkeypatch.setattr(Head, "folded", lambda self: nets.append(self) or fold(self))
    detector = SimpleNet(**TINY, smooth=0.0).fit(view(train))
    scores = detector.score(test)
    (net,) = nets

    def patches(x: np.ndarray) -> torch.Tensor:
        maps = features.load(Backbone()).maps(x)
        return features.merge([features.local_mean(m) for m in maps]).permute(0, 2, 3, 1).double()  # (n, h, w, c)

    normal = patches(train).reshape(-1, 64)
    scale = normal.std(dim=0, correction=0)
    query = ((patches(test.x) - normal.mean(dim=0)) / scale.clamp(min=1e-3 * scale.max())).clamp(-5, 5)
    with torch.no_grad():
        odd = -net.eval().double().discriminator(net.adapter(query.reshape(-1, 64))).view(3, 1, SIDE // 4, SIDE // 4)
    np.testing.assert_allclose(scores.sample, odd.amax(dim=(1, 2, 3)), rtol=1e-4, atol=1e-5)
    large = nn.functional.interpolate(odd, (SIDE, SIDE), mode="bilinear")[:, 0]
    np.testing.assert_allclose(scores.local, large, rtol=1e-3, atol=1e-4)


fold = Head.folded


def test_the_adapter_starts_as_a_rotation() -> None:
    with seeded(0):
        weight = Head(5, 3).adapter.weight.detach()
    np.testing.assert_allclose(weight @ weight.T, np.eye(5), atol=1e-6)


def test_the_loss_falls_and_a_planted_defect_is_found() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    x, mask = planted(8, 1)
    detector = SimpleNet(Backbone(levels=[0, 1]), steps=300, batch=256).fit(view(stripes(16, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    losses = [row["loss"] for row in detector.history_]
    assert [row["step"] for row in detector.history_] == list(range(1, 301))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    assert scores.local.shape == (8, SIDE, SIDE)
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 10 <= row < 36
    assert 14 <= column < 40


def test_what_does_not_count_is_not_seen() -> None:
    def made() -> SimpleNet:  # a narrow look, so that an edge is soon out of sight
        return SimpleNet(steps=100, batch=256, backbone=Backbone(levels=[0]))

    train, region = stripes(12, 0), np.ones((12, SIDE, SIDE), bool)
    region[:, :, :20] = False
    other = train.copy()
    other[:, :, :, :4] = np.random.default_rng(1).integers(0, 256, (12, 3, SIDE, 4))
    first, second = made().fit(view(train, region=region)), made().fit(view(other, region=region))
    batch = whole(view(stripes(3, 2), region=region[:3]))
    expected = first.score(batch).sample
    np.testing.assert_allclose(expected, second.score(batch).sample, rtol=1e-4, atol=1e-5)
    spoiled = batch.x.copy()
    spoiled[:, :, 16:28, :4] = 255
    np.testing.assert_allclose(first.score(replace(batch, x=spoiled)).sample, expected, rtol=1e-4, atol=1e-5)
    assert (first.score(replace(batch, x=spoiled, region=None)).sample > expected + 0.2).all()


def test_the_pool_stays_within_its_budget_and_comes_evenly_from_the_images() -> None:
    train = view(stripes(70, 0))
    detector = SimpleNet(cache=1)
    detector._features = features.load(Backbone())
    pool, mean, scale, _ = detector._pool(train)
    assert pool.shape == (70 * (10**6 // (64 * 2 * 70)), 64)
    assert pool.dtype == torch.float16
    whole_pool, same_mean, same_scale, _ = SimpleNet._pool(replace_features(SimpleNet(), detector), train)
    assert whole_pool.shape == (70 * 144, 64)
    assert torch.equal(mean, same_mean)
    assert torch.equal(scale, same_scale)
    np.testing.assert_allclose(whole_pool.float().mean(dim=0), mean, atol=1e-3)


def replace_features(detector: SimpleNet, other: SimpleNet) -> SimpleNet:
    detector._features = other._features
    return detector


def test_repeats_and_survives_its_state_bit_for_bit() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    first = SimpleNet(**TINY).fit(train)
    second = SimpleNet(**TINY).fit(view(stripes(2, 9))).fit(train)
    for other in (second, SimpleNet(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    assert first.history_ == second.history_
    assert not np.array_equal(first.score(test).sample, SimpleNet(**TINY, seed=1).fit(train).score(test).sample)
    x, mask = planted(7, 0)
    with_one = SimpleNet(**TINY).fit(view(x, np.r_[np.zeros(6), 1], mask))
    without = SimpleNet(**TINY).fit(view(x[:6]))
    np.testing.assert_array_equal(with_one.score(test).sample, without.score(test).sample)


def test_batch_size_does_not_matter() -> None:
    detector = SimpleNet(**TINY).fit(view(stripes(4, 0)))
    test = view(planted(7, 1)[0])
    apart = np.concatenate([detector.score(b).sample for b in test.batches(1)])
    np.testing.assert_allclose(detector.score(whole(test)).sample, apart, rtol=1e-4, atol=1e-5)


def test_refusals_and_a_single_flat_image() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        SimpleNet().score(batch)
    with pytest.raises(NotFittedError):
        SimpleNet().state()
    with pytest.raises(DataError, match="at least one normal"):
        SimpleNet(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    detector = SimpleNet(**TINY).fit(view(np.full((1, 3, SIDE, SIDE), 100, np.uint8)))
    assert np.isfinite(detector.score(batch).sample).all()
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        detector.score(replace(batch, x=batch.x[:, :, 1:]))
