import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.detectors.image.destseg import DeSTSeg, Drawn, Reader, Student, products
from pipeline.errors import DataError, ModelError, NotFittedError
from pipeline.parts import perlin
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone
from pipeline.parts.losses import focal
from pipeline.parts.regions import counted, positions
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 3, "batch": 2, "width": 4, "hidden": 8}


def first_of(detector: DeSTSeg, monkeypatch: pytest.MonkeyPatch, x: np.ndarray) -> Drawn:
    """What the student is given in the first step of a fit to the images `x`."""
    drawn: list[Drawn] = []
    kept = DeSTSeg._denoising
    monkeypatch.setattr(DeSTSeg, "_denoising", lambda self, net, one: drawn.append(one) or kept(self, net, one))
    detector.fit(view(x))
    monkeypatch.undo()
    return drawn[0]


def test_the_student_sees_the_corrupted_image_and_its_target_is_the_clean_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x = stripes(1, 0)
    detector = DeSTSeg(**TINY)
    drawn = first_of(detector, monkeypatch, x)
    marks = drawn.mark.numpy().astype(bool)
    changed = (drawn.seen != x).any(axis=1)
    assert changed.any(axis=(1, 2)).all()  # each was corrupted
    assert (changed <= marks).all()  # where it is marked, and nowhere else
    clean, corrupted = detector._features.maps(np.repeat(x, 2, axis=0)), detector._features.maps(drawn.seen)
    seen = []

    def giving(maps: list[Tensor]) -> dict[str, Tensor]:
        return detector._denoising(lambda images: seen.append(images) or maps, drawn)

    for loss in giving(clean).values():  # the clean image's features are all that is asked for
        assert loss.item() == pytest.approx(0, abs=1e-4)  # half precision
    for loss, one, other in zip(giving(corrupted).values(), corrupted, clean, strict=True):
        cosine = (one * other).sum(1) / one.norm(dim=1) / other.norm(dim=1)
        assert loss.item() == pytest.approx((1 - cosine).mean().item(), rel=1e-2)
        assert loss.item() > 1e-3
    np.testing.assert_allclose(seen[0], drawn.seen / np.float32(255), atol=1e-6)
    plain = first_of(DeSTSeg(**TINY, denoise=False), monkeypatch, x)
    np.testing.assert_array_equal(plain.seen, np.repeat(x, 2, axis=0))


def test_the_corrupted_image_keeps_to_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    region = np.zeros((4, SIDE, SIDE), bool)
    region[:, 10:40, 10:40] = True
    found = []
    kept = perlin.corrupted
    monkeypatch.setattr(perlin, "corrupted", lambda *args, **more: found.append(kept(*args, **more)) or found[-1])
    DeSTSeg(**TINY).fit(view(stripes(4, 0), region=region))
    assert found
    assert all(mask.any() and not mask[~region[0]].any() for _, mask in found)


def test_products_sum_to_the_cosine_and_losses_by_hand() -> None:
    one, other = torch.tensor([[3.0, 4.0]]).view(1, 2, 1, 1), torch.tensor([[5.0, 12.0]]).view(1, 2, 1, 1)
    expected = [0.6 * 5 / 13, 0.8 * 12 / 13]
    found = products([one.expand(1, 2, 2, 2), one], [other.expand(1, 2, 2, 2), other])
    np.testing.assert_allclose(found, np.array(expected * 2).reshape(1, 4, 1, 1).repeat(2, 2).repeat(2, 3), rtol=1e-5)
    mark = torch.tensor([[[0, 0, 1, 0], [0, 0, -1, 0], [0, -1, 0, 0], [0, 0, 0, 0]]], dtype=torch.int8)
    assert positions(mark, (2, 2)).tolist() == [[[0, 1], [-1, 0]]]

    def quarters(rows: list[list[float]], side: int) -> torch.Tensor:
        return torch.tensor([rows]).repeat_interleave(side, 1).repeat_interleave(side, 2)

    detector = DeSTSeg(**TINY).fit(view(stripes(2, 0)))
    every, inside = torch.ones(1, SIDE, SIDE, dtype=torch.bool), quarters([[1, 1], [1, 0]], 6).bool()
    drawn = Drawn(stripes(1, 0), every, quarters([[0, 1], [-1, 0]], 24).to(torch.int8), inside, [], [])
    losses = detector._segmenting(lambda found, counts: quarters([[-1.0, 2.0], [9.0, 9.0]], 6), drawn)
    p = 1 / (1 + np.exp([-2.0, 1.0]))  # the unknown quarter and the one that does not count say nothing
    assert losses["l1"].item() == pytest.approx((1 - p[0] + p[1]) / 2, rel=1e-5)
    assert losses["focal"].item() == pytest.approx(focal(torch.tensor([2.0, -1.0]), torch.tensor([1, 0]), 4.0).item())


