import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from pipeline.detectors.image.gaussian import Gaussian
from pipeline.errors import DataError, NotFittedError
from pipeline.parts import features
from pipeline.parts.features import Backbone
from pipeline.rules.conformal import Known
from pipeline.rules.gaussian import Gaussian as WorkingPoint
from tests.pictures import SIDE, planted, stripes, view, whole


def pooled(x: np.ndarray) -> list[np.ndarray]:
    return [m.double().mean(dim=(2, 3)).numpy() for m in features.load(Backbone()).maps(x)]


def shrunk(x: np.ndarray) -> np.ndarray:
    """Ledoit and Wolf (2004), written from the paper: (1 - s) S + s m I, s = b^2 / d^2 (lemma 3.2 to 3.4)."""
    n, p = x.shape
    x = x - x.mean(axis=0)
    sample = x.T @ x / n
    m = np.trace(sample) / p
    d2 = ((sample - m * np.eye(p)) ** 2).sum() / p
    b2 = sum(((np.outer(row, row) - sample) ** 2).sum() / p for row in x) / n**2
    s = min(b2, d2) / d2
    return (1 - s) * sample + s * m * np.eye(p)


def test_scores_agree_with_the_closed_form() -> None:
    train, (test, _) = stripes(30, 0), planted(4, 1)
    scores = Gaussian().fit(view(train)).score(whole(view(test)))
    expected = np.zeros(4)
    for level, queries in zip(pooled(train), pooled(test), strict=True):
        precision = np.linalg.inv(shrunk(level))
        expected += [mahalanobis(query, level.mean(axis=0), precision) for query in queries]
    np.testing.assert_allclose(scores.sample, expected, rtol=1e-4)
    assert scores.local is None  # as in the paper


@pytest.mark.parametrize("reduce", ["pca", "npca"])
def test_reduced_scores_agree_with_the_closed_form(reduce: str) -> None:
    train, (test, _) = stripes(30, 0), planted(4, 1)
    scores = Gaussian(reduce=reduce, variance=0.9).fit(view(train)).score(whole(view(test)))
    expected = np.zeros(4)
    for level, queries in zip(pooled(train), pooled(test), strict=True):
        mean = level.mean(axis=0)
        _, sizes, rows = np.linalg.svd(level - mean, full_matrices=True)
        held = np.cumsum(sizes**2) / (sizes**2).sum()
        count = int((held < 0.9).sum()) + 1
        axes = rows[:count] if reduce == "pca" else rows[count:]
        precision = np.linalg.inv(shrunk((level - mean) @ axes.T))
        expected += [mahalanobis(axes @ (q - mean), np.zeros(len(axes)), precision) for q in queries]
    np.testing.assert_allclose(scores.sample, expected, rtol=1e-3)


def test_a_planted_defect_ranks_first_and_its_map_peaks_there() -> None:
    x, mask = planted(8, 1)
    scores = Gaussian(maps=True).fit(view(stripes(20, 0))).score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    assert scores.local.dtype == np.float32
    assert scores.local.shape == (8, SIDE, SIDE)
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 14 <= row < 30
    assert 18 <= column < 34


@pytest.mark.parametrize("maps", [False, True])
def test_repeats_and_survives_its_state_bit_for_bit(maps: bool) -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    first = Gaussian(maps=maps).fit(train)
    second = Gaussian(maps=maps).fit(view(stripes(3, 9))).fit(train)
    loaded = Gaussian(maps=maps).from_state(first.state())
    for other in (second, loaded):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)


def test_batch_size_does_not_matter() -> None:
    detector = Gaussian().fit(view(stripes(12, 0)))
    test = view(planted(7, 1)[0])
    apart = np.concatenate([detector.score(b).sample for b in test.batches(1)])
    np.testing.assert_allclose(detector.score(whole(test)).sample, apart, rtol=1e-5)


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        Gaussian().score(batch)
    with pytest.raises(NotFittedError):
        Gaussian().state()
    with pytest.raises(DataError, match="at least 2 normal samples to have a spread, got 1"):
        Gaussian().fit(view(stripes(1, 0)))
    with pytest.raises(DataError, match="only copies of one image"):
        Gaussian().fit(view(np.repeat(stripes(1, 0), 3, axis=0)))
    with pytest.raises(DataError, match="48 high and 48 wide"):
        Gaussian().fit(view(stripes(3, 0))).score(whole(view(stripes(2, 0)[:, :, :40])))


def test_the_working_point_holds_where_features_are_gaussian() -> None:
    rng = np.random.default_rng(3)
    detector = Gaussian()
    detector.pooled_ = [detector._normal(rng.normal(5, 2, (4000, 12)))]
    (mean, whitening) = detector.pooled_[0]
    fresh = np.linalg.norm((rng.normal(5, 2, (4000, 12)) - mean) @ whitening, axis=1)
    for alpha in (0.5, 0.1, 0.01):
        found = WorkingPoint(alpha).find(Known(np.sort(fresh).astype("f4"), degrees=detector.degrees), "calibrate")
        share = (fresh > found.threshold).mean()
        assert share == pytest.approx(alpha, abs=4 * (alpha * (1 - alpha) / 4000) ** 0.5)


@pytest.mark.parametrize("maps", [False, True])
def test_only_the_region_is_learned_and_scored(maps: bool) -> None:
    region = np.ones((8, SIDE, SIDE), bool)
    region[:, :, SIDE // 2 :] = False
    x, spoiled = stripes(8, 0), stripes(8, 0)
    spoiled[:, :, :, SIDE // 2 + 8 :] = 255  # beyond the reach of the finest filters
    plain, other = (Gaussian(Backbone(levels=[0]), maps=maps).fit(view(a, region=region)) for a in (x, spoiled))
    test = whole(view(stripes(8, 1), region=region))
    np.testing.assert_allclose(plain.score(test).sample, other.score(test).sample, rtol=1e-5)
    if maps:
        one, two = (detector.score(test).local[:, :, : SIDE // 2 - 4] for detector in (plain, other))
        np.testing.assert_allclose(one, two, rtol=1e-4)
