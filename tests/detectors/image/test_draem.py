import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from pipeline.detectors.image.draem import Draem, Networks, focal_loss, ssim_loss
from pipeline.errors import DataError, ModelError, NotFittedError
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 3, "batch": 2, "labelled": 1, "width": 2, "compare": 2, "depth": 2}


def test_focal_loss_by_hand() -> None:
    # the true class has probability 0.8 at one pixel and 0.5 at the other
    logits = torch.tensor([[np.log(4.0), 0.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    masks = torch.tensor([[[False, True]]])
    expected = (0.2**2 * -np.log(0.8) + 0.5**2 * -np.log(0.5)) / 2
    assert focal_loss(logits, masks, 2.0).item() == pytest.approx(expected, rel=1e-6)
    assert focal_loss(logits, masks, 0.0).item() == pytest.approx(-(np.log(0.8) + np.log(0.5)) / 2, rel=1e-6)


def test_ssim_loss_of_plain_images_by_hand() -> None:
    a, b = torch.full((1, 3, 20, 20), 0.2), torch.full((1, 3, 20, 20), 0.6)
    expected = 1 - (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)  # both variances are zero
    assert ssim_loss(a, b).item() == pytest.approx(expected, abs=3e-4)
    assert ssim_loss(a, a).item() == pytest.approx(0, abs=1e-6)


def test_ssim_loss_agrees_with_scikit_image() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(size=(40, 40))
    b = np.clip(a + rng.normal(0, 0.2, (40, 40)), 0, 1)
    # away from the edge, where the two mirror differently
    _, full = structural_similarity(
        a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    x, y = (torch.from_numpy(z).float().view(1, 1, 40, 40) for z in (a, b))
    ours = 1 - ssim_loss(x, y).item()
    assert ours == pytest.approx(full.mean(), abs=0.01)


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
    detector = Draem(steps=80, depth=2, rate=5e-3).fit(samples)
    assert torch.equal(torch.get_rng_state(), before)
    history = detector.history_
    assert [row["step"] for row in history] == list(range(1, 81))
    for name in ("ssim", "l2", "focal"):
        losses = [row[name] for row in history]
        assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    assert mask[7][np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))]
    assert scores.local.shape == (8, SIDE, SIDE)
    assert scores.local.min() >= 0
    assert scores.local.max() <= 1


def test_labelled_anomalies_teach_and_those_without_a_mask_do_not() -> None:
    x, masks = planted(5, 0)
    label = np.array([0, 0, 0, 0, 1])

    def weights(mask: np.ndarray, given: np.ndarray = label) -> np.ndarray:
        detector = Draem(**TINY).fit(view(x, given, mask))
        return np.concatenate([a.ravel() for a in detector.state().arrays.values()])

    with_mask, without = weights(masks), weights(np.zeros_like(masks))
    assert not np.array_equal(with_mask, without)
    assert np.isfinite(without).all()


def test_the_repair_of_the_labelled_does_not_count() -> None:
    detector = Draem(**TINY)
    net = Networks(2, 2, 2)
    clean = torch.rand(2, 3, 16, 16)
    losses = detector._losses(net, clean, torch.cat([clean, torch.rand(3, 3, 16, 16)]), torch.zeros(5, 16, 16) > 0)
    assert losses["l2"].shape == ()
    losses["l2"].backward()
    assert net.repair.out.weight.grad is not None
    assert net.compare.out.weight.grad is None


@pytest.mark.parametrize("shrink", [1, 3])
def test_repeats_and_survives_its_state_bit_for_bit(shrink: int) -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    first = Draem(**TINY, shrink=shrink).fit(train)
    second = Draem(**TINY, shrink=shrink).fit(view(stripes(2, 9))).fit(train)
    loaded = Draem(**TINY, shrink=shrink).from_state(first.state())
    for other in (second, loaded):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    assert first.history_ == second.history_
    assert not np.array_equal(
        first.score(test).sample, Draem(**TINY, shrink=shrink, seed=1).fit(train).score(test).sample
    )
    with pytest.raises(ModelError, match="do not fit"):
        Draem(**{**TINY, "width": 3}).from_state(first.state())


def test_batch_size_does_not_matter() -> None:
    detector = Draem(**TINY).fit(view(stripes(4, 0)))
    test = view(planted(7, 1)[0])
    apart = np.concatenate([detector.score(b).sample for b in test.batches(1)])
    np.testing.assert_allclose(detector.score(whole(test)).sample, apart, rtol=1e-5)


def test_odd_sizes_work_and_too_small_ones_are_refused() -> None:
    x = stripes(3, 0)[:, :, :37, :29]
    scores = Draem(**TINY).fit(view(x)).score(whole(view(x)))
    assert scores.local.shape == (3, 37, 29)
    with pytest.raises(DataError, match=r"at least shrink \* 2\*\*\(depth \+ 1\) = 16 pixels .* got 48 x 12"):
        Draem(**TINY).fit(view(stripes(3, 0)[:, :, :, :12]))


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
