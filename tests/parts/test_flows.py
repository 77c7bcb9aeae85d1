import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.parts.device import seeded
from pipeline.parts.flows import Convolved, Dense, Flow, Subnet, gaussian, positions


def stirred(channels: int, subnets: list[Subnet], dim: int) -> Flow:
    """A flow in float64 whose subnets no longer start at 0."""
    with seeded(3):
        flow = Flow(channels, subnets, clamp=1.9, dim=dim).double()
        for weight in flow.parameters():
            nn.init.normal_(weight, std=0.5)
    return flow.requires_grad_(False)


def rows(condition: int = 0) -> Flow:
    return stirred(5, [partial(Dense, hidden=7, condition=condition)] * 4, dim=-1)


def maps() -> Flow:
    return stirred(4, [partial(Convolved, hidden=6, kernel=kernel) for kernel in (3, 1, 3, 1)], dim=1)


def test_the_inverse_restores_the_input() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    condition = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    image = torch.randn(2, 4, 5, 3, generator=generator, dtype=torch.float64)
    for flow, given in ((rows(), (x,)), (rows(3), (x, condition)), (maps(), (image,))):
        z, _ = flow(*given)
        assert (z - given[0]).abs().max() > 0.5
        np.testing.assert_allclose(flow.inverse(z, *given[1:]), given[0], atol=1e-9)


def test_the_log_determinant_is_that_of_the_jacobian() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, generator=generator, dtype=torch.float64)
    for flow, given in ((rows(), ()), (rows(3), (torch.randn(3, generator=generator, dtype=torch.float64),))):
        jacobian = torch.autograd.functional.jacobian(lambda v, f=flow, g=given: f(v, *g)[0], x)
        assert flow(x, *given)[1].item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-9)
    image, flow = torch.randn(1, 4, 3, 2, generator=generator, dtype=torch.float64), maps()
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v)[0], image).reshape(24, 24)
    shares = flow(image)[1]
    assert shares.shape == (1, 3, 2)
    assert shares.sum().item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-9)


def test_a_gaussian_by_hand() -> None:
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    log = math.log(2 * math.pi)
    np.testing.assert_allclose(gaussian(z, 1), [-log, -log - 2.5], rtol=1e-6)
    np.testing.assert_allclose(gaussian(z, 1, mean=1.0), [-log - 1, -log - 0.5], rtol=1e-6)


def test_the_likelihood_of_a_scaled_and_shifted_gaussian_by_hand() -> None:
    with seeded(0):
        flow = Flow(2, [partial(Dense, hidden=1)], clamp=2.0, dim=-1)
    with torch.no_grad():  # the second channel becomes 2 x + 3 whatever the first
        clamped = 2 * math.atanh(math.log(2) / 2.0)
        flow.couplings[0].net.last.bias.copy_(torch.tensor([clamped, 3.0]))
    x = torch.tensor([[0.5, -1.0]])  # z: 0.5 and 1
    expected = (-0.5 * (0.25 + 1.0) - math.log(2 * math.pi) + math.log(2)) / 2
    assert flow.log_likelihood(x).item() == pytest.approx(expected, rel=1e-6)


def test_a_flow_starts_as_a_change_of_order_and_its_scales_are_clamped() -> None:
    with seeded(0):
        flow = Flow(6, [partial(Dense, hidden=4)] * 3, clamp=0.5, dim=-1)
    x = torch.arange(6.0)[None]
    z, determinant = flow(x)
    assert sorted(z[0].tolist()) == x[0].tolist()
    assert determinant.item() == 0
    with torch.no_grad():
        flow.couplings[0].net.last.bias.fill_(1e6)
    assert flow(x)[1].item() == pytest.approx(3 * 0.5, rel=1e-4)


def test_a_shared_condition_is_the_same_as_one_per_row() -> None:
    flow, generator = rows(8), torch.Generator().manual_seed(2)
    x = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    shared = positions((2, 3), 8).double()
    np.testing.assert_allclose(flow(x, shared)[0], flow(x, shared.expand(3, 6, 8))[0], atol=1e-12)


def test_positions_by_hand() -> None:
    found = positions((2, 3), 8)
    assert found.shape == (6, 8)
    slow = 1e4**-0.5
    row, column = 1, 2  # the last of them
    angles = np.array([row, row * slow, column, column * slow])
    np.testing.assert_allclose(found[5], np.r_[np.sin(angles), np.cos(angles)], rtol=1e-5)
    assert len(torch.unique(found, dim=0)) == 6
