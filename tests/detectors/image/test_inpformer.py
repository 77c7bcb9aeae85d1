from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.detectors.image.inpformer import Extractor, Guided, InpFormer, Net, nearest, soft_mined
from pipeline.errors import DataError, NotFittedError, ParamsError
from pipeline.parts import tokens
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone
from pipeline.parts.tokens import apart
from tests.pictures import SIDE, planted, stripes, view, whole

FINE = Backbone(levels=[0])
TINY = {"steps": 4, "batch": 4, "width": 8, "depth": 2, "heads": 2, "prototypes": 3, "patch": 4}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_prototypes_are_convex_combinations_of_the_images_own_tokens_that_count() -> None:
    with seeded(0):
        extract = Extractor(6, 4)
    x, inside = drawn(2, 5, 6), torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1]]).bool()
    found = extract(x, inside)
    # 5 tokens in 6 dimensions: the weights that make a prototype are unique
    weights = torch.linalg.lstsq(x.mT.double(), found.mT.double()).solution.mT  # (n, m, t)
    torch.testing.assert_close((weights @ x.double()).float(), found, rtol=1e-4, atol=1e-5)
    assert (weights > -1e-6).all()
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 4, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    assert weights[0, :, 2].abs().max() < 1e-6
    assert (weights[0, 0] - weights[0, 1]).abs().max() > 1e-2  # not all the same
    torch.testing.assert_close(extract(x[:, [3, 1, 2, 0, 4]], inside[:, [3, 1, 2, 0, 4]]), found)  # no order


def test_the_coherence_loss_is_nothing_where_each_token_is_like_a_prototype() -> None:
    prototypes, every = drawn(2, 3, 4), torch.ones(2, 5).bool()
    torch.testing.assert_close(nearest(prototypes[:, [0, 2, 1, 1, 0]], prototypes, every), torch.zeros(2, 5))
    a, b = drawn(1, 4, 4, seed=1), drawn(1, 2, 4, seed=2)
    more = 0.2 * float((a[0, :3] ** 2).sum(dim=1).mean().sqrt())  # one more value in all, of the tokens that count
    u, v = (np.c_[y[0].numpy(), np.full(len(y[0]), more)] for y in (a, b))
    cosine = (u @ v.T) / np.linalg.norm(u, axis=1)[:, None] / np.linalg.norm(v, axis=1)
    counts = torch.tensor([[True, True, True, False]])
    np.testing.assert_allclose(nearest(a, b, counts)[0], 1 - cosine.max(axis=1), rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):  # as in training on a GPU
        torch.testing.assert_close(nearest(a, b, counts), nearest(a.double(), b.double(), counts).float())


def test_the_decoder_makes_everything_of_prototypes() -> None:
    with seeded(0):
        block, adding = Guided(8, 2, residual=False), Guided(8, 2, residual=True)
    x, prototypes = drawn(1, 7, 8), drawn(1, 1, 8, seed=1)
    found = block(x, prototypes)
    # of one prototype each head gives a multiple of one vector: before the MLP at most 2 directions beside the bias
    seen = block.attention(block.norm(x), block.norm(prototypes)) - block.attention.out.bias
    assert torch.linalg.matrix_rank(seen[0], tol=1e-5) <= 2
    torch.testing.assert_close(
        found, seen + block.attention.out.bias + block.mlp(block.after(seen + block.attention.out.bias))
    )
    apart = adding.attention(adding.norm(x), adding.norm(prototypes))
    assert torch.linalg.matrix_rank(adding(x, prototypes)[0] - adding.mlp(adding.after(x + apart))[0] - apart[0]) == 7


def test_the_soft_mining_loss_teaches_by_the_power_of_the_relative_distance() -> None:
    wanted, inside = drawn(2, 3, 4, 5), torch.ones(2, 4, 5).bool()
    inside[1, :, 0] = False

    def gradient(gamma: float) -> tuple[float, torch.Tensor]:
        made = drawn(2, 3, 4, 5, seed=1).requires_grad_()
        loss = soft_mined(wanted, made, inside, gamma)
        loss.backward()
        return loss.item(), made.grad

    (plain, alike), (value, found) = gradient(0.0), gradient(3.0)
    assert value == pytest.approx(plain, rel=1e-5)
    distance = apart(wanted, drawn(2, 3, 4, 5, seed=1), inside)
    factor = (distance / distance[inside].mean())[:, None] ** 3
    assert factor.max() > 3 > 1 > factor.min()
    torch.testing.assert_close(found, alike * factor, rtol=1e-4, atol=1e-7)


