from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.detectors.image import uniconha
from pipeline.detectors.image.uniconha import UniConHA
from pipeline.errors import DataError, NotFittedError
from pipeline.parts import contrastive, features
from pipeline.parts.contrastive import pasted, soft_weights, turned, unilateral, views
from pipeline.parts.features import Backbone
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"steps": 2, "images": 4, "width": 4, "view": 32, "patch": 0.5, "kept": 200}
SMALL = {"steps": 25, "images": 6, "width": 8, "patch": 0.25, "kept": 1000, "rate": 3e-3, "shift": "rotation"}


def directions(*degrees: float) -> torch.Tensor:
    angle = torch.tensor(degrees) * np.pi / 180
    return torch.stack([angle.cos(), angle.sin()], dim=1)


# Two normals and one virtual outlier, two views of each: i1 i2 o, i1' i2' o'.
Z = directions(0, 90, 180, 60, 30, 240)
SOURCE = torch.tensor([0, 1, 2, 0, 1, 2])
INLIER = torch.tensor([True, True, False, True, True, False])
ONE = torch.zeros(6, dtype=torch.int64)


def test_normals_attract_each_other_and_outliers_only_their_own_view() -> None:
    close = np.exp((Z @ Z.T).double().numpy() / 0.5)
    np.fill_diagonal(close, 0)
    positives = {0: [1, 3, 4], 1: [0, 3, 4], 3: [0, 1, 4], 4: [0, 1, 3], 2: [5], 5: [2]}
    terms = {i: -np.mean([np.log(close[i, p] / close[i].sum()) for p in some]) for i, some in positives.items()}
    loss = unilateral(Z, SOURCE, INLIER, ONE, 0.5).item()
    assert loss == pytest.approx(np.mean(list(terms.values())), rel=1e-5)
    nobody = torch.zeros(6, dtype=torch.bool)
    simclr = np.mean([-np.log(close[i, (i + 3) % 6] / close[i].sum()) for i in range(6)])
    assert unilateral(Z, SOURCE, nobody, ONE, 0.5).item() == pytest.approx(simclr, rel=1e-5)
    supervised = unilateral(Z, torch.tensor([0, 0, 1, 0, 0, 1]), INLIER, ONE, 0.5).item()
    assert supervised == pytest.approx(loss, rel=1e-5)  # of one outlier; with a second they part:
    z, source = torch.cat([Z, directions(200, 280)]), torch.cat([SOURCE, torch.tensor([3, 3])])
    inlier, group = torch.cat([INLIER, torch.tensor([False, False])]), torch.zeros(8, dtype=torch.int64)
    as_class = unilateral(z, torch.where(inlier, 0, 1), inlier, group, 0.5).item()
    assert abs(unilateral(z, source, inlier, group, 0.5).item() - as_class) > 0.02


def test_labelled_normals_attract_their_own_category_alone() -> None:
    apart = torch.tensor([0, 1, 0, 0, 1, 0])
    assert unilateral(Z, SOURCE, INLIER, apart, 0.5).item() == pytest.approx(
        unilateral(Z, SOURCE, torch.zeros(6, dtype=torch.bool), apart, 0.5).item(), rel=1e-6
    )  # two categories of one image each: every image attracts its own view, as in SimCLR


