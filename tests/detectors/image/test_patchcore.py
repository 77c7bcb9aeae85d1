from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from pipeline.detectors.image.patchcore import PatchCore
from pipeline.errors import DataError, NotFittedError
from pipeline.parts import features
from pipeline.parts.features import Backbone
from tests.pictures import SIDE, planted, stripes, view, whole

EVERYTHING = {"coreset": 1.0}


def patches(x: np.ndarray) -> np.ndarray:
    """Merged 3 x 3 means of the filter bank, float64 (n, p, c), written apart from the detector."""
    maps = [m.double() for m in features.load(Backbone()).maps(x)]
    out = []
    for m in maps:
        padded = np.pad(m.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        out.append(torch.from_numpy(np.mean(windows, axis=(4, 5))))
    size = out[0].shape[2:]
    merged = [torch.nn.functional.interpolate(m, size, mode="bilinear") for m in out]
    return torch.cat(merged, dim=1).flatten(2).permute(0, 2, 1).numpy()


@pytest.mark.parametrize("neighbours", [1, 5])
def test_scores_agree_with_brute_force(neighbours: int) -> None:
    train, (test, _) = stripes(4, 0), planted(3, 1)
    scores = PatchCore(**EVERYTHING, neighbours=neighbours, smooth=1 / 24).fit(view(train)).score(whole(view(test)))
    bank, query = patches(train).reshape(-1, 64), patches(test)
    for i in range(3):
        distance = cdist(query[i], bank)
        worst = distance.min(axis=1).argmax()
        expected = distance.min(axis=1).max()  # equation 6
        if neighbours > 1:  # equation 7
            star = distance[worst].argmin()
            around = np.argsort(np.linalg.norm(bank - bank[star], axis=1), kind="stable")[:neighbours]
            expected *= 1 - np.exp(distance[worst, star]) / np.exp(distance[worst, around]).sum()
        assert scores.sample[i] == pytest.approx(expected, rel=1e-4)
        small = torch.from_numpy(distance.min(axis=1)).view(1, 1, SIDE // 4, SIDE // 4)
        large = torch.nn.functional.interpolate(small, (SIDE, SIDE), mode="bilinear")[0, 0].numpy()
        # scipy's "mirror" is torch's "reflect"; sigma is 48 / 24 = 2 pixels, cut at 3 sigmas
        smooth = gaussian_filter(large, 2.0, mode="mirror", truncate=3.0)
        np.testing.assert_allclose(scores.local[i], smooth, rtol=1e-3, atol=1e-5)


def test_whitened_distances_are_mahalanobis_distances() -> None:
    train, (test, _) = stripes(4, 0), planted(3, 1)
    detector = PatchCore(**EVERYTHING, neighbours=1, whiten=0.1).fit(view(train))
    bank, query = patches(train).reshape(-1, 64), patches(test)
    covariance = np.cov(bank.T, bias=True)
    raised = covariance + 0.1 * np.trace(covariance) / 64 * np.eye(64)
    inverse = np.linalg.inv(raised)
    expected = [cdist(one, bank, "mahalanobis", VI=inverse).min(axis=1).max() for one in query]
    np.testing.assert_allclose(detector.score(whole(view(test))).sample, expected, rtol=1e-3)
    region = np.zeros((1, SIDE, SIDE), bool)
    region[:, 8:12, 8:12] = True  # a single patch
    with pytest.raises(DataError, match="whiten needs patches that differ"):
        PatchCore(Backbone(levels=[0]), whiten=0.1).fit(view(train[:1], region=region))


def test_spacing_divides_by_how_far_the_nearest_bank_patch_lies_from_its_neighbours() -> None:
    train, (test, _) = stripes(4, 0), planted(3, 1)
    detector = PatchCore(**EVERYTHING, neighbours=1, spacing=5, smooth=0.0).fit(view(train))
    bank, query = patches(train).reshape(-1, 64), patches(test)
    among = np.sort(cdist(bank, bank), axis=1)[:, 1:6].mean(axis=1)
    found = detector.score(whole(view(test)))
    for i in range(3):
        distance = cdist(query[i], bank)
        ratio = distance.min(axis=1) / among[distance.argmin(axis=1)]
        assert found.sample[i] == pytest.approx(ratio.max(), rel=1e-3)
    one = PatchCore(coreset=1e-6, spacing=5).fit(view(train))  # a bank of a single patch has no spacing
    assert np.isfinite(one.score(whole(view(test))).sample).all()


def test_whitening_and_spacing_survive_saving_bit_for_bit() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    detector = PatchCore(whiten=0.5, spacing=3, coreset=0.2).fit(train)
    again = PatchCore(whiten=0.5, spacing=3, coreset=0.2).from_state(detector.state())
    np.testing.assert_array_equal(again.score(test).sample, detector.score(test).sample)
    np.testing.assert_array_equal(again.score(test).local, detector.score(test).local)


def test_a_training_image_is_at_distance_zero_from_a_full_bank() -> None:
    train = stripes(3, 0)
    scores = PatchCore(**EVERYTHING).fit(view(train)).score(whole(view(train)))
    np.testing.assert_allclose(scores.sample, 0, atol=1e-5)


def test_a_budget_bounds_the_bank_and_must_hold_one_image(caplog: pytest.LogCaptureFixture) -> None:
    train = view(stripes(40, 0))
    detector = PatchCore(coreset=0.5, memory=1).fit(train)  # 1 MB holds 1953 patches of 64 numbers, twice
    assert len(detector.bank_) == 1953 // 3
    assert "the coreset keeps 651" in caplog.text
    large = np.repeat(np.repeat(stripes(1, 0), 10, axis=2), 10, axis=3)
    with pytest.raises(DataError, match="memory must hold the patches of one image, 120 x 120 of 64 numbers: at least"):
        PatchCore(memory=1).fit(view(large))


def test_only_the_region_is_learned_and_scored() -> None:
    region = np.ones((8, SIDE, SIDE), bool)
    region[:, :, SIDE // 2 :] = False
    train = stripes(6, 0)
    odd = train.copy()
    odd[:, :, :, SIDE // 2 + 8 :] = 255  # beyond the reach of the filters
    detector = PatchCore(Backbone(levels=[0]), coreset=0.2).fit(view(odd, region=region[:6]))
    assert len(detector.bank_) == round(0.2 * 6 * 72)
    x, mask = planted(8, 1)
    plain = detector.score(whole(view(x, mask=mask, region=region)))
    spoiled = x.copy()
    spoiled[:, :, :, SIDE - 12 :] = 0
    other = detector.score(whole(view(spoiled, mask=mask, region=region)))
    np.testing.assert_allclose(other.sample, plain.sample, rtol=1e-5)
    assert other.sample.argmax() == 7
    assert other.local[7].argmax() % SIDE < SIDE // 2 + 8


def test_a_planted_defect_ranks_first_and_its_map_peaks_there() -> None:
    x, mask = planted(8, 1)
    scores = PatchCore(coreset=0.1).fit(view(stripes(12, 0))).score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    assert scores.sample[7] > 1.5 * scores.sample[:7].max()
    assert mask[7][np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))]


def test_pool_and_coreset_have_the_size_asked_for_and_come_from_the_images() -> None:
    detector = PatchCore(coreset=0.05).fit(view(stripes(7, 0)))
    assert detector.bank_.shape == (round(0.05 * 7 * 144), 64)  # maps of 12 x 12
    everything = patches(stripes(7, 0)).reshape(-1, 64)
    assert cdist(detector.bank_.numpy(), everything).min(axis=1).max() < 1e-4


def test_anomalies_in_training_change_nothing() -> None:
    x, mask = planted(5, 0)
    with_one = PatchCore(coreset=0.1).fit(view(x, np.array([0, 0, 0, 0, 1]), mask))
    without = PatchCore(coreset=0.1).fit(view(x[:4]))
    assert torch.equal(with_one.bank_, without.bank_)
    with pytest.raises(DataError, match="at least one normal"):
        PatchCore(coreset=0.1).fit(view(x, np.ones(5)))


def test_repeats_and_survives_its_state_bit_for_bit() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    first = PatchCore(coreset=0.2).fit(train)
    second = PatchCore(coreset=0.2).fit(view(stripes(2, 9))).fit(train)
    loaded = PatchCore(coreset=0.2).from_state(first.state())
    for other in (second, loaded):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    assert not torch.equal(first.bank_, PatchCore(coreset=0.2, seed=1).fit(train).bank_)


def test_batch_size_does_not_matter() -> None:
    detector = PatchCore(coreset=0.1).fit(view(stripes(6, 0)))
    test = view(planted(7, 1)[0])
    together = detector.score(whole(test))
    np.testing.assert_allclose(
        together.sample, np.concatenate([detector.score(b).sample for b in test.batches(1)]), rtol=1e-5
    )


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        PatchCore(coreset=0.1).score(batch)
    with pytest.raises(NotFittedError):
        PatchCore(coreset=0.1).state()
    detector = PatchCore(coreset=0.1).fit(view(stripes(1, 0)))  # one image will do
    assert np.isfinite(detector.score(batch).sample).all()
    for spoiled, says in (
        (batch.x[:, :, 1:], r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"),
        (batch.x.astype(np.float32), r"uint8 from 0 to 255, got float32"),
        (batch.x[:, 0], r"shape \(n, 3, h, w\), got \(2, 48, 48\)"),
        (batch.x.tolist(), r"numpy array of shape \(n, 3, h, w\), got list"),
    ):
        with pytest.raises(DataError, match=says):
            detector.score(replace(batch, x=spoiled))


def test_the_map_s_largest_value_as_the_score() -> None:
    region = np.ones((3, SIDE, SIDE), bool)
    region[:, :, :10] = False
    test = whole(view(stripes(3, 1), region=region))
    plain = PatchCore(smooth=0.1).fit(view(stripes(4, 0)))
    by_map = PatchCore(smooth=0.1, image_score="map").fit(view(stripes(4, 0))).score(test)
    np.testing.assert_array_equal(by_map.local, plain.score(test).local)
    np.testing.assert_allclose(by_map.sample, np.where(region, by_map.local, 0).max(axis=(1, 2)))
    assert not np.allclose(by_map.sample, plain.score(test).sample, rtol=0.01)