def test_nothing_goes_around_the_students_code() -> None:
    with seeded(0):
        student = Student((SIDE, SIDE), [(5, 12, 12), (3, 6, 6)], 4).eval()
    one, other = (torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(i)) for i in range(2))
    assert student.encode(one).shape == (1, 32, 3, 3)  # half of the coarsest level's 6 x 6
    last = student.encode[-1]
    for weight in (last.second[-1].weight, last.beside[-1].weight):
        nn.init.zeros_(weight)
    for a, b in zip(student(one), student(other), strict=True):
        assert torch.equal(a, b)
    with seeded(0):
        reader = Reader(8, 4).eval()
    inside = torch.ones(2, 5, 6, dtype=torch.bool)
    assert reader(torch.zeros(2, 8, 5, 6), inside).shape == (2, 5, 6)


def test_losses_fall_and_a_planted_defect_is_found_with_each_idea_on_or_off() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    x, mask = planted(8, 1)
    options = {"batch": 4, "width": 4, "hidden": 16, "rate": 1e-2, "backbone": Backbone(levels=[0, 1])}
    for steps, off in ((60, {}), (20, {"segment": False})):
        detector = DeSTSeg(**options, steps=steps, **off).fit(view(stripes(16, 0)))
        first = [sum(row.values()) - row["step"] for row in detector.history_[:steps]]
        assert np.mean(first[-5:]) < 0.5 * first[0]
        assert [row["step"] for row in detector.history_] == list(range(1, steps + 1 if off else 2 * steps + 1))
        if not off:
            second = [row["focal"] + row["l1"] for row in detector.history_[steps:]]
            assert np.mean(second[-5:]) < 0.8 * np.mean(second[:5])
        scores = detector.score(whole(view(x, mask=mask)))
        assert scores.sample.argmax() == 7
        row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
        assert 10 <= row < 34
        assert 14 <= column < 38
    assert torch.equal(torch.get_rng_state(), before)


def test_masks_teach_the_reader_and_defects_without_one_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(3)
    x, mask, label = stripes(16, 0), np.zeros((16, SIDE, SIDE), np.int8), np.repeat([0, 1], [10, 6])
    for image, marks in zip(x[10:], mask[10:], strict=True):
        top, left = rng.integers(4, SIDE - 20, 2)
        marks[top : top + 14, left : left + 14] = 1
        image[:, marks == 1] += 25  # less than the stripes go up and down
    options = {"steps": 40, "batch": 4, "width": 4, "hidden": 16, "rate": 1e-2, "top": 0.05}
    options["backbone"] = Backbone(levels=[0, 1])
    batch = whole(view(x))
    with caplog.at_level(logging.WARNING):
        taught = DeSTSeg(**options).fit(view(x, label, mask)).score(batch).sample
        assert "have no mask" not in caplog.text
        untaught = DeSTSeg(**options).fit(view(x, label, mask * -1)).score(batch).sample
    assert "6 of 6 anomalous images have no mask: they teach nothing" in caplog.text
    apart = [found[10:].mean() - found[:10].mean() for found in (taught, untaught)]
    assert apart[0] > 0.1
    assert apart[0] > 2 * apart[1]
    alone, left_out = (DeSTSeg(**TINY).fit(train) for train in (view(x[:10]), view(x, label, mask * -1)))
    np.testing.assert_array_equal(left_out.score(batch).sample, alone.score(batch).sample)
    half = mask.copy()
    half[10:13] = -1
    known = np.r_[:10, 13:16]
    both = [(x, label, half), (x[known], label[known], half[known])]
    some, same = (DeSTSeg(**TINY).fit(view(*given)).score(batch).sample for given in both)
    np.testing.assert_array_equal(some, same)