def test_soft_aggregation_by_hand() -> None:
    z, inlier, group = directions(0, 60, 180, 90), torch.tensor([True, True, True, False]), torch.zeros(4)
    # cosines: 1-2: 0.5, 1-3: -1, 2-3: -0.5
    sums = np.array([np.exp(1) + np.exp(-2), np.exp(1) + np.exp(-1), np.exp(-2) + np.exp(-1), 0])
    weight = soft_weights(z, inlier, group, 0.5)
    np.testing.assert_allclose(weight, sums / sums.sum(), rtol=1e-5)
    assert weight[2] < weight[0] < weight[1]
    even = torch.where(INLIER, 0.25, 0.0)
    assert unilateral(Z, SOURCE, INLIER, ONE, 0.5, even).item() == pytest.approx(
        unilateral(Z, SOURCE, INLIER, ONE, 0.5).item(), rel=1e-6
    )
    trusted = soft_weights(Z, INLIER, ONE, 0.5)
    close = (Z @ Z.T / 0.5).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    share = close - close.logsumexp(dim=1, keepdim=True)
    inner = [0, 1, 3, 4]
    expected = -share[2, 5] - share[5, 2]
    for i in inner:
        w = torch.stack([trusted[j] for j in inner if j != i])
        mean = (w * torch.stack([share[i, j] for j in inner if j != i])).sum() / w.sum()
        expected = expected - trusted[i] / trusted[inner].mean() * mean
    assert unilateral(Z, SOURCE, INLIER, ONE, 0.5, trusted).item() == pytest.approx(expected.item() / 6, rel=1e-5)


def test_categories_of_any_size_are_trusted_alike() -> None:
    z = F.normalize(torch.ones(9, 2), dim=1)
    inlier, group = torch.arange(9) < 8, torch.tensor([0] * 6 + [1] * 2 + [0])
    weight = soft_weights(z, inlier, group, 0.5)
    np.testing.assert_allclose(weight, [1 / 6] * 6 + [1 / 2] * 2 + [0], rtol=1e-6)
    z, source = torch.cat([Z, Z[[1, 0]]]), torch.tensor([0, 1, 2, 0, 1, 2, 3, 3])
    inlier, group = torch.cat([INLIER, torch.tensor([True, True])]), torch.tensor([0] * 6 + [1] * 2)
    together = soft_weights(z, inlier, group, 0.5)
    alone = soft_weights(Z, INLIER, ONE, 0.5)
    np.testing.assert_allclose(together[:6], alone, rtol=1e-6)
    even = torch.tensor([0.25, 0.25, 0, 0.25, 0.25, 0, 0.5, 0.5])  # of equal trust within each category
    assert unilateral(z, source, inlier, group, 0.5, even).item() == pytest.approx(
        unilateral(z, source, inlier, group, 0.5).item(), rel=1e-6
    )


