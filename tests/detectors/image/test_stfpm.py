from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.detectors.image.stfpm import LEVELS, STFPM, Small, apart
from pipeline.errors import DataError, ModelError, NotFittedError
from pipeline.parts import backbones, features, nets
from pipeline.parts.features import Backbone
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 3, "batch": 2}
NET = Backbone("test_resnet", levels=[1, 2])  # a timm network of few weights, random ones
SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 112, "dynamic_img_size": True}
VIT = Backbone("vit_small_patch14_dinov2", levels=[0, 1], extra=SMALL)  # takes multiples of 14 pixels alone


def test_the_loss_of_a_level_by_hand() -> None:
    one = torch.tensor([[3.0, 4.0], [2.0, 0.0], [-5.0, 0.0]]).view(3, 2, 1, 1)
    other = torch.tensor([[1.0, 0.0], [7.0, 0.0], [0.1, 0.0]]).view(3, 2, 1, 1)
    # directions (0.6, 0.8) and (1, 0): ((0.6 - 1)^2 + 0.8^2) / 2; then equal ones, then opposite ones
    np.testing.assert_allclose(apart(one, other).flatten(), [0.4, 0.0, 2.0], atol=1e-6)
    detector = STFPM(**TINY, rate=1e-9).fit(view(stripes(2, 0)))
    first, *_, last = detector.history_  # as good as untrained: both images, in each step
    assert set(first) == {"step", "level0", "level1", "level2", "level3"}
    net = detector._student().train()
    x, taught = stripes(2, 0), detector._features.maps(stripes(2, 0))
    learnt = net(torch.from_numpy(x).float() / 255)
    for i, (mine, its) in enumerate(zip(learnt, taught, strict=True)):
        cosine = F.cosine_similarity(mine, its).mean().item()  # half the squared distance is 1 minus the cosine
        assert first[f"level{i}"] == pytest.approx(1 - cosine, rel=1e-3)
        assert last[f"level{i}"] == pytest.approx(1 - cosine, rel=1e-3)


def test_a_student_that_is_the_teacher_finds_nothing_and_another_does() -> None:
    batch = whole(view(planted(3, 1)[0]))
    detector = STFPM(NET, **TINY).fit(view(stripes(4, 0)))
    assert (detector.score(batch).sample > 1e-4).all()
    detector.net_ = nets.frozen(backbones.architecture(NET, LEVELS)[0])  # a random teacher has seed 0
    detector._prepare()
    scores = detector.score(batch)
    np.testing.assert_allclose(scores.sample, 0, atol=1e-9)
    np.testing.assert_allclose(scores.local, 0, atol=1e-9)


def test_the_student_starts_elsewhere_than_a_random_teacher_and_by_the_seed() -> None:
    detector = STFPM(NET)
    detector._features = features.load(NET)
    own, other = detector._student().state_dict(), STFPM(NET, seed=1)._student().state_dict()
    teacher = backbones.architecture(NET, LEVELS)[0].state_dict()
    kernels = [name for name, weight in own.items() if weight.ndim == 4]
    assert kernels
    for name in kernels:
        assert not torch.equal(own[name], teacher[name])
        assert not torch.equal(own[name], other[name])