@pytest.mark.parametrize("segment", [True, False])
def test_what_does_not_count_is_not_seen(segment: bool) -> None:
    train, region = stripes(4, 0), np.ones((4, SIDE, SIDE), bool)
    region[:, :, :20] = False
    made = {"backbone": Backbone(levels=[0]), **TINY, "segment": segment}  # a narrow teacher
    first = DeSTSeg(**made).fit(view(train, region=region))
    with torch.no_grad():
        first.reader_.last[-1].weight *= 30  # after so few steps it would hardly heed what it sees
    batch = whole(view(stripes(3, 2), region=region[:3]))
    spoiled = batch.x.copy()
    spoiled[:, :, 16:28, :4] = 255
    expected, found = first.score(batch), first.score(replace(batch, x=spoiled))
    np.testing.assert_allclose(found.sample, expected.sample, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.local[:, :, 20:], expected.local[:, :, 20:], rtol=1e-4, atol=1e-5)
    seen, free = (first.score(replace(batch, x=one, region=None)).local for one in (spoiled, batch.x))
    assert np.abs(seen - free).max() > 3e-4
    inside, mark = torch.from_numpy(region[:3]), torch.zeros(3, SIDE, SIDE, dtype=torch.int8)
    taught, same = (
        first._segmenting(first.reader_, Drawn(x, inside, mark, counted(batch, (12, 12), inside.device), [], []))
        for x in (batch.x, spoiled)
    )
    for name, loss in taught.items():
        assert same[name].item() == pytest.approx(loss.item(), rel=1e-5)


def test_textures_are_of_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, corrupted = [], perlin.corrupted
    monkeypatch.setattr(perlin, "corrupted", lambda x, *rest, **k: (seen.append(x), corrupted(x, *rest, **k))[1])
    region = np.ones((4, SIDE, SIDE), bool)
    region[:, :, :20] = False
    DeSTSeg(Backbone(levels=[0]), **TINY).fit(view(stripes(4, 0), region=region))
    assert seen
    assert all(not x[..., :20].any() and x[..., 20:].any() for x in seen)


def test_repeats_survives_its_state_bit_for_bit_and_takes_any_batch() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(5, 1)[0]))
    for backbone in (Backbone(levels=[0, 3]), Backbone("test_resnet", levels=[1, 2])):
        first = DeSTSeg(backbone, **TINY).fit(train)
        second = DeSTSeg(backbone, **TINY).fit(view(stripes(2, 9))).fit(train)
        for other in (second, DeSTSeg(backbone, **TINY).from_state(first.state())):
            np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
            np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
        assert first.history_ == second.history_
        assert not np.array_equal(
            first.score(test).sample, DeSTSeg(backbone, **TINY, seed=1).fit(train).score(test).sample
        )
        apart = np.concatenate([first.score(b).sample for b in view(test.x).batches(1)])
        np.testing.assert_allclose(first.score(test).sample, apart, rtol=1e-4, atol=1e-5)
    assert first.embed(test).shape == (5, sum(c for c, _, _ in first.shapes_))


def test_refusals_and_a_single_flat_image() -> None:
    batch, blank = whole(view(stripes(2, 0))), DeSTSeg()
    for call in (blank.state, lambda: blank.score(batch), lambda: blank.embed(batch)):
        with pytest.raises(NotFittedError, match="image/destseg must be fitted"):
            call()
    with pytest.raises(DataError, match="at least one normal"):
        DeSTSeg(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    detector = DeSTSeg(**TINY).fit(view(np.full((1, 3, SIDE, SIDE), 100, np.uint8)))
    assert np.isfinite(detector.score(batch).sample).all()
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        detector.score(replace(batch, x=batch.x[:, :, 1:]))
    with pytest.raises(ModelError, match="do not fit these hyperparameters"):
        DeSTSeg(**{**TINY, "width": 8}).from_state(detector.state())
