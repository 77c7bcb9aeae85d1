from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from pipeline.detectors.image.padim import Padim, Sums
from pipeline.errors import DataError, NotFittedError
from pipeline.parts import features
from pipeline.parts.features import Backbone
from tests.pictures import SIDE, planted, stripes, view, whole

EDGE = SIDE // 4  # positions along a side


def merged(x: np.ndarray) -> np.ndarray:
    """All channels of the filter bank at every position, float64 (n, p, c)."""
    return features.merge(features.load(Backbone()).maps(x)).double().flatten(2).permute(0, 2, 1).numpy()


def outside(n: int, columns: int) -> np.ndarray:
    """Regions in which the first columns of positions do not count."""
    region = np.ones((n, SIDE, SIDE), bool)
    region[:, :, : 4 * columns] = False
    return region


@pytest.mark.parametrize("dims", [100, 9])
def test_scores_agree_with_brute_force(dims: int) -> None:
    train, (test, _) = stripes(40, 0), planted(3, 1)  # more images than are looked at together
    region = np.ones((40, SIDE, SIDE), bool)
    region[0, :24], region[5:9, 8:] = False, False
    region[1:, :8, :4] = False  # two positions count in one image or none: they take the pooled Gaussian
    region[0, :4, :4] = True
    detector = Padim(dims=dims, smooth=0.0).fit(view(train, region=region))
    chosen = detector.chosen_
    assert len(set(chosen)) == len(chosen) == min(dims, 64)
    counts = region.reshape(40, EDGE, 4, EDGE, 4).mean(axis=(2, 4)).reshape(40, -1) >= 0.5
    x, query = merged(train)[:, :, chosen], merged(test)[:, :, chosen]
    everything = x[counts]
    distance = np.zeros((3, EDGE**2))
    for p in range(EDGE**2):
        some = x[counts[:, p], p] if counts[:, p].sum() >= 2 else everything
        covariance = np.cov(some, rowvar=False) + 0.01 * np.eye(len(chosen))  # equation 1
        inverse = np.linalg.inv(covariance)
        for i in range(3):
            distance[i, p] = mahalanobis(query[i, p], some.mean(axis=0), inverse)  # equation 2
    assert sorted(counts.sum(axis=0))[:2] == [0, 1]
    scores = detector.score(whole(view(test)))
    np.testing.assert_allclose(scores.sample, distance.max(axis=1), rtol=1e-3)
    small = torch.from_numpy(distance).view(3, 1, EDGE, EDGE)
    large = torch.nn.functional.interpolate(small, (SIDE, SIDE), mode="bilinear")[:, 0].numpy()
    np.testing.assert_allclose(scores.local, large, rtol=1e-3)


def test_large_features_lose_nothing_and_equal_ones_are_borne() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(1000, 5, (64, 3, 1, 1)).astype(np.float32)
    x[:, 2] = 7.0  # a channel without spread
    sums = Sums(torch.from_numpy(x[:16]))
    for start in range(0, 64, 16):
        sums.add(torch.from_numpy(x[start : start + 16]), torch.ones(16, 1, 1, dtype=torch.bool))
    mean, whitening = sums.gaussians(0.01)
    covariance = np.cov(x[:, :, 0, 0].astype(np.float64), rowvar=False) + 0.01 * np.eye(3)
    np.testing.assert_allclose(mean[0], x.mean(axis=(0, 2, 3), dtype=np.float64), rtol=1e-6)
    precision = (whitening.mT @ whitening)[0].double().numpy()
    np.testing.assert_allclose(precision @ covariance, np.eye(3), atol=1e-3)


def test_a_planted_defect_ranks_first_and_its_map_peaks_there() -> None:
    x, mask = planted(8, 1)
    scores = Padim().fit(view(stripes(24, 0))).score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    assert scores.sample[7] > 1.5 * scores.sample[:7].max()
    assert mask[7][np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))]
    assert scores.local.dtype == np.float32


def test_what_does_not_count_is_not_seen() -> None:
    near = Padim(backbone=Backbone(levels=[0]))  # a narrow look, so that an edge is soon out of sight
    train, region = stripes(12, 0), outside(12, 4)
    other = train.copy()
    other[:, :, :, :4] = np.random.default_rng(1).integers(0, 256, (12, 3, SIDE, 4))
    first = near.fit(view(train, region=region))
    second = Padim(backbone=Backbone(levels=[0])).fit(view(other, region=region))
    batch = whole(view(stripes(3, 2), region=region[:3]))
    np.testing.assert_allclose(first.score(batch).sample, second.score(batch).sample, rtol=1e-5)
    spoiled = batch.x.copy()
    spoiled[:, :, 16:28, :4] = 255
    np.testing.assert_allclose(first.score(batch).sample, first.score(replace(batch, x=spoiled)).sample, rtol=1e-5)
    seen = first.score(replace(batch, x=spoiled, region=None)).sample
    assert (seen > 1.5 * first.score(batch).sample).all()


def test_anomalies_in_training_change_nothing() -> None:
    x, mask = planted(5, 0)
    with_one = Padim().fit(view(x, np.array([0, 0, 0, 0, 1]), mask))
    assert torch.equal(with_one.whitening_, Padim().fit(view(x[:4])).whitening_)


def test_repeats_and_survives_its_state_bit_for_bit() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    first = Padim(dims=10).fit(train)
    second = Padim(dims=10).fit(view(stripes(2, 9))).fit(train)
    state = first.state()
    assert state.arrays["whitening"].shape == (EDGE**2, 55)  # nothing above the diagonals
    for other in (second, Padim(dims=10).from_state(state)):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    assert not np.array_equal(first.chosen_, Padim(dims=10, seed=1).fit(train).chosen_)


def test_a_single_dimension_and_batch_size() -> None:
    test = view(planted(7, 1)[0])
    for dims in (1, 64):
        detector = Padim(dims=dims).fit(view(stripes(6, 0)))
        apart = np.concatenate([detector.score(b).sample for b in test.batches(1)])
        np.testing.assert_allclose(detector.score(whole(test)).sample, apart, rtol=1e-4)


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        Padim().score(batch)
    with pytest.raises(NotFittedError):
        Padim().state()
    with pytest.raises(DataError, match=r"at least 2 normal images .* got 1"):
        Padim().fit(view(stripes(1, 0)))
    says = r"12 x 12 positions in 64 dims need 2 MB, more than memory = 1 .* 41 dims, or images of about 31 x 31 pixels"
    with pytest.raises(DataError, match=says):
        Padim(memory=1).fit(view(stripes(3, 0)))
    Padim(memory=1, dims=41).fit(view(stripes(3, 0)))
    detector = Padim().fit(view(stripes(2, 0)))
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        detector.score(replace(batch, x=batch.x[:, :, 1:]))