@pytest.mark.parametrize("fusion", ["product", "sum"])
def test_the_map_is_that_of_all_levels_together(fusion: str) -> None:
    detector = STFPM(NET, **TINY, fusion=fusion).fit(view(stripes(4, 0)))
    x = planted(3, 1)[0]
    scores = detector.score(whole(view(x)))
    with torch.inference_mode():
        images = torch.from_numpy(x).float() * detector._features.scale + detector._features.shift
        levels = [
            F.interpolate((1 - F.cosine_similarity(mine, its))[:, None], (SIDE, SIDE), mode="bilinear")[:, 0].numpy()
            for mine, its in zip(detector.net_(images), detector._features.maps(x), strict=True)
        ]
    alone = STFPM(NET, **TINY, pyramid=False).fit(view(stripes(4, 0)))
    assert set(alone.history_[0]) == {"step", "level0"}
    assert alone.history_[0]["level0"] == pytest.approx(detector.history_[0]["level1"])  # the coarsest
    alone.net_ = detector.net_
    alone._prepare()
    np.testing.assert_allclose(alone.score(whole(view(x))).local, levels[1], rtol=1e-3, atol=1e-5)
    expected = levels[0] * levels[1] if fusion == "product" else levels[0] + levels[1]
    np.testing.assert_allclose(scores.local, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(scores.sample, expected.max(axis=(1, 2)), rtol=1e-3)


def test_the_loss_falls_and_a_planted_defect_is_found() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    x, mask = planted(8, 1)
    detector = STFPM(Backbone(levels=[0, 3]), steps=50, batch=4).fit(view(stripes(16, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    losses = [row["level0"] + row["level1"] for row in detector.history_]
    assert np.mean(losses[-5:]) < 0.1 * losses[0]
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 10 <= row < 34
    assert 14 <= column < 38


def test_the_small_student_gives_maps_as_the_filter_bank_does() -> None:
    for levels, side in (([0, 1, 2, 3], 50), ([3], 48), ([2], 33)):
        maps = features.load(Backbone(levels=levels)).maps(np.zeros((1, 3, side, side), np.uint8))
        found = Small([tuple(m.shape[1:]) for m in maps], side).eval()(torch.zeros(1, 3, side, side))
        assert [m.shape for m in found] == [m.shape for m in maps]


def test_what_does_not_count_is_not_seen() -> None:
    train, region = stripes(6, 0), np.ones((6, SIDE, SIDE), bool)
    region[:, :, :20] = False
    other = train.copy()
    other[:, :, :, :4] = np.random.default_rng(1).integers(0, 256, (6, 3, SIDE, 4))
    made = {"backbone": Backbone(levels=[0]), **TINY}  # a narrow teacher: an edge is soon out of its sight
    first, second = STFPM(**made).fit(view(train, region=region)), STFPM(**made).fit(view(other, region=region))
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
    for backbone in (Backbone(levels=[0, 3]), NET):
        first = STFPM(backbone, **TINY).fit(train)
        second = STFPM(backbone, **TINY).fit(view(stripes(2, 9))).fit(train)
        for other in (second, STFPM(backbone, **TINY).from_state(first.state())):
            np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
            np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
        assert first.history_ == second.history_
        seeded = STFPM(backbone, **TINY, seed=1).fit(train)
        assert not np.array_equal(first.score(test).sample, seeded.score(test).sample)
        apart = np.concatenate([first.score(b).sample for b in view(test.x).batches(1)])
        np.testing.assert_allclose(first.score(test).sample, apart, rtol=1e-4, atol=1e-5)
    x, mask = planted(7, 0)
    with_one, without = STFPM(**TINY).fit(view(x, np.r_[np.zeros(6), 1], mask)), STFPM(**TINY).fit(view(x[:6]))
    np.testing.assert_array_equal(with_one.score(test).sample, without.score(test).sample)
    assert with_one.embed(test).shape == (5, 64)


def test_a_vit_whose_patches_are_not_of_8_or_16_pixels_learns_and_comes_back() -> None:
    x = np.pad(stripes(4, 0), ((0, 0), (0, 0), (0, 8), (0, 8)), mode="reflect")  # 56 x 56
    detector = STFPM(VIT, **TINY).fit(view(x))
    scores = detector.score(whole(view(x)))
    assert scores.local.shape == (4, 56, 56)
    again = STFPM(VIT, **TINY).from_state(detector.state()).score(whole(view(x)))
    np.testing.assert_array_equal(again.local, scores.local)


def test_refusals_and_a_single_flat_image() -> None:
    batch = whole(view(stripes(2, 0)))
    for call in (STFPM().state, lambda: STFPM().score(batch), lambda: STFPM().embed(batch)):
        with pytest.raises(NotFittedError, match="image/stfpm must be fitted"):
            call()
    with pytest.raises(DataError, match="at least one normal"):
        STFPM(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    detector = STFPM(**TINY).fit(view(np.full((1, 3, SIDE, SIDE), 100, np.uint8)))
    assert np.isfinite(detector.score(batch).sample).all()
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        detector.score(replace(batch, x=batch.x[:, :, 1:]))
    state = detector.state()
    with pytest.raises(ModelError, match="do not fit these hyperparameters"):
        STFPM().from_state(replace(state, meta={**state.meta, "shapes": [[16, 12, 12]]}))
