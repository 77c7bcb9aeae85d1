from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.detectors.image.reverse_distillation import ReverseDistillation, Student
from pipeline.errors import DataError, ModelError, NotFittedError
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 3, "batch": 2, "code": 16, "width": 4}
SHAPES = [(5, 12, 9), (7, 6, 5), (3, 3, 3)]


def levels(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, *shape, generator=generator) for shape in SHAPES]


def net(**options: int) -> Student:
    with seeded(0):
        return Student(SHAPES, **{"code": 6, "width": 4, "compress": True, **options}).eval()


def test_the_decoder_sees_nothing_but_the_code() -> None:
    student = net()
    assert not torch.equal(student(levels(0))[0], student(levels(1))[0])
    for weight in (student.embed.second[-1].weight, student.embed.beside[-1].weight):
        nn.init.zeros_(weight)  # a code of zeros, whatever comes in; a way around it would still tell the two apart
    for one, other in zip(student(levels(0)), student(levels(1)), strict=True):
        assert torch.equal(one, other)
    assert [tuple(m.shape[1:]) for m in student(levels(0))] == SHAPES


def test_the_code_is_smaller_than_what_goes_in() -> None:
    student = net()
    code = student.coded(levels(0))
    assert code.shape == (2, 6, 2, 2)  # half of 3 x 3
    assert student.values == 6 * 2 * 2 == code[0].numel() < sum(map(prod, SHAPES))
    wide = net(compress=False)
    assert wide.coded(levels(0)).shape == (2, 6, 3, 3)
    assert wide.values == 6 * 3 * 3
    # 48 x 48 pixels: 16 channels at 12 x 12 and 6 x 6 go in; 3 x 3 positions of the code, so 320 channels at most
    train, options = view(stripes(2, 0)), {**TINY, "backbone": Backbone(levels=[0, 3]), "steps": 1}
    with pytest.raises(DataError, match=r"code must be at most 319, .* than the 2880 of the maps of an image, got 320"):
        ReverseDistillation(**{**options, "code": 320}).fit(train)
    ReverseDistillation(**{**options, "code": 319}).fit(train)


def test_every_level_is_in_the_code() -> None:
    student, given = net(), levels(0)
    before = student.coded(given)
    for i in range(len(SHAPES)):
        changed = [level + (i == j) for j, level in enumerate(given)]
        assert not torch.allclose(student.coded(changed), before)


def test_losses_and_maps_are_of_cosines() -> None:
    x = planted(3, 1)[0]
    detector = ReverseDistillation(**TINY, smooth=0.0).fit(view(stripes(4, 0)))
    taught = detector._features.maps(x)
    with torch.inference_mode():
        found = zip(taught, detector.net_(taught), strict=True)
        maps = [(1 - (one * other).sum(1) / one.norm(dim=1) / other.norm(dim=1))[:, None] for one, other in found]
        expected = sum(F.interpolate(m, (SIDE, SIDE), mode="bilinear")[:, 0] for m in maps)
    scores = detector.score(whole(view(x)))
    np.testing.assert_allclose(scores.local, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(scores.sample, expected.amax(dim=(1, 2)), rtol=1e-3)
    still = ReverseDistillation(**{**TINY, "steps": 2}, rate=1e-9).fit(view(x[:2]))
    with seeded(0), torch.inference_mode():
        student = Student(still.shapes_, 16, 4, True).train()
        taught = [level[:2] for level in taught]
        for i, (one, other) in enumerate(zip(taught, student(taught), strict=True)):
            expected = (1 - F.cosine_similarity(one, other)).mean().item()
            assert still.history_[0][f"level{i}"] == pytest.approx(expected, rel=1e-2)


def test_the_loss_falls_and_a_planted_defect_is_found() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    x, mask = planted(8, 1)
    detector = ReverseDistillation(steps=60, batch=4, code=32, width=8).fit(view(stripes(16, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    losses = [row["level0"] + row["level2"] for row in detector.history_]
    assert np.mean(losses[-5:]) < 0.2 * losses[0]
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 10 <= row < 34
    assert 14 <= column < 38


def test_what_does_not_count_is_not_seen() -> None:
    train, region = stripes(6, 0), np.ones((6, SIDE, SIDE), bool)
    region[:, :, :20] = False
    other = train.copy()
    other[:, :, :, :4] = np.random.default_rng(1).integers(0, 256, (6, 3, SIDE, 4))
    made = {"backbone": Backbone(levels=[0]), **TINY}  # a narrow teacher: an edge is soon out of its sight
    first, second = (ReverseDistillation(**made).fit(view(x, region=region)) for x in (train, other))
    batch = whole(view(stripes(3, 2), region=region[:3]))
    expected = first.score(batch).sample
    np.testing.assert_allclose(expected, second.score(batch).sample, rtol=1e-4, atol=1e-5)
    spoiled = batch.x.copy()
    spoiled[:, :, 16:28, :4] = 255
    np.testing.assert_allclose(first.score(replace(batch, x=spoiled)).sample, expected, rtol=1e-4, atol=1e-5)
    seen = first.score(replace(batch, x=spoiled, region=None)).local
    assert np.abs(seen - first.score(replace(batch, region=None)).local).max() > 0.01


def test_repeats_survives_its_state_bit_for_bit_and_takes_any_batch() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(5, 1)[0]))
    for backbone in (Backbone(), Backbone("test_resnet", levels=[1, 2])):
        options = {"backbone": backbone, **TINY}
        first = ReverseDistillation(**options).fit(train)
        second = ReverseDistillation(**options).fit(view(stripes(2, 9))).fit(train)
        for other in (second, ReverseDistillation(**options).from_state(first.state())):
            np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
            np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
        assert first.history_ == second.history_
        seeded_ = ReverseDistillation(**options, seed=1).fit(train)
        assert not np.array_equal(first.score(test).sample, seeded_.score(test).sample)
        apart = np.concatenate([first.score(b).sample for b in view(test.x).batches(1)])
        np.testing.assert_allclose(first.score(test).sample, apart, rtol=1e-4, atol=1e-5)
    x, mask = planted(7, 0)
    with_one = ReverseDistillation(**TINY).fit(view(x, np.r_[np.zeros(6), 1], mask))
    np.testing.assert_array_equal(
        with_one.score(test).sample, ReverseDistillation(**TINY).fit(view(x[:6])).score(test).sample
    )
    assert with_one.embed(test).shape == (5, 64)


def test_refusals_and_a_single_flat_image() -> None:
    batch = whole(view(stripes(2, 0)))
    blank = ReverseDistillation()
    for call in (blank.state, lambda: blank.score(batch), lambda: blank.embed(batch)):
        with pytest.raises(NotFittedError, match="image/reverse_distillation must be fitted"):
            call()
    with pytest.raises(DataError, match="at least one normal"):
        ReverseDistillation(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    detector = ReverseDistillation(**TINY).fit(view(np.full((1, 3, SIDE, SIDE), 100, np.uint8)))
    assert np.isfinite(detector.score(batch).sample).all()
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        detector.score(replace(batch, x=batch.x[:, :, 1:]))
    with pytest.raises(ModelError, match="do not fit these hyperparameters"):
        ReverseDistillation(**{**TINY, "code": 8}).from_state(detector.state())
