from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.detectors.image.onenip import TWINS, Drawn, Known, OneNIP
from pipeline.errors import DataError, NotFittedError, ParamsError
from pipeline.parts.attention import apart
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone
from pipeline.parts.held_images import Images, hold_images
from pipeline.parts.losses import dice
from pipeline.protocols import Samples
from tests.pictures import SIDE, planted, stripes, view, whole

TINY = {"backbone": Backbone(levels=[2, 3]), "steps": 3, "batch": 2, "labelled": 1, "width": 8, "depth": 1, "hidden": 4}


def checks(n: int, seed: int) -> np.ndarray:
    """Another kind of picture: stripes the other way round, and coarser."""
    return np.kron(stripes(n, seed)[:, :, : SIDE // 2, SIDE // 2 - 1 :: -1], np.ones((2, 2), np.uint8))


def test_what_is_rebuilt_starts_from_the_prompt_and_looks_at_the_image() -> None:
    with seeded(0):
        net = OneNIP(**{**TINY, "depth": 2})._net(torch.Size((1, 5, 4, 3))).eval()
    maps, other, prompt = torch.rand(3, 1, 5, 4, 3)
    context = net.looked(prompt)
    together = net.looked(torch.cat([maps, prompt]))[1:]
    torch.testing.assert_close(together, context)  # whatever image goes with it
    made, odd = net(maps, context)
    assert made.shape == maps.shape
    assert odd.shape == (1, 16, 12)
    assert not torch.allclose(made, net(maps, net.looked(other))[0])
    assert not torch.allclose(made, net(other, context)[0])
    with torch.no_grad():
        for block in net.back:
            for part in (block.attention.out, block.mlp[3]):
                part.weight.zero_()
                part.bias.zero_()
    assert not torch.allclose(made, net(maps, context)[0])  # the image's tokens had looked back
    with torch.no_grad():
        for block in net.across:
            block.attention.out.weight.zero_()
    torch.testing.assert_close(net(maps, context)[0], net(other, context)[0])  # blind, it knows the prompt alone
    assert not torch.allclose(net(maps, context)[0], net(maps, net.looked(other))[0])
    assert not OneNIP(**{**TINY, "depth": 2, "back": False})._net(torch.Size((1, 5, 4, 3))).back


def test_neighbours_are_not_looked_at() -> None:
    allowed = apart((5, 4), 3).view(5, 4, 5, 4)
    assert not allowed[2, 1, 1:4, 0:3].any()
    assert allowed[2, 1].sum() == 20 - 9
    assert apart((5, 4), 0).all()
    for grid in ((2, 2), (1, 3), (6, 6)):
        assert apart(grid, 99).any(dim=1).all()  # each has something to look at


def test_the_losses_by_hand() -> None:
    class Net:
        """Makes one more of what it sees; knows half of the pixels to be odd."""

        def looked(self, prompt: torch.Tensor) -> torch.Tensor:
            return prompt

        def __call__(self, seen: torch.Tensor, prompt: torch.Tensor, noise: torch.Tensor) -> tuple:
            assert len(seen) == len(prompt) == len(noise) == 3
            return seen + 1, torch.full((3, 8, 8), 50.0).tril()

    clean, twin = torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), 2.0)
    inside = torch.tensor([[[True, True], [True, False]]])
    twin[0, :, 1, 1] = 1e3  # does not count
    marks = torch.ones(3, 8, 8).tril()
    seen = torch.cat([clean, twin, torch.rand(1, 2, 2, 2)])
    losses = OneNIP(restoration=0.5)._losses(Net(), Drawn(seen, seen[1:], seen, marks, inside))
    assert losses["rebuilding"].item() == pytest.approx(1.0)
    assert losses["restoration"].item() == pytest.approx(0.5 * 3.0**2)  # the twin's is compared with the clean one
    low = 64 - 36  # pixels above the diagonal, at probability 0.5
    assert losses["refiner"].item() == pytest.approx(0.5 * (1 - (2 * 36 + 1) / (36 + low / 4 + 36 + 1)), rel=1e-5)
    assert dice(100 * marks - 50, marks).item() == pytest.approx(0, abs=1e-6)


