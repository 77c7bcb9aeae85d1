from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.detectors.image import fader
from pipeline.detectors.image.fader import Fader, furthest
from pipeline.errors import DataError, ModelError, NotFittedError
from pipeline.parts import features
from pipeline.parts.features import Backbone
from pipeline.parts.hourglass import Hourglass
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"backbone": Backbone(levels=[2]), "steps": 3, "attenuating": 3, "batch": 2, "width": 4, "depth": 1, "hidden": 4}


def test_what_stands_out_most_is_covered_and_nothing_else() -> None:
    odd = torch.tensor([[[1.0, 4.0, 2.0, 3.0], [0.0, 5.0, 4.0, 9.0]]])
    inside = torch.ones(1, 2, 4, dtype=torch.bool)
    inside[0, 1, 3] = False  # the largest, which does not count
    expected = torch.tensor([[[0, 1, 0, 0], [0, 1, 0, 0]]]) > 0  # 0.25 of 7 are 2; of equal ones the first
    torch.testing.assert_close(furthest(odd, inside, 0.25), expected)
    assert not furthest(odd, inside, 0.0).any()


def test_the_mask_covers_what_is_unlike_the_normals_at_its_place() -> None:
    x, mask = planted(3, 1)
    detector = Fader(**{**TINY, "covered": 0.25}).fit(view(stripes(8, 0)))
    batch = whole(view(x))
    maps = detector._standard(features.merge(detector._features.maps(batch.x)))
    covered = detector._masks(maps, torch.ones(3, 12, 12, dtype=torch.bool))
    assert covered.flatten(1).sum(dim=1).tolist() == [36, 36, 36]
    where = mask[2].reshape(12, 4, 12, 4).all(axis=(1, 3))
    assert covered[2].numpy()[where].mean() > 0.7 > 0.4 > covered[:2].numpy()[:, where].mean()
    maps = torch.arange(9.0).view(1, 1, 3, 3)
    seen = torch.tensor([[[True, False, False], [False, True, False], [False, False, True]]])
    hidden = Fader(mosaic=2)._hidden(maps, seen)[0, 0]  # blocks of 2 and their rests
    torch.testing.assert_close(hidden, torch.tensor([[2.0, 1, 2], [3, 2, 5], [6, 7, 8]]))
    hidden = Fader(mosaic=0)._hidden(maps, seen)[0, 0]
    torch.testing.assert_close(hidden, torch.tensor([[0.0, 1, 2], [3, 0, 5], [6, 7, 0]]))


def test_errors_are_measured_against_what_is_usual_at_their_position() -> None:
    train, test = view(stripes(8, 0)), whole(view(planted(3, 1)[0]))
    scaled = Fader(**TINY, smooth=0.0).fit(train)
    plain = replace(scaled, usual=False).from_state(scaled.state())
    sizes = {"size": (SIDE, SIDE), "mode": "bilinear", "align_corners": False}
    with torch.inference_mode():
        maps = scaled._standard(features.merge(scaled._features.maps(test.x)))
        wrong = scaled._errors(maps, scaled._masks(maps, torch.ones(3, 12, 12, dtype=torch.bool)))
        own = scaled._standard(features.merge(scaled._features.maps(whole(train).x)))
        usual = scaled._errors(own, scaled._masks(own, torch.ones(8, 12, 12, dtype=torch.bool)))
    varied = usual.std(dim=0, correction=0) + 0.1 * usual.std(correction=0)
    expected = F.interpolate(((wrong - usual.mean(dim=0)) / varied)[:, None], **sizes)[:, 0]
    np.testing.assert_allclose(scaled.score(test).local, expected, rtol=2e-2, atol=2e-2)
    np.testing.assert_allclose(plain.score(test).local, F.interpolate(wrong[:, None], **sizes)[:, 0], atol=1e-4)


