from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.detectors.image.dinomaly import Dinomaly, Rebuilder, loose
from pipeline.errors import DataError, NotFittedError, ParamsError
from pipeline.parts import features, tokens
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone
from tests.pictures import SIDE, planted, stripes, view, whole

FINE = Backbone(levels=[0])
TINY = {"steps": 4, "batch": 4, "width": 8, "depth": 2, "heads": 2, "patch": 4}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_loose_loss_shrinks_the_gradient_of_what_is_rebuilt_well() -> None:
    wanted, inside = drawn(2, 3, 4, 5), torch.ones(2, 4, 5).bool()
    inside[0, 0] = False

    def gradient(discard: float, shrink: float) -> tuple[float, torch.Tensor]:
        made = drawn(2, 3, 4, 5, seed=1).requires_grad_()
        loss = loose(wanted, made, inside, discard, shrink)
        loss.backward()
        return loss.item(), made.grad

    strict, plain = gradient(0.0, 0.1)
    value, found = gradient(0.9, 0.1)
    assert value == pytest.approx(strict, rel=1e-6)  # the value is that of all points
    a, b = wanted.numpy(), drawn(2, 3, 4, 5, seed=1).numpy()
    distance = tokens.apart(wanted, torch.from_numpy(b), inside).numpy()
    hard = (distance >= np.quantile(distance[inside.numpy()], 0.9)) & inside.numpy()
    assert hard.sum() == 4  # a tenth of 35 points
    factor = torch.from_numpy(np.where(hard, 1.0, 0.1).astype(np.float32))[:, None]
    torch.testing.assert_close(found, plain * factor)
    assert (plain[0, :, 0] == 0).all()  # what does not count teaches nothing
    flat = [
        1 - np.dot(u[:, i].ravel(), v[:, i].ravel()) / np.linalg.norm(u[:, i]) / np.linalg.norm(v[:, i])
        for u, v, i in zip(a, b, inside.numpy(), strict=True)
    ]
    assert strict == pytest.approx(np.mean(flat), rel=1e-5)


def test_the_discarded_share_rises_over_the_first_tenth_of_the_steps() -> None:
    rising = list(Dinomaly(steps=100, discard=0.8)._rising())
    np.testing.assert_allclose(rising[:11], np.linspace(0, 0.8, 11))
    assert set(rising[10:]) == {0.8}


def test_the_last_blocks_rebuild_the_first_group() -> None:
    groups, inside = [drawn(2, 8, 3, 3), drawn(2, 8, 3, 3, seed=1)], torch.ones(2, 3, 3).bool()
    with seeded(0):
        net = Rebuilder([8, 8], 8, 4, 2, "linear", 0.5).eval()
    assert not any("enter" in name or "leave" in name for name, _ in net.named_parameters())  # all widths are one
    first, second = net(groups, inside)
    x, outputs = net.bottleneck(((groups[0] + groups[1]) / 2).flatten(2).mT), []
    for block in net.blocks:
        x = block(x)
        outputs.append(x.mT.reshape(2, 8, 3, 3))
    torch.testing.assert_close(first, (outputs[2] + outputs[3]) / 2)
    torch.testing.assert_close(second, (outputs[0] + outputs[1]) / 2)
    with seeded(0):
        noisy = net.train().bottleneck(torch.ones(500, 8))
    assert (noisy == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)  # the noise
    entering = net.bottleneck[0](torch.ones(500, 8))
    assert (entering == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)  # also on what enters


def test_dropout_is_in_training_alone_and_scores_are_those_of_the_network_in_its_parts() -> None:
    train, test = stripes(4, 0), whole(view(planted(3, 1)[0]))
    detector = Dinomaly(**TINY, smooth=0.0, backbone=Backbone(levels=[0, 1])).fit(view(train))
    assert not detector.net_.training
    loaded, small = features.load(Backbone(levels=[0, 1])), torch.nn.functional.interpolate
    levels = [loaded.maps(x) for x in (train, test.x)]
    levels = [[one, small(two, (12, 12), mode="bilinear")] for one, two in levels]
    wanted = []
    for normal, query in zip(*levels, strict=True):
        mean, spread = normal.mean(dim=(0, 2, 3)), normal.std(dim=(0, 2, 3), correction=0)
        scale = (mean**2 + spread.clamp(min=1e-3 * spread.max()) ** 2).sqrt()  # not 0 for filters that see no colour
        wanted.append(query / scale[:, None, None])
    made = detector.net_(wanted, torch.ones(3, 12, 12).bool())
    odd = sum(tokens.apart(*pair, torch.ones(3, 12, 12).bool()) for pair in zip(wanted, made, strict=True)) / 2
    local = small(odd[:, None], (SIDE, SIDE), mode="bilinear")[:, 0].numpy()
    scores = detector.score(test)
    np.testing.assert_allclose(scores.local, local, rtol=1e-3, atol=1e-4)
    top = np.sort(scores.local.reshape(3, -1), axis=1)[:, -24:]  # 1 % of 48 x 48, rounded up
    np.testing.assert_allclose(scores.sample, top.mean(axis=1), rtol=1e-5)


