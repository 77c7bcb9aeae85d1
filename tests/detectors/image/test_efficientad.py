from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pipeline.detectors.image.efficientad import EfficientAD, strange
from pipeline.errors import DataError
from pipeline.parts import features
from pipeline.parts.features import Backbone
from pipeline.parts.moments import standardised
from pipeline.parts.pdn import Autoencoder, Networks, describer, hardest, recoloured
from pipeline.protocols import Batch
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"width": 8, "hidden": 8, "teacher_steps": 40, "steps": 40, "batch": 4}


def test_networks_have_the_shapes_of_the_paper_s_tables() -> None:
    """256 x 256 images give 64 x 64 descriptions of 33 x 33 pixels; any other size gives a quarter of it."""
    net = describer(4, 6)
    assert net(torch.zeros(1, 3, 256, 256)).shape == (1, 6, 64, 64)
    assert sum(p.numel() for p in describer(128, 384).parameters()) == 6_272 + 524_544 + 590_080 + 1_573_248
    image = torch.rand(1, 3, 128, 128)
    image.requires_grad_(True)
    net(image)[0, :, 16, 16].sum().backward()
    rows = image.grad[0].abs().sum(dim=(0, 2)).nonzero()[:, 0]
    assert int(rows.max() - rows.min()) + 1 == 33
    assert abs(float(rows.max() + rows.min()) / 2 - 16 * 4) <= 2  # and they lie around its place
    for size in ((256, 256), (64, 96), (50, 33)):
        with torch.no_grad():
            found = net(torch.zeros(1, 3, *size))
            assert Autoencoder(8, 6, size).eval()(torch.zeros(1, 3, *size)).shape == found.shape
            assert all(side / 4 <= there < side / 4 + 1 for side, there in zip(size, found.shape[2:], strict=True))


def test_hardest_takes_the_mean_from_the_quantile_on() -> None:
    losses = torch.arange(1.0, 101.0)[torch.randperm(100, generator=torch.Generator().manual_seed(0))].view(4, 25)
    assert hardest(losses, 0.1).item() == pytest.approx(95.5)  # 91 to 100
    assert hardest(losses, 0.001).item() == 100
    assert hardest(losses, 1.0).item() == pytest.approx(50.5)


def test_recoloured_changes_one_thing_by_a_fifth_at_most() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(60, 190, (30, 3, 8, 8), dtype=np.uint8)
    kinds = set()
    for image, made in zip(x.astype(float), recoloured(x, rng).astype(float), strict=True):
        grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        fits = []
        for about in (0, grey.mean(), grey):
            away = image - about
            factor = (away * (made - about)).sum() / (away**2).sum()
            fits.append(np.abs(made - about - factor * away).max() < 1 and 0.79 < factor < 1.21)
        assert any(fits)
        kinds.add(fits.index(True))
    assert kinds == {0, 1, 2}


def test_losses_by_hand() -> None:
    torch.manual_seed(0)
    nets = Networks(4, 4, 5, (32, 32)).eval()  # no dropout
    nets.mean.fill_(0.1)
    nets.spread.fill_(0.5)
    x, changed, other = torch.rand(3, 2, 3, 32, 32).unbind()
    region = np.ones((2, 32, 32), bool)
    region[1, :, 16:] = False
    batch = Batch(["a", "b"], np.zeros((2, 3, 32, 32), np.uint8), np.zeros(2, np.int8), None, region)
    found = nets.losses(x, changed, other, 0.9, batch)
    with torch.no_grad():
        teacher = [(nets.teacher(each) - 0.1) / 0.5 for each in (x, changed)]
        student = [nets.student(each) for each in (x, changed, other)]
        back = nets.autoencoder(changed)
    away = (teacher[0] - student[0][:, :5]) ** 2
    values = torch.cat([away[0].flatten(), away[1, :, :, :4].flatten()]).sort().values
    assert found["student"].item() == pytest.approx(values[-round(0.1 * len(values)) :].mean().item(), rel=1e-5)
    assert found["penalty"].item() == pytest.approx((student[2][:, :5] ** 2).mean().item(), rel=1e-5)
    assert found["autoencoder"].item() == pytest.approx(F.mse_loss(back, teacher[1]).item(), rel=1e-5)
    assert found["both"].item() == pytest.approx(F.mse_loss(back, student[1][:, 5:]).item(), rel=1e-5)
    assert set(nets.losses(x, changed, None, 0.9, batch)) == {"student", "autoencoder", "both"}


