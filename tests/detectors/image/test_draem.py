from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.detectors.image.draem import Draem, Networks
from pipeline.errors import DataError, ModelError, NotFittedError, ParamsError
from pipeline.parts.device import seeded
from pipeline.parts.held_images import hold_images
from pipeline.parts.nets import frozen
from pipeline.protocols import Samples
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 3, "batch": 2, "labelled": 1, "width": 2, "compare": 2, "depth": 2, "shrink": 2}


def test_the_losses_by_hand() -> None:
    def net(seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # repairs to 0.6 what is 0.2; an anomaly has probability 0.8 in the left half and 0.5 in the right one
        return torch.full_like(seen, 0.6), torch.tensor([np.log(4.0), 0.0]).repeat_interleave(8).expand(3, 16, 16)

    clean, masks = torch.full((2, 3, 16, 16), 0.2), torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[:, :, :8] = True
    # the third is a labelled anomaly: its repair, wrong as it is, must not count
    losses = Draem(repair=0.5)._losses(net, clean, torch.cat([clean, torch.rand(1, 3, 16, 16)]), masks)
    assert losses["l2"].item() == pytest.approx(0.5 * 0.4**2, rel=1e-5)
    alike = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert losses["ssim"].item() == pytest.approx(0.5 * (1 - alike), abs=3e-4)
    expected = (0.2**2 * -np.log(0.8) + 0.5**2 * -np.log(0.5)) / 2
    assert losses["focal"].item() == pytest.approx(expected, rel=1e-5)


def test_the_comparing_network_sees_the_repair() -> None:
    with seeded(0):
        net, x = Networks(8, 8, 2).eval(), torch.rand(1, 3, 16, 16)
    before = net(x)[1]
    with torch.no_grad():
        net.repair.out.bias += 1
    assert not torch.allclose(net(x)[1], before)
    net(x)[1].sum().backward()
    assert net.repair.out.weight.grad.abs().sum() > 0  # both are trained as one


def test_the_loss_falls_and_a_planted_defect_is_found() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train = stripes(16, 0)
    x, mask = planted(8, 1)
    labelled, masks = planted(1, 2)
    samples = view(
        np.concatenate([train, labelled]),
        np.r_[np.zeros(16), 1],
        np.concatenate([np.zeros((16, SIDE, SIDE), bool), masks]),
    )
    detector = Draem(steps=60, batch=4, labelled=2, depth=1, width=8, compare=4, shrink=2, rate=5e-3).fit(samples)
    assert torch.equal(torch.get_rng_state(), before)
    history = detector.history_
    assert [row["step"] for row in history] == list(range(1, 61))
    for name in ("ssim", "l2", "focal"):
        losses = [row[name] for row in history]
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    assert mask[7][np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))]
    assert scores.local.shape == (8, SIDE, SIDE)
    assert scores.local.min() >= 0
    assert scores.local.max() <= 1


def test_labelled_anomalies_teach_and_those_without_a_mask_do_not() -> None:
    x, masks = planted(5, 0)
    label = np.array([0, 0, 0, 0, 1])

    def weights(some: Samples) -> np.ndarray:
        return np.concatenate([a.ravel() for a in Draem(**TINY).fit(some).state().arrays.values()])

    without = weights(view(x, label, np.zeros_like(masks)))
    assert not np.array_equal(weights(view(x, label, masks)), without)
    np.testing.assert_array_equal(without, weights(view(x[:4])))


def test_attenuation_leaves_both_networks_as_they_were() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    alone, helped = Draem(**TINY).fit(train), Draem(**TINY, attenuating=3).fit(train)
    arrays = helped.state().arrays
    for name, array in alone.state().arrays.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert [row["step"] for row in helped.history_] == list(range(1, 7))
    again = Draem(**TINY, attenuating=3).from_state(helped.state())
    np.testing.assert_array_equal(again.score(test).local, helped.score(test).local)
    with pytest.raises(ModelError, match="do not fit"):
        Draem(**TINY).from_state(helped.state())


