"""Metrics against hand-made cases, scikit-learn and brute force."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn import metrics as reference

from pipeline import metrics

SEEDS = range(6)


def case(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores; odd seeds give scores with many ties."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(np.int8)
    scores = (rng.normal(size=n) + label).astype(np.float32)
    return label, np.round(scores).astype(np.float32) if seed % 2 else scores


def test_by_hand() -> None:
    label, scores = np.array([0, 0, 1, 1]), np.float32([1, 3, 3, 4])
    assert metrics.auroc(label, scores) == (1 + 0.5 + 1 + 1) / 4
    assert metrics.average_precision(label, scores) == 0.5 * 1 + 0.5 * (2 / 3)
    assert metrics.f1_max(label, scores) == 2 * 2 / (2 * 2 + 1 + 0)  # at threshold 3: tp 2, fp 1, fn 0
    roc = metrics.roc_curve(label, scores)
    assert roc.x.tolist() == [0, 0, 0.5, 1]
    assert roc.y.tolist() == [0, 0.5, 1, 1]
    assert roc.threshold.tolist() == [np.inf, 4, 3, 1]
    pr = metrics.pr_curve(label, scores)
    assert pr.x.tolist() == [0.5, 1, 1]
    assert pr.y.tolist() == [1, 2 / 3, 0.5]


@pytest.mark.parametrize("seed", SEEDS)
def test_sample_metrics_equal_scikit_learn(seed: int) -> None:
    label, scores = case(seed)
    assert metrics.auroc(label, scores) == pytest.approx(reference.roc_auc_score(label, scores), abs=1e-12)
    expected = reference.average_precision_score(label, scores)
    assert metrics.average_precision(label, scores) == pytest.approx(expected, abs=1e-12)
    best = max(reference.f1_score(label, scores >= t) for t in np.unique(scores))
    assert metrics.f1_max(label, scores) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_curves_equal_scikit_learn(seed: int) -> None:
    label, scores = case(seed)
    x, y, threshold = reference.roc_curve(label, scores, drop_intermediate=False)
    found = metrics.roc_curve(label, scores)
    np.testing.assert_allclose(found.x, x, atol=1e-12)
    np.testing.assert_allclose(found.y, y, atol=1e-12)
    np.testing.assert_array_equal(found.threshold, threshold)
    precision, recall, threshold = reference.precision_recall_curve(label, scores)
    found = metrics.pr_curve(label, scores)
    np.testing.assert_allclose(found.y[::-1], precision[:-1], atol=1e-12)
    np.testing.assert_allclose(found.x[::-1], recall[:-1], atol=1e-12)
    np.testing.assert_array_equal(found.threshold[::-1], threshold)


def test_raw_scores_need_no_range() -> None:
    """Scores far outside [0, 1] or a few float32 steps apart keep their ranking."""
    label, scores = case(0)
    exact = metrics.auroc(label, scores)
    assert metrics.auroc(label, (scores * 1e6 + 1e3).astype(np.float32)) == pytest.approx(exact, abs=1e-3)
    assert metrics.auroc(np.array([0, 1]), np.float32([1, np.nextafter(np.float32(1), np.float32(2))])) == 1.0


def test_metrics_leave_their_input_as_it_was() -> None:
    truth, local = maps(0)
    label, scores = case(0)
    before = local.copy(), scores.copy()
    metrics.pixel_auroc(truth, local)
    metrics.aupro(truth, local)
    metrics.auroc(label, scores)
    np.testing.assert_array_equal(local, before[0])
    np.testing.assert_array_equal(scores, before[1])


@pytest.mark.parametrize("value", [0, 1])
def test_what_one_class_does_not_define_is_none(value: int) -> None:
    label, scores = np.full(5, value), np.arange(5, dtype=np.float32)
    assert metrics.auroc(label, scores) is None
    assert metrics.roc_curve(label, scores) is None
    if value == 0:
        assert metrics.average_precision(label, scores) is None
        assert metrics.f1_max(label, scores) is None
        assert metrics.pr_curve(label, scores) is None
    truth, local = np.full((2, 4, 4), bool(value)), np.zeros((2, 4, 4), np.float32)
    assert metrics.pixel_auroc(truth, local) is None
    assert metrics.aupro(truth, local) is None


def maps(seed: int, n: int = 4, side: int = 18) -> tuple[np.ndarray, np.ndarray]:
    """Masks with regions of many sizes, some touching only at corners; odd seeds give scores with ties."""
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.normal(size=(n, side, side)), (0, 1.5, 1.5)) > 0.22
    truth[0] = False
    truth[1, :2, :2] = [[True, False], [False, True]]
    local = rng.normal(size=truth.shape) + 1.2 * truth
    return truth, np.round(local, 1).astype(np.float32) if seed % 2 else local.astype(np.float32)


def brute_aupro(truth: np.ndarray, local: np.ndarray, limit: float) -> float:
    """By the definition: every distinct score as a threshold, every region's overlap, trapezoids up to the limit."""
    regions = []
    for i, one in enumerate(truth):
        numbered, count = ndimage.label(one, np.ones((3, 3)))
        regions += [(i, numbered == k) for k in range(1, count + 1)]
    rate, overlap = [0.0], [0.0]
    for threshold in np.unique(local)[::-1]:
        above = local >= threshold
        rate.append(float(above[~truth].mean()))
        overlap.append(float(np.mean([above[i][region].mean() for i, region in regions])))
    end = np.interp(limit, rate, overlap)  # rates rise strictly wherever a normal pixel is passed
    inside = [(x, y) for x, y in zip(rate, overlap, strict=True) if x < limit]
    x, y = zip(*inside, (limit, end), strict=True)
    return float(np.trapezoid(y, x) / limit)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_aupro_equals_brute_force(seed: int, limit: float) -> None:
    truth, local = maps(seed)
    assert metrics.aupro(truth, local, limit) == pytest.approx(brute_aupro(truth, local, limit), abs=1e-9)


