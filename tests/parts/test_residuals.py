import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.parts.device import seeded
from pipeline.parts.neighbours import Bank
from pipeline.parts.residuals import Networks, anomalous, barrier, contraction, distance, invariance, matched, residuals
from pipeline.protocols import ANOMALOUS, NORMAL, UNKNOWN, Batch


def minus_log_sigmoid(x: float) -> float:
    return math.log(1 + math.exp(-x))


def test_a_residual_is_what_is_left_of_the_nearest_reference() -> None:
    bank = Bank(torch.tensor([[0.0, 0.0], [4.0, 4.0]]))
    maps = torch.tensor([[[[1.0, 4.0]], [[0.5, 5.0]]]])  # features (1, 0.5) and (4, 5)
    np.testing.assert_array_equal(residuals(maps, bank), [[[[1.0, 0.0]], [[0.5, 1.0]]]])
    own = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert not residuals(own, Bank(own[0].flatten(1).T.contiguous())).any()  # of a reference itself


def test_the_log_barrier_by_hand() -> None:
    assert barrier(torch.tensor([-1.0, -0.1])).item() == 0
    plain = (minus_log_sigmoid(-0.5) + minus_log_sigmoid(-2.0)) / 2
    assert barrier(torch.tensor([-1.0, 0.5, 2.0]), weighted=False).item() == pytest.approx(plain, rel=1e-6)
    heavy = (minus_log_sigmoid(-0.5) * math.exp(0.5) + minus_log_sigmoid(-2.0) * math.exp(2.0)) / 2
    assert barrier(torch.tensor([-1.0, 0.5, 2.0])).item() == pytest.approx(heavy, rel=1e-6)


def test_the_contraction_draws_normals_into_the_shell_from_both_sides_and_anomalies_out() -> None:
    normal = torch.tensor([1.0, 0.2, 0.398], requires_grad=True)  # outside, inside and within the shell of radius 0.4
    odd = torch.tensor([0.45, 3.0], requires_grad=True)  # short of the margin, and far out
    loss = contraction(normal, odd, 0.4)
    by_hand = [minus_log_sigmoid(-e) * math.exp(e) for e in (0.6, 0.396 - 0.2, 0.05)]
    assert loss.item() == pytest.approx(sum(by_hand), rel=1e-5)
    loss.backward()
    assert torch.sign(normal.grad).tolist() == [1, -1, 0]
    assert torch.sign(odd.grad).tolist() == [-1, 0]


def test_distance_and_invariance_by_hand() -> None:
    rows, before = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[3.0, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(distance(rows), [math.sqrt(13.5) - 1, 0], rtol=1e-6)
    cosine = 17 / (5 * math.sqrt(13))
    assert invariance(rows[:1], before[:1]).item() == pytest.approx(4 / 2 + 1 - cosine, rel=1e-5)
    assert invariance(rows[:0], before[:0]).item() == 0


def test_matching_takes_over_the_distribution_of_what_counts() -> None:
    maps = torch.tensor([[[[3.0, 1.0, 2.0, 50.0]]]])
    other = torch.tensor([[[[10.0, 30.0, 20.0, -7.0]]]])
    inside = torch.tensor([[[True, True, True, False]]])
    np.testing.assert_allclose(matched(maps, other, inside, 1.0), [[[[30, 10, 20, 0]]]])
    np.testing.assert_allclose(matched(maps, other, inside, 0.5), [[[[16.5, 5.5, 11, 0]]]])
    np.testing.assert_allclose(matched(maps, other, inside, 0.0), [[[[3, 1, 2, 0]]]])


def test_positions_are_anomalous_where_enough_of_them_is() -> None:
    mask = np.zeros((2, 4, 8), np.int8)
    mask[0, :, :2] = ANOMALOUS  # half of the first column of four
    mask[0, 0, 4] = ANOMALOUS  # an eighth
    mask[0, 0, 7] = UNKNOWN
    mask[1, 0, 0] = ANOMALOUS  # an eighth, but no position has more
    batch = Batch(["a", "b"], None, np.ones(2, np.int8), mask)
    first, second = anomalous(batch, (1, 4))
    assert first.tolist() == [[ANOMALOUS, NORMAL, UNKNOWN, UNKNOWN]]
    assert second.tolist() == [[ANOMALOUS, NORMAL, NORMAL, NORMAL]]
    region = np.ones((2, 4, 8), bool)
    region[0, :, :2] = region[0, 0, 7] = False  # what does not count is neither the fullest nor unknown
    first, again = anomalous(replace(batch, region=region), (1, 4))
    assert first.tolist() == [[NORMAL, NORMAL, ANOMALOUS, NORMAL]]
    assert again.tolist() == second.tolist()


def test_each_loss_reaches_its_own_network_only() -> None:
    with seeded(0):
        networks = Networks([4], codes=3, couplings=2, ratio=2.0)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(60, 4, generator=generator)
    label = torch.tensor([NORMAL] * 40 + [ANOMALOUS] * 15 + [UNKNOWN] * 5)
    rows[55:] = torch.nan  # unknown: nothing may come of it
    networks.begin(0, rows[:40])
    np.testing.assert_array_equal(networks.codes[0].detach(), rows[[0, 20, 39]])
    reached = {"codes": networks.codes, "contraction": networks.constraintors, "invariance": networks.constraintors}
    reached |= {"likelihood": networks.flows, "boundary": networks.flows}
    for name, loss in networks.losses(0, rows, label, radius=0.2, constrain=1.0).items():
        assert torch.isfinite(loss)
        networks.zero_grad()
        loss.backward(retain_graph=True)
        touched = {id(weight) for weight in networks.parameters() if weight.grad is not None and weight.grad.any()}
        assert touched <= {id(weight) for weight in reached[name].parameters()}
        assert touched or name == "invariance"  # a constraintor starts by changing nothing
    none = networks.losses(0, rows, label, radius=0.2, constrain=0.0)
    assert none["contraction"].item() == none["invariance"].item() == 0