def test_attenuation_weakens_what_a_network_that_copies_would_hand_on() -> None:
    rng = np.random.default_rng(0)

    def drawn(steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for _ in range(steps):
            clean = torch.from_numpy(stripes(8, int(rng.integers(1000)))).float() / 255
            odd = torch.zeros(8, SIDE, SIDE, dtype=torch.bool)
            for one in odd:
                row, column = rng.integers(0, SIDE - 12, 2)
                one[row : row + 12, column : column + 12] = True
            yield clean, torch.where(odd[:, None], torch.tensor([0.9, 0.1, 0.5]).view(1, 3, 1, 1), clean), odd

    with seeded(0):
        net = Networks(8, 2, 0, attenuated=True)
    optimiser = torch.optim.Adam(net.repair.parameters(), lr=2e-2)
    for _, seen, _ in drawn(60):
        loss = torch.nn.functional.mse_loss(net.repair(seen), seen)  # copies all it sees
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    Draem(attenuating=60)._attenuate(frozen(net), drawn(60))
    ((_, seen, odd),) = drawn(1)
    with torch.inference_mode():
        share = net.layers(0, net.repair.encode(seen)[0]).sigmoid()
        far = [((made - seen) ** 2).mean(dim=1)[odd].mean() for made in (net.repair(seen), net(seen)[0])]
    assert share[odd].mean() < 0.3 < 0.9 < share[~odd].mean()
    assert far[1] > 5 * far[0]  # the comparing network has something to see


@pytest.mark.parametrize("shrink", [1, 3])
def test_repeats_and_survives_its_state_bit_for_bit(shrink: int) -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    tiny = {**TINY, "shrink": shrink}
    first = Draem(**tiny).fit(train)
    second = Draem(**tiny).fit(view(stripes(2, 9))).fit(train)
    loaded = Draem(**tiny).from_state(first.state())
    for other in (second, loaded):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    assert first.history_ == second.history_
    assert not np.array_equal(first.score(test).sample, Draem(**tiny, seed=1).fit(train).score(test).sample)
    with pytest.raises(ModelError, match="do not fit"):
        Draem(**{**tiny, "width": 3}).from_state(first.state())


def test_the_score_is_the_largest_mean_of_the_map() -> None:
    train, test = view(stripes(4, 0)), whole(view(planted(3, 1)[0]))
    fine = Draem(**TINY, pool=0.0).fit(train)
    coarse = replace(fine, pool=1.0).from_state(fine.state())
    local = fine.score(test).local
    np.testing.assert_allclose(fine.score(test).sample, local.max(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(coarse.score(test).sample, local.mean(axis=(1, 2)), rtol=1e-5)
    middle = replace(fine, pool=3 / SIDE).from_state(fine.state())
    windows = np.lib.stride_tricks.sliding_window_view(local, (3, 3), axis=(1, 2)).mean(axis=(3, 4))
    np.testing.assert_allclose(middle.score(test).sample, windows.max(axis=(1, 2)), rtol=1e-5)


def test_batch_size_does_not_matter() -> None:
    detector = Draem(**TINY).fit(view(stripes(4, 0)))
    test = view(planted(7, 1)[0])
    apart = np.concatenate([detector.score(b).sample for b in test.batches(1)])
    np.testing.assert_allclose(detector.score(whole(test)).sample, apart, rtol=1e-5)


def test_windows_lie_within_the_image_and_around_marks() -> None:
    x, mask = planted(2, 0)
    held = hold_images(view(x, np.array([0, 1]), mask), 100, 0)
    detector, rng = Draem(crop=10), np.random.default_rng(0)
    starts = set()
    for _ in range(60):
        clean, odd = (detector._window(held, i, rng) for i in (0, 1))
        assert held.x[clean].shape == (3, 10, 10)
        assert held.marks[odd].shape == (10, 10)
        assert held.marks[odd].any()
        starts.add(clean[2].start)
    assert min(starts) < 5
    assert max(starts) > 33
    whole_image = replace(detector, crop=1000)._window(held, 1, rng)
    np.testing.assert_array_equal(held.x[whole_image], x[1])


def test_what_does_not_count_is_not_seen() -> None:
    x, region = stripes(4, 0), np.ones((4, SIDE, SIDE), bool)
    region[:, :, :20] = False
    other = np.where(region[:, None], x, np.random.default_rng(1).integers(0, 256, x.shape, dtype=np.uint8))
    first, second = (Draem(**TINY).fit(view(images, region=region)) for images in (x, other))
    scores, same = (one.score(whole(view(images, region=region))) for one, images in ((first, x), (second, other)))
    np.testing.assert_array_equal(scores.sample, same.sample)
    np.testing.assert_array_equal(scores.local, same.local)
    assert not scores.local[:, :, :20].any()


def test_odd_sizes_work_and_too_small_ones_are_refused() -> None:
    x = stripes(3, 0)[:, :, :37, :29]
    scores = Draem(**TINY).fit(view(x)).score(whole(view(x)))
    assert scores.local.shape == (3, 37, 29)
    with pytest.raises(DataError, match=r"at least 16 pixels high and wide .* got 48 x 12"):
        Draem(**TINY).fit(view(stripes(3, 0)[:, :, :, :12]))


@pytest.mark.parametrize("anomalies", [0, 1])
def test_unlabelled_images_stand_for_normals_where_none_is_labelled(anomalies: int) -> None:
    x, masks = planted(4, 0)
    label, test = np.r_[-1, -1, -1, [1] * anomalies], whole(view(x[:2]))
    x, masks = x[: len(label)], masks[: len(label)].astype(np.int8)
    unknown = np.where(label[:, None, None] == -1, np.int8(-1), masks)  # as the modality gives them
    presumed = Draem(**TINY).fit(view(x, label, unknown)).score(test)
    np.testing.assert_array_equal(presumed.local, Draem(**TINY).fit(view(x, label.clip(0), masks)).score(test).local)
    left_out = Draem(**TINY).fit(view(x[:3], np.array([0, -1, 0]))).score(test)
    np.testing.assert_array_equal(left_out.local, Draem(**TINY).fit(view(x[[0, 2]])).score(test).local)


def test_windows_too_small_for_the_networks_are_refused() -> None:
    with pytest.raises(ParamsError, match="draem.crop must be at least 16 for depth = 3, got 8"):
        Draem(crop=8, depth=3).fit(view(stripes(2, 0)))


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        Draem().score(batch)
    with pytest.raises(NotFittedError):
        Draem().state()
    with pytest.raises(DataError, match="normal"):
        Draem(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    one = Draem(**{**TINY, "batch": 1}).fit(view(stripes(1, 0)))
    assert np.isfinite(one.score(batch).sample).all()