@pytest.mark.parametrize("host", ["unet", "autoencoder"])
def test_the_losses_fall_and_a_planted_defect_is_found(host: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    x, mask = planted(8, 1)
    small = {"backbone": Backbone(levels=[2]), "batch": 4, "width": 8, "depth": 1, "covered": 0.1, "rate": 1e-2}
    detector = Fader(host=host, steps=40, attenuating=20, **small).fit(view(stripes(16, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    history = detector.history_
    assert [row["step"] for row in history] == list(range(1, 61))
    losses = [row["repair"] for row in history[:40]]
    assert np.mean(losses[-6:]) < 0.6 * np.mean(losses[:3])
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 12 <= row < 32
    assert 16 <= column < 36


def test_maps_are_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that training draws from are standardised in the memory of those that were held, whatever its layout."""
    for name, last in (("filterbank", False), ("test_resnet", True)):
        seen = {}
        for module, what in ((fader, "hold"), (Fader, "_known")):
            made = getattr(module, what)

            def kept(
                *given: object, what: str = what, made: Callable = made, seen: dict = seen, **named: object
            ) -> Any:
                seen[what] = made(*given, **named)
                if what == "hold":
                    seen["maps"] = [level.clone() for level in seen[what].levels]
                return seen[what]

            monkeypatch.setattr(module, what, kept)
        region = np.ones((40, SIDE, SIDE), bool)
        region[:5, :, :20] = False
        small = {**TINY, "backbone": Backbone(name, levels=[2, 3])}
        detector = Fader(**small).fit(view(stripes(40, 0), region=region))
        monkeypatch.undo()
        held, known = seen["hold"], seen["_known"]
        assert held.levels[0].is_contiguous() is not last
        for maps, level, found in zip(seen["maps"], held.levels, known[:2], strict=True):
            assert found.data_ptr() == level.data_ptr()
            assert found.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(found, detector._standard(maps.float()).half(), rtol=0, atol=0)
        weight = known.inside[:, None].half()
        expected = (known.clean * weight).sum(dim=0, dtype=torch.float32) / weight.sum(dim=0, dtype=torch.float32)
        torch.testing.assert_close(detector.place_, expected, rtol=1e-6, atol=1e-6)


def test_the_host_stays_as_it_was_and_may_stand_alone() -> None:
    train = view(stripes(6, 0))
    alone, helped = Fader(**{**TINY, "attenuating": 0}).fit(train), Fader(**TINY).fit(train)
    for one, other in zip(alone.host_.state_dict().values(), helped.host_.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert isinstance(helped.host_, Hourglass)
    test = whole(view(planted(3, 1)[0]))
    assert not np.array_equal(alone.score(test).sample, helped.score(test).sample)
    assert len(alone.history_) == 3


def test_repeats_and_survives_its_state_bit_for_bit() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    first = Fader(**TINY).fit(train)
    second = Fader(**TINY).fit(view(stripes(2, 9))).fit(train)
    for other in (second, Fader(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    apart = np.concatenate([first.score(b).sample for b in view(test.x).batches(1)])
    np.testing.assert_allclose(first.score(test).sample, apart, rtol=1e-4, atol=1e-5)
    assert first.history_ == second.history_
    with pytest.raises(ModelError, match="do not fit"):
        Fader(**{**TINY, "hidden": 3}).from_state(first.state())


def test_what_does_not_count_is_not_seen() -> None:
    x, region = stripes(4, 0), np.ones((4, SIDE, SIDE), bool)
    region[:, :, :20] = False
    other = np.where(region[:, None], x, np.random.default_rng(1).integers(0, 256, x.shape, dtype=np.uint8))
    first, second = (Fader(**TINY).fit(view(images, region=region)) for images in (x, other))
    scores, same = (one.score(whole(view(images, region=region))) for one, images in ((first, x), (second, other)))
    np.testing.assert_array_equal(scores.sample, same.sample)
    np.testing.assert_array_equal(scores.local, same.local)


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        Fader().score(batch)
    with pytest.raises(NotFittedError):
        Fader().state()
    with pytest.raises(DataError, match="normal"):
        Fader(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    with pytest.raises(DataError, match="at least 4 positions down and across for depth = 1, got 12 x 3 of an image"):
        Fader(**TINY).fit(view(stripes(3, 0)[:, :, :, :12]))
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        Fader(**TINY).fit(view(stripes(1, 0))).score(replace(batch, x=batch.x[:, :, 1:]))
