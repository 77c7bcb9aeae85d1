from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.detectors.image.realnet_classifier import RealnetClassifier, proportioned
from pipeline.errors import DataError, NotFittedError, ParamsError
from pipeline.group_metrics import by_group
from pipeline.parts import features
from pipeline.parts.distillation import SmallViT, Teacher, distilled
from pipeline.parts.features import Backbone
from pipeline.protocols import Samples
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 3, "batch": 6, "width": 4, "depth": 1, "hidden": 8}
SMALL = {"steps": 25, "batch": 8, "width": 4, "depth": 1, "rate": 3e-3, "teacher_rate": 1e-2, "grid": 4}
VIT = Backbone("test_vit", levels=[0])


def squares(good: int, bad: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stripes, the last `bad` of them with a bright square somewhere; and their labels."""
    x, rng = stripes(good + bad, seed), np.random.default_rng(seed)
    for image in x[good:]:
        top, left = rng.integers(4, SIDE - 16, 2)
        image[:, top : top + 12, left : left + 12] = 240
    return x, np.repeat([0, 1], [good, bad])


def some(good: int = 14, bad: int = 6, seed: int = 0) -> Samples:
    return view(*squares(good, bad, seed))


def test_distillation_by_hand() -> None:
    student, teacher = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 1.0])

    def divergence(mine: float, its: float, t: float) -> float:
        p, q = 1 / (1 + np.exp(-its / t)), 1 / (1 + np.exp(-mine / t))
        return t**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))

    for t in (1.0, 4.0):
        expected = (divergence(0.5, 2.0, t) + divergence(-1.0, 1.0, t)) / 2
        assert distilled(student, teacher, t, "soft").item() == pytest.approx(expected, rel=1e-5)
    assert distilled(teacher, teacher, 3.0, "soft").item() == pytest.approx(0, abs=1e-7)
    hard = (np.log(1 + np.exp(-0.5)) + np.log(1 + np.exp(1.0))) / 2  # the teacher says 1 both times
    assert distilled(student, teacher, 3.0, "hard").item() == pytest.approx(hard, rel=1e-6)


def test_nine_normals_are_drawn_per_anomaly() -> None:
    odd = np.repeat([False, True], [30, 4])
    steps = list(proportioned(odd, 20, 9.0, 30, np.random.default_rng(0)))
    assert [odd[at].sum() for at in steps] == [2] * 30
    counts = np.bincount(np.concatenate(steps), minlength=34)
    assert set(counts[odd]) == {15}
    assert set(counts[~odd]) == {18}
    (even,) = proportioned(odd, 6, 1.0, 1, np.random.default_rng(0))
    assert odd[even].sum() == 3
    (rare,) = proportioned(odd, 4, 1000.0, 1, np.random.default_rng(0))
    assert odd[rare].sum() == 1


def test_classes_weigh_the_same_however_rare() -> None:
    logit, label = torch.tensor([0.0, 0.0, 0.0, 2.0]), torch.tensor([0, 0, 0, 1])
    rare, common = np.log(1 + np.exp(-2.0)), np.log(2)
    assert RealnetClassifier(gamma=0)._classified(logit, label).item() == pytest.approx((rare + common) / 2, rel=1e-6)
    plain = RealnetClassifier(gamma=0, weighted=False)._classified(logit, label).item()
    assert plain == pytest.approx((rare + 3 * common) / 4, rel=1e-6)


def test_teacher_and_student_look_at_what_counts() -> None:
    torch.manual_seed(0)
    maps, inside = [torch.randn(2, 5, 8, 8)], [torch.ones(2, 8, 8, dtype=torch.bool)]
    inside[0][:, :4] = False
    other = [maps[0].clone()]
    other[0][:, :, :4] += 3
    everywhere = [torch.ones(2, 8, 8, dtype=torch.bool)]
    for net in (Teacher([5], 6).eval(), SmallViT([5], (4, 4), 4, 1).eval()):
        torch.testing.assert_close(net(maps, inside), net(other, inside))
        assert not torch.allclose(net(maps, everywhere), net(other, everywhere))


@pytest.mark.parametrize(
    "options",
    [{}, {"stem": "pixels"}, {"judge": "teacher"}, {"distillation": 0.0}],
    ids=["maps", "pixels", "teacher", "alone"],
)
def test_anomalies_are_told_and_the_loss_falls(options: dict) -> None:
    before = torch.get_rng_state()
    detector = RealnetClassifier(**SMALL | options).fit(some())
    assert torch.equal(torch.get_rng_state(), before)
    name = "teacher" if options.get("judge") else "label"
    losses = [row[name] for row in detector.history_ if name in row]
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    assert any("distilled" in row for row in detector.history_) == (not {"judge", "distillation"} & set(options))
    x, label = squares(8, 4, 7)
    scores = detector.score(whole(view(x)))
    assert scores.sample[label == 1].min() > scores.sample[label == 0].max()
    assert scores.local is None


def test_the_student_takes_after_its_teacher() -> None:
    """One that has learned nothing and by chance ranks anomalies last: so does its student, whatever the labels are."""
    batch, idle = whole(some(4, 4, 3)), SMALL | {"teacher_rate": 1e-9}
    teacher, taught, alone = (
        RealnetClassifier(**idle | more).fit(some()).score(batch).sample
        for more in ({"judge": "teacher"}, {"distillation": 1.0}, {"distillation": 0.0})
    )
    assert teacher[4:].max() < teacher[:4].min()
    assert np.corrcoef(taught, teacher)[0, 1] > 0.9
    assert np.corrcoef(alone, teacher)[0, 1] < -0.9


def test_groups_are_judged_from_their_samples() -> None:
    detector = RealnetClassifier(**SMALL).fit(some())
    normal = detector.score(whole(view(stripes(30, 5)))).sample
    x, label = squares(9, 3, 8)
    scores = detector.score(whole(view(x))).sample
    p = (1 + (normal[None] >= scores[:, None]).sum(axis=1)) / (len(normal) + 1)
    group = np.array([f"patient {i}" for i in (0, 0, 0, 1, 1, 1, 2, 3, 2, 2, 3, 3)])
    found = by_group(group, label, p, np.full(12, 0.1))
    assert (found["n_normal"], found["n_anomalous"]) == (2, 2)
    assert found["auroc"] == found["sensitivity"] == 1.0


def test_repeats_survives_its_state_and_does_not_care_about_batches() -> None:
    train, test = some(), view(planted(3, 1)[0])
    first, second = RealnetClassifier(**TINY).fit(train), RealnetClassifier(**TINY).fit(some(4, 2, 9)).fit(train)
    expected = first.score(whole(test)).sample
    for other in (second, RealnetClassifier(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(expected, other.score(whole(test)).sample)
    assert first.history_ == second.history_
    apart = np.concatenate([first.score(batch).sample for batch in test.batches(1)])
    np.testing.assert_allclose(expected, apart, rtol=1e-4, atol=1e-5)
    assert first.embed(whole(test)).shape == (3, 64)


def test_a_vision_transformer_of_timm_is_the_student() -> None:
    train = some(8, 3)
    detector = RealnetClassifier(**TINY, student=VIT).fit(train)
    loaded, tuned = features.load(VIT).net.state_dict(), detector.net_.net.state_dict()
    assert loaded.keys() == tuned.keys()
    assert all((tuned[name] - loaded[name]).abs().max() > 1e-4 for name in loaded if name.endswith("weight"))
    batch = whole(train)
    again = RealnetClassifier(**TINY, student=VIT).from_state(detector.state())
    np.testing.assert_array_equal(detector.score(batch).sample, again.score(batch).sample)


def test_what_does_not_count_is_not_seen_by_pixels() -> None:
    x, label = squares(8, 3, 0)
    region = np.ones((11, SIDE, SIDE), bool)
    region[:, :, :16] = False
    other = x.copy()
    other[:, :, :, :16] = 255
    first, second = (
        RealnetClassifier(**TINY, stem="pixels", distillation=0).fit(view(some, label, region=region))
        for some in (x, other)
    )
    batch = whole(view(x[:2], region=region[:2]))
    np.testing.assert_array_equal(first.score(batch).sample, second.score(batch).sample)


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        RealnetClassifier().score(batch)
    for bad in (0, 1):
        with pytest.raises(DataError, match=f"at least 2 anomalous images .* got {bad} among {5 + bad} samples"):
            RealnetClassifier(**TINY).fit(some(5, bad))
    with pytest.raises(DataError, match="at least one normal"):
        RealnetClassifier(**TINY).fit(some(0, 3))
    with pytest.raises(ParamsError, match="vision transformer of timm, got 'test_resnet': it has no tokens"):
        RealnetClassifier(**TINY, student=Backbone("test_resnet")).fit(some(4, 2))
    with pytest.raises(ParamsError, match="vision transformer of timm, got 'filterbank'"):
        RealnetClassifier(**TINY, student=Backbone()).fit(some(4, 2))
    with pytest.raises(ParamsError, match="precision must be float32"):
        RealnetClassifier(**TINY, student=replace(VIT, precision="bfloat16")).fit(some(4, 2))
    odd = view(stripes(6, 0)[:, :, :47], np.r_[np.zeros(4), 1, 1], np.zeros((6, 47, SIDE)))
    with pytest.raises(DataError, match="images for the student test_vit must be multiples"):
        RealnetClassifier(**TINY, student=VIT).fit(odd)
    with pytest.raises(DataError, match="48 high and 48 wide"):
        RealnetClassifier(**TINY).fit(some(4, 2)).score(replace(batch, x=batch.x[:, :, 1:]))