def test_the_loss_falls_and_a_planted_defect_is_found() -> None:
    before = torch.get_rng_state()
    x, mask = planted(8, 1)
    detector = InpFormer(FINE, steps=45, width=16, depth=2, batch=4, least=1).fit(view(stripes(16, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("rebuilt", "coherence"):
        losses = [row[name] for row in detector.history_]
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 12 <= row < 32
    assert 16 <= column < 36


def test_zero_shot_finds_a_defect_in_a_category_that_training_did_not_show() -> None:
    detector = InpFormer(FINE, steps=40, width=8, depth=1, batch=4, zero_shot=True)
    detector.fit(view(stripes(12, 0), category=["stripes"] * 12))
    y, x = np.mgrid[:SIDE, :SIDE]
    noise = np.random.default_rng(3).normal(0, 4, (6, SIDE, SIDE))
    dots = (100 + 60 * np.cos(x * np.pi / 4) * np.cos(y * np.pi / 4) + noise).clip(0, 255).astype(np.uint8)
    dots = np.repeat(dots[:, None], 3, axis=1)
    dots[5, :, 16:28, 20:32] = 240
    scores = detector.score(whole(view(dots, category=["dots"] * 6)))
    assert scores.sample.argmax() == 5
    row, column = np.unravel_index(scores.local[5].argmax(), (SIDE, SIDE))
    assert 12 <= row < 32
    assert 16 <= column < 36


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_a_few_normals_are_enough(shots: int) -> None:
    detector = InpFormer(FINE, steps=40, rate=5e-3, width=16, depth=2, batch=4).fit(view(stripes(shots, 0)))
    region = np.zeros((8, SIDE, SIDE), bool)
    region[:, 4:-4, 4:-4] = True  # nothing like the edges was seen often
    assert detector.score(whole(view(planted(8, 1)[0], region=region))).sample.argmax() == 7


def test_few_images_are_filled_up_with_copies() -> None:
    test, brief = whole(view(planted(3, 1)[0])), {**TINY, "steps": 1}
    plain, filled = (InpFormer(**brief, least=least).fit(view(stripes(1, 0))) for least in (1, 8))
    assert not np.array_equal(plain.scale_[0], filled.scale_[0])
    assert np.isfinite(filled.score(test).sample).all()


def test_what_does_not_count_is_not_seen() -> None:
    train, region = stripes(6, 0), np.ones((6, SIDE, SIDE), bool)
    region[:, :, :20] = False
    other = train.copy()
    other[:, :, :, :4] = np.random.default_rng(1).integers(0, 256, (6, 3, SIDE, 4))
    first, second = (InpFormer(FINE, **TINY).fit(view(x, region=region)) for x in (train, other))
    batch = whole(view(stripes(3, 2), region=region[:3]))
    expected = first.score(batch).sample
    np.testing.assert_allclose(expected, second.score(batch).sample, rtol=1e-3, atol=1e-4)
    spoiled = batch.x.copy()
    spoiled[:, :, 16:28, :4] = 255
    np.testing.assert_allclose(first.score(replace(batch, x=spoiled)).sample, expected, rtol=1e-4, atol=1e-5)
    assert (np.abs(first.score(replace(batch, x=spoiled, region=None)).sample - expected) > 1e-3).all()


def test_repeats_and_survives_its_state_bit_for_bit() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    first = InpFormer(**TINY).fit(train)
    second = InpFormer(**TINY).fit(view(stripes(2, 9))).fit(train)
    for other in (second, InpFormer(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    assert first.history_ == second.history_
    assert not np.array_equal(first.score(test).sample, InpFormer(**TINY, seed=1).fit(train).score(test).sample)
    assert first.embed(test).shape == (3, 64)


def test_batch_size_does_not_matter() -> None:
    detector = InpFormer(**TINY | {"patch": 8}, backbone=Backbone(levels=[0, 3])).fit(view(stripes(4, 0)))
    test = view(planted(5, 1)[0])
    grouped = tokens.patched(detector._features.maps(whole(test).x), detector.groups, (SIDE, SIDE), detector.patch)
    assert [tuple(group.shape[2:]) for group in grouped] == [(6, 6), (6, 6)]  # 8 pixels a token
    apart = np.concatenate([detector.score(b).sample for b in test.batches(1)])
    np.testing.assert_allclose(detector.score(whole(test)).sample, apart, rtol=1e-4, atol=1e-5)


def test_groups_of_unlike_widths_and_of_one_width() -> None:
    inside = torch.ones(2, 3, 3).bool()
    for channels, linear in (([8, 8], 0), ([6, 10], 3)):
        net = Net(channels, 3, 8, 4, 2, False)
        made, near = net([drawn(2, c, 3, 3) for c in channels], inside)
        assert [tuple(each.shape) for each in made] == [(2, c, 3, 3) for c in channels]
        assert near.shape == (2, 3, 3)
        assert sum(isinstance(layer, torch.nn.Linear) for layer in (net.enter, *net.leave)) == linear


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError, match="image/inpformer must be fitted"):
        InpFormer().score(batch)
    with pytest.raises(DataError, match="at least one normal"):
        InpFormer(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    with pytest.raises(ParamsError, match="heads must divide width = 8, got 3"):
        InpFormer(width=8, heads=3)
    with pytest.raises(DataError, match="gives 1 x 3 tokens of an image, at least 2 x 2 are needed"):
        InpFormer(FINE, **TINY).fit(view(stripes(2, 0)[:, :, :4, :12]))
    detector = InpFormer(FINE, **TINY).fit(view(np.full((1, 3, SIDE, SIDE), 100, np.uint8)))
    assert np.isfinite(detector.score(batch).sample).all()
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        detector.score(replace(batch, x=batch.x[:, :, 1:]))
