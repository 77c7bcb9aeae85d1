import math

import numpy as np
import pytest
import torch

from pipeline.parts import discovery
from pipeline.parts.device import seeded
from pipeline.parts.discovery import Heads, Weights


def test_pseudo_labels_are_corrected_by_hand() -> None:
    guess = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    found = discovery.corrected(guess, torch.tensor([0.1, 0.9]), 0.5)
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.6, 0.0], [0.2, 0.3, 0.5]]))  # w = 0.4, and 0


def test_regions_vote_by_area_by_hand() -> None:
    share = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    area = torch.tensor([0.6, 0.1, 0.1])
    weight = np.exp(area.numpy() / 0.15)
    expected = weight @ share.numpy() / weight.sum()
    np.testing.assert_allclose(discovery.merged(share, area, 0.15), expected, rtol=1e-6)
    assert discovery.merged(share, area, 0.15).argmax() == 0  # the large one against two small ones
    assert discovery.merged(share, area, 100.0).argmax() == 1  # one region, one vote


def test_contrasts_by_hand() -> None:
    a, b = torch.eye(2), torch.eye(2)
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))  # its other view at cosine 1, two at 0
    assert discovery.contrast(a, b, 0.5).item() == pytest.approx(expected, rel=1e-5)
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    one = -math.log(math.exp(1 / 0.07) / (math.exp(1 / 0.07) + 1))
    assert discovery.supervised_contrast(z, torch.tensor([0, 0, 1])).item() == pytest.approx(2 * one / 3, abs=1e-5)


def test_evenness_is_least_where_all_classes_are_used() -> None:
    even = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])
    assert discovery.evenness(even).item() == pytest.approx(0, abs=1e-6)
    assert discovery.evenness(even[:, :1].repeat(1, 2, 1)).item() == pytest.approx(math.log(2), abs=1e-4)


def test_agreement_knows_novel_classes_alone() -> None:
    a = torch.tensor([[[5.0, 1.0, -1.0]]])  # the first output is of a known kind
    sharp = discovery.agreement(a, a, torch.tensor([1.0]), 1, 0.01, 0.5)
    expected = math.log(sum(math.exp(10 * (value - 1)) for value in (5.0, 1.0, -1.0)))  # all on the second
    assert sharp.item() == pytest.approx(expected, rel=1e-5)
    low = discovery.agreement(a.flip(2), a.flip(2), torch.tensor([0.0]), 1, 0.01, 0.5)
    assert low.item() != pytest.approx(
        discovery.agreement(a.flip(2), a.flip(2), torch.tensor([1.0]), 1, 0.01, 0.5).item()
    )


def test_draws_halve_the_batch_and_cool_down() -> None:
    kind = np.array([-1] * 6 + [0, 1, 1])
    drawn = list(discovery.draws(kind, 4, 10, 4, (0.07, 0.04), 0))
    assert [len(at) for at, _, _ in drawn] == [4] * 10
    assert all((kind[at.numpy()] < 0).sum() == 2 for at, _, _ in drawn)
    assert all((which[:, 0] != which[:, 1]).all() for _, which, _ in drawn)
    assert drawn[0][2] == 0.07
    assert drawn[-1][2] == pytest.approx(0.04)


def test_training_begins_where_regions_are() -> None:
    x = torch.eye(4)[[0, 0, 1, 1, 2, 3]]
    kind, weight = torch.tensor([-1, -1, -1, -1, -1, 0]), torch.tensor([1.0, 1.0, 0.5, 0.5, 0.0, 1.0])
    odd = torch.tensor([True, True, True, True, False, True])
    found = discovery.starts(x, kind, odd, weight, 2, True, 2, 0)
    assert found.shape == (2, 4, 4)
    torch.testing.assert_close(found[0, 0], x[5])  # what is known
    torch.testing.assert_close(found[0, 1], x[4])  # what is normal
    assert sorted(found[0, 2:].tolist()) == sorted(torch.eye(4)[:2].tolist())
    odd[4] = True  # of weight 0, and yet no region of a normal image
    assert (discovery.starts(x, kind, odd, weight, 2, True, 2, 0)[:, 1, 2] <= 0).all()


def test_heights_are_told_by_medians_and_not_by_one_outlier() -> None:
    peaks = torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0, 100.0])
    found = discovery.heights(peaks, torch.tensor([False] * 3 + [True] * 3))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0, 1.0]))


def test_what_regions_say_is_what_merging_weights() -> None:
    area, whose = np.array([0.6, 0.1, 0.3]), np.array([0, 0, 1])
    found = discovery.says(area, whose, 0.15)
    np.testing.assert_allclose(found[:2], torch.tensor(area[:2] / 0.15).softmax(dim=0).numpy())
    assert found[2] == 1
    np.testing.assert_allclose(discovery.says(area, whose, 5e-4), [1, 0, 1], atol=1e-12)


def test_a_space_holds_the_most_of_what_differs() -> None:
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 1, generator=rng) @ torch.ones(1, 3) + 0.01 * torch.randn(50, 3, generator=rng)
    space = discovery.Space.of(rows, 1)
    torch.testing.assert_close(space.axes[:, 0].abs(), torch.full((3,), 3**-0.5), atol=0.01, rtol=0)
    placed = discovery.Space.of(rows, 2).placed(rows.view(25, 2, 3))
    torch.testing.assert_close(placed.norm(dim=2), torch.ones(25, 2))


def test_heads_start_with_what_they_are_given_and_learn_known_kinds() -> None:
    with seeded(0):
        net = Heads(4, 8, 3, 2)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x + net.adapter(x), x)
    kind = torch.cat([(x[:6, 0] > 0).long(), torch.full((6,), -1)])
    assert set(kind.tolist()) == {-1, 0, 1}
    score, weights = torch.ones(12), Weights(1.0, 0.5, 0.0)
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    history = []
    for _ in range(120):
        parts = discovery.losses(net(x), net(x + 0.01), kind, score, 2, 0.05, weights)
        optimiser.zero_grad()
        sum(parts.values()).backward()
        optimiser.step()
        history.append(float(parts["known"].detach()))
    assert history[-1] < 0.3 * history[0]
    assert (net(x)[1][0, :6].argmax(dim=1) == kind[:6]).all()
    assert set(discovery.losses(net(x), net(x), kind[6:].repeat(2), score, 0, 0.05, weights)) == {
        "contrast",
        "guess",
        "even",
    }