@pytest.mark.parametrize("limit", [0.3, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_aupro_is_the_area_under_the_pro_curve(seed: int, limit: float) -> None:
    truth, local = maps(seed)
    curve = metrics.pro_curve(truth, local, limit, points=10**6)
    area = np.trapezoid(curve.y, curve.x) / limit
    assert area == pytest.approx(metrics.aupro(truth, local, limit), abs=3e-3)
    coarse = metrics.pro_curve(truth, local, limit, points=20)
    assert len(coarse.x) <= 22
    np.testing.assert_allclose(coarse.y[:-1], curve.y[np.searchsorted(-curve.threshold, -coarse.threshold)][:-1])
    assert (coarse.x[-1], coarse.y[-1]) == pytest.approx((limit, curve.y[-1]), abs=1e-3)


def test_a_tie_beyond_the_limit_is_cut_there() -> None:
    truth, local = np.zeros((1, 2, 5), np.int8), np.zeros((1, 2, 5), np.float32)
    truth[0, 0, 0] = 1
    curve = metrics.pro_curve(truth, local)
    assert (curve.x[-1], curve.y[-1]) == (0.3, pytest.approx(0.3))
    assert metrics.pro_curve(np.zeros((1, 2, 2), np.int8), local[:, :2, :2]) is None


def test_aupro_by_hand() -> None:
    """Two regions of sizes 1 and 3 and ten normal pixels: each region counts alike, whatever its size."""
    truth = np.zeros((1, 2, 7), bool)
    truth[0, 0, 0] = truth[0, 0, 4:7] = True
    local = np.zeros((1, 2, 7), np.float32)
    local[truth] = [9, 9, 9, 7]  # the small region and two thirds of the large one are found first
    local[~truth] = [8, *range(-9, 0)]  # one false alarm (a rate of 0.1) stands before the last third
    first, then = (1 + 2 / 3) / 2, 1.0
    assert metrics.aupro(truth, local, limit=0.3) == pytest.approx((0.1 * first + 0.2 * then) / 0.3)
    assert metrics.aupro(truth, local, limit=0.1) == pytest.approx(first)


def test_regions_that_touch_at_a_corner_are_one() -> None:
    truth = np.zeros((1, 3, 4), bool)
    truth[0, 0, 0] = truth[0, 1, 1] = truth[0, 0, 3] = True
    local = np.where(truth, 0, 1).astype(np.float32)
    local[0, 0, 3] = 2  # the lone pixel is found at once: one of two regions
    assert metrics.aupro(truth, local, limit=0.3) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_pixel_auroc_equals_scikit_learn(seed: int) -> None:
    truth, local = maps(seed)
    expected = reference.roc_auc_score(truth.ravel(), local.ravel())
    assert metrics.pixel_auroc(truth, local) == pytest.approx(expected, abs=1e-12)


def test_series_have_local_metrics_too() -> None:
    truth = np.array([[0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]], bool)
    local = np.where(truth, 2, 1).astype(np.float32)
    assert metrics.aupro(truth, local) == 1.0
    local[1, 4] = 0  # one of two segments lost
    assert metrics.aupro(truth, local) == pytest.approx(0.5)


def test_decisions_counted_by_hand() -> None:
    label = np.array([0, 0, 0, 0, 1, 1, 1])
    scores = np.float32([1, 2, 3, 5, 3, 4, 9])
    found = metrics.decision_metrics(label, scores, 3.0)  # strictly above: a score of 3 raises no alarm
    assert (found["n_normal"], found["n_anomalous"], found["false_alarms"], found["escapes"]) == (4, 3, 1, 1)
    assert found["false_alarm_rate"] == 0.25
    assert found["detection_rate"] == pytest.approx(2 / 3)
    # 1 of 4: the published exact 95 % interval is 0.0063 to 0.8059
    assert found["false_alarm_rate_low"] == pytest.approx(1 - 0.975 ** (1 / 4))
    assert found["false_alarm_rate_high"] == pytest.approx(0.8059, abs=5e-5)


@pytest.mark.parametrize(("alarms", "low", "high"), [(0, 0.0, 1 - 0.025 ** (1 / 20)), (20, 0.025 ** (1 / 20), 1.0)])
def test_the_interval_at_its_ends(alarms: int, low: float, high: float) -> None:
    found = metrics.decision_metrics(np.zeros(20), np.arange(20) >= 20 - alarms, 0.5)
    assert found["false_alarm_rate_low"] == pytest.approx(low)
    assert found["false_alarm_rate_high"] == pytest.approx(high)
    assert "detection_rate" not in found


def test_rates_without_normals_are_left_out() -> None:
    found = metrics.decision_metrics(np.ones(3), np.float32([1, 2, 3]), 1.5)
    assert found == {"n_normal": 0, "n_anomalous": 3, "false_alarms": 0, "escapes": 1, "detection_rate": 2 / 3}


def test_per_defect() -> None:
    label = np.array([0, 0, 1, 1, 1, 1, -1])
    defect = np.array(["", None, "scratch", "scratch", "dent", "", "dent"], object)
    scores = np.float32([1, 3, 2, 4, 5, 9, 0])
    assert metrics.per_defect(defect, label, scores, 2.0) == {
        "dent": {"auroc": 1.0, "detection_rate": 1.0},
        "scratch": {"auroc": 0.75, "detection_rate": 0.5},
    }
    assert metrics.per_defect(defect[2:], label[2:], scores[2:], 2.0)["scratch"] == {"detection_rate": 0.5}


def test_severity_by_hand_and_against_scipy() -> None:
    from scipy.stats import kendalltau

    label = np.array([0, 0, 1, 1, 1, 1, -1])
    severity = np.array([np.nan, 3, 1, 1, 2, np.nan, 2])
    scores = np.float32([0.1, 0.2, 0.15, 0.4, 0.4, 9, 9])
    found = metrics.by_severity(label, severity, scores)
    # of 8 pairs of different levels: 0-1: 3 of 4 in order, 0-2: 2 of 2, 1-2: one and a tie of 2
    assert found["concordance"] == pytest.approx((3 + 2 + 1.5) / 8)
    assert found["kendall"] == pytest.approx(kendalltau([0, 0, 1, 1, 2], scores[:5]).statistic)
    assert (found["1.auroc"], found["2.auroc"]) == (0.75, 1.0)
    means = [found[f"{level}.mean"] for level in (0, 1, 2)]
    assert means == pytest.approx([0.15, 0.275, 0.4])
    rng = np.random.default_rng(0)
    label, severity = rng.integers(0, 2, 200), rng.integers(1, 5, 200).astype(float)
    scores = (label * severity + rng.integers(-2, 3, 200)).astype(np.float32)
    tau = kendalltau(np.where(label == 0, 0, severity), scores).statistic
    assert metrics.by_severity(label, severity, scores)["kendall"] == pytest.approx(tau)


def test_severity_without_levels_is_nothing_and_one_level_has_its_auroc() -> None:
    nothing = np.full(4, np.nan)
    assert metrics.by_severity(np.array([0, 0, 1, 1]), nothing, np.float32([1, 2, 3, 4])) == {}
    alone = metrics.by_severity(np.array([1, 1]), np.array([2.0, 2.0]), np.float32([3, 3]))
    assert alone == {"2.auroc": None, "2.mean": 3.0}
    flat = metrics.by_severity(np.array([0, 1]), np.array([0.0, 1.0]), np.float32([3, 3]))
    assert (flat["concordance"], flat["kendall"]) == (0.5, None)