def test_maps_of_held_out_normals_have_the_quantiles_that_they_are_scaled_to() -> None:
    x = stripes(5, 0)
    detector = EfficientAD(**{**TINY, "teacher_steps": 2, "steps": 2}, held_out=0.4).fit(view(x))
    order = np.random.default_rng(0).permutation(5)  # the same as the detector's
    maps = detector._maps(whole(view(x[order[:2]])), normalised=True).numpy()
    for kind in range(2):
        assert np.quantile(maps[:, kind], [0.9, 0.995]) == pytest.approx([0, 0.1], abs=1e-4)
    scores = detector.score(whole(view(x)))
    np.testing.assert_allclose(scores.sample, scores.local.max(axis=(1, 2)))


def test_losses_fall_and_a_planted_defect_is_found() -> None:
    before = torch.get_rng_state()
    detector = EfficientAD(**{**TINY, "teacher_steps": 100, "steps": 100}).fit(view(stripes(16, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("student", "autoencoder"):
        losses = [row[name] for row in detector.history_ if name in row]
        assert np.median(losses[-30:]) < 0.8 * np.median(losses[:30])
    x, mask = planted(8, 1)
    scores = detector.score(whole(view(x, mask=mask)))
    assert scores.sample.argmax() == 7
    row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
    assert 8 <= row < 38
    assert 8 <= column < 42


def test_the_teacher_learns_the_backbone_s_features() -> None:
    """Of images that it has not seen, better than their mean does."""
    detector = EfficientAD(**{**TINY, "teacher_steps": 150, "steps": 1}).fit(view(stripes(16, 0)))
    fresh, backbone = stripes(4, 3), features.load(Backbone())
    wanted = detector._described(backbone, fresh)
    mean, spread = detector._known(backbone, view(stripes(16, 0)), (SIDE, SIDE))
    with torch.no_grad():
        found = detector.nets_.teacher(detector.nets_.unit(fresh))
    wanted = F.interpolate(standardised(wanted, mean, spread), found.shape[2:], mode="bilinear")
    error = F.mse_loss(found, wanted).item()
    assert error < 0.8 * wanted.var().item()


def test_strange_images_are_few_and_changed_in_places() -> None:
    x = stripes(40, 0)
    changed = (strange(x, np.random.default_rng(0)) != x).any(axis=1).mean(axis=(1, 2))
    assert 2 <= (changed > 0).sum() <= 20
    assert changed.max() < 1


def test_pretraining_teaches_the_teacher_and_holds_the_student_back(tmp_path: Path) -> None:
    options = {**TINY, "teacher_steps": 3, "steps": 3, "pretraining": str(tmp_path)}
    with pytest.raises(DataError, match="must be a folder of images .* got none"):
        EfficientAD(**options).fit(view(stripes(4, 0)))
    (tmp_path / "deep").mkdir()
    for i, image in enumerate(stripes(2, 7)):
        Image.fromarray(image.transpose(1, 2, 0)[:30]).convert("L").save(tmp_path / "deep" / f"{i}.png")
    detector = EfficientAD(**options).fit(view(stripes(4, 0)))
    assert all("penalty" in row for row in detector.history_[3:])
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad.png: not an image in a known format"):
        EfficientAD(**{**options, "teacher_steps": 20}).fit(view(stripes(4, 0)))


def test_images_too_small_are_refused() -> None:
    with pytest.raises(DataError, match="at least 32 pixels high and wide, got 31 x 48"):
        EfficientAD(**TINY).fit(view(stripes(2, 0)[:, :, :31]))