def test_the_losses_fall_and_each_part_finds_a_planted_defect() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    x, mask = planted(8, 1)
    detector = OneNIP(Backbone(levels=[2]), steps=50, width=32, batch=4, hidden=16, rate=8e-3).fit(view(stripes(16, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    history = detector.history_
    assert [row["step"] for row in history] == list(range(1, 51))
    for name in ("rebuilding", "restoration", "refiner"):
        losses = [row[name] for row in history]
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    batch, margins = whole(view(x, mask=mask)), []
    for share in (0.0, 0.5, 1.0):
        scores = replace_refined(detector, share).score(batch)
        assert scores.sample.argmax() == 7
        margins.append(scores.sample[7] / scores.sample[:7].max())
        row, column = np.unravel_index(scores.local[7].argmax(), (SIDE, SIDE))
        assert 10 <= row < 34
        assert 14 <= column < 38
    assert margins[0] < margins[1] < margins[2]  # the refiner tells more than the errors alone


def replace_refined(detector: OneNIP, share: float) -> OneNIP:
    return replace(detector, refined=share).from_state(detector.state())


def test_each_category_has_its_prompt_and_others_are_refused() -> None:
    x = np.concatenate([stripes(5, 0), checks(5, 0)])
    detector = OneNIP(**TINY).fit(view(x, category=["plain"] * 5 + ["coarse"] * 5))
    assert detector.categories_ == ["coarse", "plain"]
    test = whole(view(x[4:6], category=["plain", "coarse"]))
    right = detector.score(test)
    swapped = detector.score(replace(test, category=["coarse", "plain"]))
    assert not np.isclose(right.sample, swapped.sample).any()
    blind = OneNIP(**TINY, prompted=False).fit(view(x, category=["plain"] * 5 + ["coarse"] * 5))
    one, other = (blind.score(replace(test, category=names)) for names in (["plain", "coarse"], ["coarse", "plain"]))
    np.testing.assert_array_equal(one.sample, other.sample)
    with pytest.raises(DataError, match="category of sample s-001 must be one of training, coarse, plain, got 'fine'"):
        detector.score(replace(test, category=["plain", "fine"]))
    with pytest.raises(DataError, match="must be one of training, none, got 'plain'"):
        OneNIP(**TINY).fit(view(x[:2])).score(test)
    assert np.isfinite(OneNIP(**TINY).fit(view(x[:2])).score(replace(test, category=None)).sample).all()


def test_labelled_anomalies_teach_where_they_have_a_mask_and_a_prompt() -> None:
    x, masks = planted(TWINS + 1, 0)
    label = np.r_[[0] * TWINS, 1]

    def score(given: np.ndarray, mask: np.ndarray, category: list[str] | None = None) -> np.ndarray:
        return OneNIP(**TINY).fit(view(x, given, mask, category=category)).score(whole(view(x[:2]))).sample

    taught, alone = score(label, masks), score(np.where(label, -1, 0), masks)
    assert not np.array_equal(taught, alone)
    np.testing.assert_array_equal(score(label, np.zeros_like(masks)), alone)
    np.testing.assert_array_equal(score(label, masks, [""] * TWINS + ["other"]), alone)


def test_repeats_survives_its_state_and_does_not_care_about_batches() -> None:
    train, test = view(stripes(6, 0)), whole(view(planted(3, 1)[0]))
    first = OneNIP(**TINY).fit(train)
    second = OneNIP(**TINY).fit(view(stripes(2, 9))).fit(train)
    for other in (second, OneNIP(**TINY).from_state(first.state())):
        np.testing.assert_array_equal(first.score(test).sample, other.score(test).sample)
        np.testing.assert_array_equal(first.score(test).local, other.score(test).local)
    assert first.history_ == second.history_
    apart = np.concatenate([first.score(b).sample for b in view(test.x).batches(1)])
    np.testing.assert_allclose(first.score(test).sample, apart, rtol=1e-4, atol=1e-5)


def test_what_does_not_count_is_not_seen() -> None:
    x, region = stripes(4, 0), np.ones((4, SIDE, SIDE), bool)
    region[:, :, :20] = False
    other = np.where(region[:, None], x, np.random.default_rng(1).integers(0, 256, x.shape, dtype=np.uint8))
    first, second = (OneNIP(**TINY).fit(view(images, region=region)) for images in (x, other))
    scores, same = (one.score(whole(view(images, region=region))) for one, images in ((first, x), (second, other)))
    np.testing.assert_array_equal(scores.sample, same.sample)
    np.testing.assert_array_equal(scores.local, same.local)


@pytest.mark.parametrize("tiny", [0, 3])
@pytest.mark.parametrize("every", [1, 3])
def test_a_region_that_fills_no_position_counts_where_it_is_fullest(tiny: int, every: int) -> None:
    x, region = stripes(6, 0), np.ones((6, SIDE, SIDE), bool)
    region[::every] = False
    region[::every, 20 : 20 + tiny, 20 : 20 + tiny] = True
    detector = OneNIP(**TINY).fit(view(x, region=region))
    assert np.isfinite([list(row.values()) for row in detector.history_]).all()
    assert np.isfinite(detector.score(whole(view(x, region=region))).sample).all()


def test_the_refiners_scale_does_not_see_what_does_not_count() -> None:
    class Net:
        """Errs by 1 where it counts, by 100 elsewhere."""

        def looked(self, prompt: torch.Tensor) -> torch.Tensor:
            return prompt.flatten(2)

        def __call__(self, maps: torch.Tensor, prompt: torch.Tensor) -> tuple[torch.Tensor, None]:
            return maps + torch.tensor([[1.0, 100.0], [1.0, 100.0]]), None

    detector, maps = OneNIP(), torch.zeros(2, 1, 2, 2, dtype=torch.float16)
    detector.net_ = Net()
    inside = torch.tensor([[[True, False], [True, False]]]).repeat(2, 1, 1)
    known = Known(maps, maps, torch.zeros(2, 8, 8), inside)
    detector._remember(hold_images(view(stripes(2, 0)), 1, 0), known, torch.device("cpu"))
    assert detector.scale_ == pytest.approx(1.0)


@pytest.mark.parametrize("anomalies", [0, 1])
def test_unlabelled_images_stand_for_normals_where_none_is_labelled(anomalies: int) -> None:
    x, masks = planted(4, 0)
    label, test = np.r_[-1, -1, -1, [1] * anomalies], whole(view(x[:2]))
    presumed = OneNIP(**TINY).fit(view(x[: len(label)], label, masks[: len(label)])).score(test)
    told = OneNIP(**TINY).fit(view(x[: len(label)], label.clip(0), masks[: len(label)])).score(test)
    np.testing.assert_array_equal(presumed.sample, told.sample)
    left_out = OneNIP(**TINY).fit(view(x[:3], np.array([0, -1, 0]))).score(test)
    np.testing.assert_array_equal(left_out.sample, OneNIP(**TINY).fit(view(x[[0, 2]])).score(test).sample)


def held_and_known(detector: OneNIP, train: Samples) -> tuple[Images, Known]:
    """What a fit of `detector` to `train` holds."""
    seen: list[tuple[Images, Known]] = []

    def watched(held: Images, rng: np.random.Generator) -> Known:
        seen.append((held, OneNIP._known(detector, held, rng)))
        return seen[0][1]

    detector._known = watched
    detector.fit(train)
    return seen[0]


def test_few_normals_have_several_twins_each() -> None:
    held, found = held_and_known(OneNIP(**TINY), view(stripes(3, 0)))
    assert len(held.normals) >= TWINS
    torch.testing.assert_close(found.clean[0], found.clean[3])  # the same image
    assert len({twin.numpy().tobytes() for twin in found.twins}) == len(found.twins)


def test_features_count_in_the_budget_and_a_category_is_not_lost() -> None:
    x = stripes(60, 0)
    fine = {**TINY, "backbone": Backbone(levels=[0, 1]), "cache": 1}
    detector = OneNIP(**fine)
    held, found = held_and_known(detector, view(x, category=["many"] * 59 + ["one"]))
    assert found.clean.dtype == found.twins.dtype == torch.float16
    each = sum(part[0].nbytes for part in (held.x, held.marks, held.inside, found.clean.numpy(), found.twins.numpy()))
    assert len(held) == 10**6 // each < 60
    assert detector.categories_ == ["many", "one"]
    with pytest.raises(DataError, match="cache must hold a normal image of each of 60 categories"):
        OneNIP(**fine).fit(view(x, category=[f"c-{i}" for i in range(60)]))


def test_refusals() -> None:
    batch = whole(view(stripes(2, 0)))
    with pytest.raises(NotFittedError):
        OneNIP().score(batch)
    with pytest.raises(NotFittedError):
        OneNIP().state()
    with pytest.raises(DataError, match="at least one normal"):
        OneNIP(**TINY).fit(view(stripes(2, 0), np.ones(2)))
    with pytest.raises(DataError, match="1 x 1 tokens of an image, at least 2 x 2"):
        OneNIP(**TINY).fit(view(stripes(2, 0)[:, :, :8, :8]))
    with pytest.raises(ParamsError, match=r"onenip\.heads must divide width = 10, got 4"):
        OneNIP(width=10)
    with pytest.raises(DataError, match=r"48 high and 48 wide, .* got 47 x 48 \(sample s-000\)"):
        OneNIP(**TINY).fit(view(stripes(1, 0))).score(replace(batch, x=batch.x[:, :, 1:]))