def test_deeper_stages_see_stronger_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def noted(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
        seen.append(strength)
        return views(images, strength, generator)

    monkeypatch.setattr(uniconha, "views", noted)
    UniConHA(**TINY | {"steps": 1}, strength=0.9).fit(view(stripes(4, 0)))
    np.testing.assert_allclose(seen, np.repeat([0.3, 0.6, 0.9], 2))
    x, generator = torch.from_numpy(stripes(4, 0)).float(), torch.Generator().manual_seed(0)
    np.testing.assert_allclose(views(x, 0.0, generator), x, atol=0.1)
    mild, bold = ((views(x, s, generator) - x).abs().mean() for s in (0.1, 1.0))
    assert mild < bold / 2


def test_virtual_outliers() -> None:
    x = torch.from_numpy(stripes(3, 0)).float()
    np.testing.assert_array_equal(turned(x, 1)[:, :, 0, 0], x[:, :, 0, -1])
    changed = (pasted(x, torch.Generator().manual_seed(0)) != x).any(dim=1).float().mean(dim=(1, 2))
    assert ((changed > 0.01) & (changed < 0.2)).all()


def test_the_loss_falls_and_a_planted_defect_is_found() -> None:
    before = torch.get_rng_state()
    x, mask = planted(6, 1)
    detector = UniConHA(**SMALL).fit(view(stripes(12, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    last = [row["stage_3"] for row in detector.history_]
    assert np.mean(last[-5:]) < np.mean(last[:5]) - 0.02
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 5
    row, column = np.unravel_index(scores.local[5].argmax(), (SIDE, SIDE))
    assert 8 <= row < 36
    assert 12 <= column < 40


def test_scores_are_cosines_to_the_nearest_patch() -> None:
    detector, test = UniConHA(**TINY, smooth=0.0).fit(view(stripes(4, 0))), whole(view(planted(2, 1)[0]))
    z, _ = detector._patches(test)
    cosine = (z.flatten(0, 2) @ detector.bank_.T).amax(dim=1).view(z.shape[:3])
    np.testing.assert_allclose(detector.score(test).sample, 1 - cosine.amin(dim=(1, 2)), atol=1e-5)
    pooled = F.avg_pool2d(detector.encoder_(uniconha.resized(torch.from_numpy(test.x).float(), (64, 64)))[-1], 2, 1)
    np.testing.assert_allclose(z, F.normalize(pooled, dim=1).permute(0, 2, 3, 1), atol=1e-5)
    alone = UniConHA(**TINY | {"patch": 1.0}).fit(view(stripes(4, 0))).score(test)
    assert alone.local is None


def test_repeats_survives_its_state_and_does_not_care_about_batches() -> None:
    train, test = view(stripes(5, 0)), view(planted(3, 1)[0])
    first, second = UniConHA(**TINY).fit(train), UniConHA(**TINY).fit(view(stripes(2, 9))).fit(train)
    expected = first.score(whole(test))
    before = torch.get_rng_state()
    UniConHA(**TINY).from_state(first.state())
    assert torch.equal(torch.get_rng_state(), before)
    for other in (second, UniConHA(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(expected.sample, other.score(whole(test)).sample)
        np.testing.assert_array_equal(expected.local, other.score(whole(test)).local)
    apart = np.concatenate([first.score(batch).sample for batch in test.batches(1)])
    np.testing.assert_allclose(expected.sample, apart, rtol=1e-4, atol=1e-5)


def test_the_ideas_can_be_switched_off() -> None:
    train = view(stripes(4, 0))
    full = UniConHA(**TINY).fit(train).history_
    assert UniConHA(**TINY, aggregate=False).fit(train).history_[0]["stage_1"] != full[0]["stage_1"]
    assert UniConHA(**TINY, soft=False).fit(train).history_[0]["stage_3"] != full[0]["stage_3"]
    assert set(UniConHA(**TINY, shallow=0.0).fit(train).history_[0]) == {"step", "stage_3"}


def test_a_backbone_is_fine_tuned() -> None:
    backbone = Backbone("test_resnet", levels=[1, 2])
    detector = UniConHA(backbone, **TINY | {"steps": 1, "images": 2}).fit(view(stripes(2, 0)))
    before = features.load(backbone).net.state_dict()
    after = detector.encoder_.net.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    test = whole(view(stripes(2, 1)))
    again = UniConHA(backbone, **TINY).from_state(detector.state())
    np.testing.assert_array_equal(detector.score(test).sample, again.score(test).sample)


def test_what_does_not_count_is_not_seen() -> None:
    x, region = stripes(6, 0), np.ones((6, SIDE, SIDE), bool)
    region[:, :, :16] = False
    other = x.copy()
    other[:, :, :, :16] = 255
    first, second = (UniConHA(**TINY).fit(view(some, region=region)) for some in (x, other))
    batch = whole(view(stripes(2, 1), region=region[:2]))
    spoiled = batch.x.copy()
    spoiled[:, :, 16:28, :16] = 255
    for detector, seen in ((second, batch), (first, replace(batch, x=spoiled))):
        np.testing.assert_array_equal(first.score(batch).sample, detector.score(seen).sample)


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        UniConHA().score(batch)
    with pytest.raises(DataError, match="2 pixels a side, got 0"):
        UniConHA(patch=0.01).fit(view(stripes(2, 0)))
    vit = Backbone("vit_tiny_patch16_224", levels=[0], extra={"embed_dim": 24, "depth": 1, "num_heads": 2})
    with pytest.raises(DataError, match="multiples of its patches"):
        UniConHA(vit, view=40).fit(view(stripes(2, 0)))
    with pytest.raises(DataError, match="48 high and 48 wide"):
        UniConHA(**TINY | {"steps": 1}).fit(view(stripes(2, 0))).score(replace(batch, x=batch.x[:, :, 1:]))
    assert contrastive.soft_weights(Z, torch.zeros(6, dtype=torch.bool), ONE, 0.5).sum() == 0
