from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.detectors.image.supersimplenet import (
    Heads,
    SuperSimpleNet,
    position_labels,
    upscaled,
)
from pipeline.errors import DataError, NotFittedError
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone
from pipeline.parts.losses import focal, truncated_l1
from pipeline.protocols import Batch, Samples
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 3, "batch": 4, "hidden": 8, "width": 4}
FINE = Backbone(levels=[0, 1])


def faint(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stripes that all carry a square in which they lie very little lighter; and the masks."""
    x, mask = stripes(n, seed), np.zeros((n, SIDE, SIDE), np.int8)
    rng = np.random.default_rng(seed)
    for image, marks in zip(x, mask, strict=True):
        top, left = rng.integers(4, SIDE - 20, 2)
        image[:, top : top + 14, left : left + 14] = np.minimum(image[:, top : top + 14, left : left + 14] + 6, 255)
        marks[top : top + 14, left : left + 14] = 1
    return x, mask


def mixed(masks: str) -> Samples:
    """16 normal images and 8 faint defects, with masks for all, none or half of these."""
    (bad, mask), good = faint(8, 5), stripes(16, 0)
    unknown = {"all": slice(0, 0), "none": slice(0, 8), "half": slice(0, 4)}[masks]
    mask[unknown] = -1
    marks = np.concatenate([np.zeros((16, SIDE, SIDE), np.int8), mask])
    return view(np.concatenate([good, bad]), np.repeat([0, 1], [16, 8]), marks)


def test_losses_by_hand() -> None:
    odd = torch.tensor([[[0.2, -0.9, 0.1, 3.0, 9.0]]])
    target = torch.tensor([[[1, 0, 0, -1, 1]]], dtype=torch.int8)
    inside = torch.tensor([[[True, True, True, True, False]]])
    # anomalous: 0.5 - 0.2; normal: 0 and 0.5 + 0.1; the unknown and the uncounted say nothing
    assert truncated_l1(odd, target, inside).item() == pytest.approx(0.3 + (0 + 0.6) / 2)
    p = 1 / (1 + np.exp(-0.7))
    expected = (-((1 - p) ** 4) * np.log(p) - p**4 * np.log(1 - p)) / 2
    assert focal(torch.tensor([0.7, 0.7]), torch.tensor([1, 0]), 4.0).item() == pytest.approx(expected, rel=1e-5)


def test_what_is_linear_may_come_before_the_enlarging() -> None:
    with seeded(3):
        net = Heads(6, 5, 4)
        maps, inside = torch.randn(2, 6, 7, 9), torch.ones(2, 14, 18, dtype=torch.bool)
        net(torch.randn(4, 6, 8, 8), torch.ones(4, 8, 8, dtype=torch.bool), torch.randn(2, 6, 8, 8))  # moves the norms
    net.eval()
    inside[0, :, 12:] = False
    with torch.inference_mode():
        large = upscaled(maps, 2)
        plain = plainly(net, large, inside)
        fast = net.scored(maps, inside, 2)
    for one, other in zip(plain, fast, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def plainly(net: Heads, large: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The heads in the order of the paper, pooling each image by itself."""
    first, norm, last = net.segment
    odd = last(F.leaky_relu(norm(first(net.adapter(large))), 0.2))
    conv, norm, linear = net.classify
    logits = []
    for image, own, counts in zip(large, odd, inside, strict=True):
        seen = F.relu(norm(conv((torch.cat([image, own]) * counts)[None])))[0][:, counts]
        own = own[:, counts]
        pooled = torch.cat([seen.amax(1), own.amax(1), seen.mean(1), own.mean(1)])
        logits.append(linear(pooled)[0])
    return odd[:, 0], torch.stack(logits)


def test_positions_take_the_worst_of_their_pixels() -> None:
    mask = np.zeros((2, 4, 4), np.int8)
    mask[0, 0, 1], mask[0, 0, 0], mask[0, 3, 3] = 1, -1, -1
    batch = Batch(["a", "b"], np.zeros((2, 3, 4, 4), np.uint8), np.array([1, 0]), mask)
    assert position_labels(batch, (2, 2)).tolist() == [[[1, 0], [0, -1]], [[0, 0], [0, 0]]]
    assert position_labels(replace(batch, mask=None), (1, 1)).tolist() == [[[-1]], [[0]]]


def test_losses_fall_and_a_planted_defect_is_found_without_labels() -> None:
    before = torch.get_rng_state()
    detector = SuperSimpleNet(FINE, steps=120, batch=4).fit(view(stripes(16, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("l1", "focal", "classify"):
        losses = [row[name] for row in detector.history_]
        assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    x, mask = planted(8, 1)
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 8 <= row < 38
    assert 8 <= column < 42


def test_the_head_scores_only_where_anomalies_taught_it() -> None:
    few, test = view(stripes(6, 0)), whole(view(stripes(3, 2)))
    for train, choice, by in ((few, "auto", "map"), (mixed("all"), "auto", "head"), (few, "head", "head")):
        detector = SuperSimpleNet(**TINY, backbone=FINE, image_score=choice).fit(train)
        again = SuperSimpleNet(**TINY, backbone=FINE, image_score=choice).from_state(detector.state())
        for one in (detector, again):
            found = one.score(test)
            assert np.array_equal(found.sample, found.local.max(axis=(1, 2))) == (by == "map")


def gap(detector: SuperSimpleNet) -> float:
    """Share of faint defects and good images that the scores put in the right order."""
    bad, good = (detector.score(whole(view(x))).sample for x in (faint(16, 9)[0], stripes(16, 8)))
    return float((bad[:, None] > good[None]).mean())


def test_labels_with_masks_without_and_mixed_all_teach() -> None:
    options = {"backbone": FINE, "steps": 100, "batch": 8, "hidden": 64, "width": 32, "image_score": "head"}
    alone = gap(SuperSimpleNet(**options).fit(view(stripes(16, 0))))
    for masks in ("all", "half", "none"):
        detector = SuperSimpleNet(**options).fit(mixed(masks))
        assert gap(detector) > max(alone, 0.9)
        if masks != "none":  # the segmentation head has seen them, too
            x, mask = faint(16, 9)
            local = detector.score(whole(view(x, mask=mask))).local
            assert local[mask == 1].mean() > local[mask == 0].mean() + 0.2


def test_what_does_not_count_is_not_seen() -> None:
    region = np.ones((6, SIDE, SIDE), bool)
    region[:, :, SIDE // 2 :] = False
    train, options = stripes(6, 0), {**TINY, "backbone": Backbone(levels=[0])}
    other = train.copy()
    other[:, :, :, SIDE // 2 + 8 :] = 255  # beyond the reach of the filters
    first = SuperSimpleNet(**options).fit(view(train, region=region))
    second = SuperSimpleNet(**options).fit(view(other, region=region))
    batch = whole(view(stripes(6, 2), region=region))
    np.testing.assert_allclose(first.score(batch).sample, second.score(batch).sample, rtol=1e-4, atol=1e-5)
    spoiled = batch.x.copy()
    spoiled[:, :, :, SIDE // 2 + 8 :] = 0
    np.testing.assert_allclose(
        first.score(replace(batch, x=spoiled)).sample, first.score(batch).sample, rtol=1e-4, atol=1e-5
    )


def test_repeats_and_survives_its_state_bit_for_bit() -> None:
    train, test = mixed("half"), whole(view(planted(3, 1)[0]))
    first = SuperSimpleNet(**TINY).fit(train)
    second = SuperSimpleNet(**TINY).fit(view(stripes(2, 9))).fit(train)
    for other in (second, SuperSimpleNet(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    assert first.history_ == second.history_
    apart = np.concatenate([first.score(b).sample for b in view(test.x).batches(1)])
    np.testing.assert_allclose(first.score(test).sample, apart, rtol=1e-4, atol=1e-5)


def test_a_cache_too_small_is_said_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    large = np.repeat(np.repeat(stripes(20, 0), 4, axis=2), 4, axis=3)  # maps of 48 x 48 x 64: 0.3 MB each
    assert len(SuperSimpleNet(**TINY, cache=1).fit(view(large)).history_) == 3
    assert "cache holds 3 of 20 images" in caplog.text
    with pytest.raises(DataError, match="cache must hold the maps of one image, 1.2 MB, got 1"):
        SuperSimpleNet(**TINY, cache=1).fit(view(np.repeat(np.repeat(large[:1], 2, axis=2), 2, axis=3)))


@pytest.mark.parametrize("anomalies", [0, 1])
def test_unlabelled_images_stand_for_normals_where_none_is_labelled(anomalies: int) -> None:
    x, masks = planted(4, 0)
    label, test = np.r_[-1, -1, -1, [1] * anomalies], whole(view(x[:2]))
    x, masks = x[: len(label)], masks[: len(label)].astype(np.int8)
    unknown = np.where(label[:, None, None] == -1, np.int8(-1), masks)  # as the modality gives them
    presumed = SuperSimpleNet(**TINY).fit(view(x, label, unknown)).score(test)
    np.testing.assert_array_equal(
        presumed.local, SuperSimpleNet(**TINY).fit(view(x, label.clip(0), masks)).score(test).local
    )
    left_out = SuperSimpleNet(**TINY).fit(view(x[:3], np.array([0, -1, 0]))).score(test)
    np.testing.assert_array_equal(left_out.local, SuperSimpleNet(**TINY).fit(view(x[[0, 2]])).score(test).local)


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        SuperSimpleNet().score(batch)
    with pytest.raises(NotFittedError):
        SuperSimpleNet().state()
    with pytest.raises(DataError, match="at least one normal"):
        SuperSimpleNet(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    with pytest.raises(DataError, match="48 high and 48 wide"):
        SuperSimpleNet(**TINY).fit(view(stripes(2, 0))).score(replace(batch, x=batch.x[:, :, 1:]))