def test_a_defect_stands_out_where_all_around_is_black() -> None:
    def pictures(x: np.ndarray) -> np.ndarray:
        around = np.ones((SIDE, SIDE), bool)
        around[10:38, 10:38] = False
        return np.where(around, 0, x).astype(np.uint8)

    x, _ = planted(8, 1)
    detector = Dinomaly(FINE, steps=60, width=16, depth=2, batch=4).fit(view(pictures(stripes(16, 0))))
    scores = detector.score(whole(view(pictures(x))))
    assert scores.sample.argmax() == 7
    assert scores.local[:, :6, :6].mean() < 0.5 * scores.local[7, 16:28, 20:32].mean()


def test_the_loss_falls_and_a_planted_defect_is_found() -> None:
    before = torch.get_rng_state()
    x, mask = planted(8, 1)
    detector = Dinomaly(FINE, steps=60, width=16, depth=2, batch=4).fit(view(stripes(16, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    losses = [row["loss"] for row in detector.history_]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 12 <= row < 32
    assert 16 <= column < 36


def test_what_does_not_count_is_not_seen() -> None:
    train, region = stripes(6, 0), np.ones((6, SIDE, SIDE), bool)
    region[:, :, :20] = False
    other = train.copy()
    other[:, :, :, :4] = np.random.default_rng(1).integers(0, 256, (6, 3, SIDE, 4))
    first, second = (Dinomaly(FINE, **TINY).fit(view(x, region=region)) for x in (train, other))
    batch = whole(view(stripes(3, 2), region=region[:3]))
    expected = first.score(batch).sample
    np.testing.assert_allclose(expected, second.score(batch).sample, rtol=1e-3, atol=1e-4)
    spoiled = batch.x.copy()
    spoiled[:, :, 16:28, :4] = 255
    np.testing.assert_allclose(first.score(replace(batch, x=spoiled)).sample, expected, rtol=1e-4, atol=1e-5)
    assert (np.abs(first.score(replace(batch, x=spoiled, region=None)).sample - expected) > 1e-3).all()


def test_repeats_and_survives_its_state_bit_for_bit() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    first = Dinomaly(**TINY).fit(train)
    torch.rand(3)  # another state of the global generator
    second = Dinomaly(**TINY).fit(view(stripes(2, 9))).fit(train)
    for other in (second, Dinomaly(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    assert first.history_ == second.history_
    assert not np.array_equal(first.score(test).sample, Dinomaly(**TINY, seed=1).fit(train).score(test).sample)
    assert first.embed(test).shape == (3, 64)


def test_batch_size_does_not_matter() -> None:
    detector = Dinomaly(**TINY | {"patch": 8}, backbone=Backbone(levels=[0, 3])).fit(view(stripes(4, 0)))
    test = view(planted(5, 1)[0])
    grouped = tokens.patched(detector._features.maps(whole(test).x), detector.groups, (SIDE, SIDE), detector.patch)
    assert [tuple(group.shape[2:]) for group in grouped] == [(6, 6), (6, 6)]  # 8 pixels a token
    apart = np.concatenate([detector.score(b).sample for b in test.batches(1)])
    np.testing.assert_allclose(detector.score(whole(test)).sample, apart, rtol=1e-4, atol=1e-5)


def test_the_blocks_of_a_vit_make_two_groups() -> None:
    vit = Backbone("vit_tiny_patch16_224", extra={"embed_dim": 24, "num_heads": 2})
    train, test = view(stripes(2, 0)), whole(view(stripes(2, 1)))
    detector = Dinomaly(vit, **TINY).fit(train)
    assert detector._features.net.levels == [2, 3, 4, 5, 6, 7, 8, 9]
    assert [len(scale) for scale in detector.scale_] == [24, 24]
    assert {block.attention.kind for block in detector.net_.blocks} == {"linear"}
    again = Dinomaly(vit, **TINY).from_state(detector.state())
    np.testing.assert_array_equal(detector.score(test).local, again.score(test).local)


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError, match="image/dinomaly must be fitted"):
        Dinomaly().score(batch)
    with pytest.raises(DataError, match="at least one normal"):
        Dinomaly(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    with pytest.raises(ParamsError, match="heads must divide width = 8, got 3"):
        Dinomaly(width=8, heads=3)
    with pytest.raises(DataError, match="gives 1 x 3 tokens of an image, at least 2 x 2 are needed"):
        Dinomaly(FINE, **TINY).fit(view(stripes(2, 0)[:, :, :4, :12]))
    detector = Dinomaly(FINE, **TINY).fit(view(np.full((1, 3, SIDE, SIDE), 100, np.uint8)))
    assert np.isfinite(detector.score(batch).sample).all()
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        detector.score(replace(batch, x=batch.x[:, :, 1:]))
