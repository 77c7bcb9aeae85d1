import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import DataError, ModelError
from pipeline.parts import nets
from pipeline.parts.device import seeded


def line(weight: float) -> nn.Linear:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, weight)
    return net


def test_a_step_per_batch_on_the_sum_of_the_losses() -> None:
    net = line(2.0)
    optimiser = torch.optim.SGD(net.parameters(), 0.1)

    def losses(x: float) -> dict[str, torch.Tensor]:
        return {"square": (net.weight**2).sum(), "line": x * net.weight.sum()}

    history = nets.train(optimiser, iter([1.0, 3.0]), 2, losses)
    # gradients 2 w + x: w = 2 - 0.1 (4 + 1) = 1.5, then 1.5 - 0.1 (3 + 3) = 0.9
    assert history == [
        {"step": 1, "square": pytest.approx(4.0), "line": pytest.approx(2.0)},
        {"step": 2, "square": pytest.approx(2.25), "line": pytest.approx(4.5)},
    ]
    assert net.weight.item() == pytest.approx(0.9)


def test_the_gradient_is_cut_at_its_largest_norm() -> None:
    net = line(0.0)
    nets.train(torch.optim.SGD(net.parameters(), 1.0), [4.0], 1, lambda x: {"loss": x * net.weight.sum()}, clip=0.5)
    assert net.weight.item() == pytest.approx(-0.5, rel=1e-5)


def test_a_loss_that_is_not_finite_ends_training() -> None:
    net = line(1.0)
    seen = []

    def losses(x: float) -> dict[str, torch.Tensor]:
        seen.append(x)
        return {"fine": net.weight.sum(), "bad": net.weight.sum() * x}

    with pytest.raises(DataError, match=r"diverged at step 2: .*'bad': inf.*smaller rate") as error:
        nets.train(torch.optim.SGD(net.parameters(), 0.1), [1.0, math.inf, 1.0], 3, losses)
    assert "\n" not in str(error.value)
    assert seen == [1.0, math.inf]


def test_rates_rise_and_fall_as_asked() -> None:
    optimiser = torch.optim.SGD(line(1.0).parameters(), 2.0)
    schedule, rates = nets.warm_cosine(optimiser, 6, warm=2, least=0.1), []
    for _ in range(8):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2 for share in (0, 1 / 4, 1 / 2, 3 / 4)]
    np.testing.assert_allclose(rates, 2 * np.array([0.5, 1.0, *cosine, 0.1, 0.1]), rtol=1e-6)


def test_the_schedule_steps_with_the_training() -> None:
    net = line(0.0)
    optimiser = torch.optim.SGD(net.parameters(), 1.0)
    nets.train(
        optimiser, [1.0] * 3, 3, lambda x: {"loss": x * net.weight.sum()}, nets.warm_cosine(optimiser, 3, warm=3)
    )
    assert net.weight.item() == pytest.approx(-(1 / 3 + 2 / 3 + 1))


def test_weights_and_buffers_come_back_under_their_prefix_and_are_frozen() -> None:
    def made() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    net, x = made(), torch.rand(2, 3, 8, 8)
    net(x)  # moves the batch norm's statistics
    given = {**nets.arrays(net, "one."), "other.bias": np.zeros(3, np.float32)}
    assert {name for name in given if name.startswith("one.")} == {f"one.{name}" for name in net.state_dict()}
    found = nets.restored(made(), given, "one.")
    assert not found.training
    assert not any(weight.requires_grad for weight in found.parameters())
    before = net.eval()(x)
    assert torch.equal(found(x), before)
    given["one.0.bias"][:] = 7  # the arrays may change afterwards
    assert torch.equal(found(x), before)


@pytest.mark.parametrize("spoil", ["shape", "missing", "more"])
def test_weights_of_another_net_are_refused(spoil: str) -> None:
    given = nets.arrays(nn.Linear(3, 2))
    if spoil == "shape":
        given["net.weight"] = given["net.weight"][:, :2]
    elif spoil == "missing":
        del given["net.bias"]
    else:
        given["net.more"] = np.zeros(1, np.float32)
    with pytest.raises(ModelError, match="do not fit these hyperparameters") as error:
        nets.restored(nn.Linear(3, 2), given)
    assert "\n" not in str(error.value)


def test_a_residual_block_adds_its_input() -> None:
    with seeded(0):
        block, other = nets.Residual(4, 4).eval(), nets.Residual(4, 6, stride=2).eval()
    x = torch.randn(2, 4, 7, 5, generator=torch.Generator().manual_seed(0))
    assert other(x).shape == (2, 6, 4, 3)
    nn.init.zeros_(block.second[-1].weight)  # what the convolutions say is 0
    assert torch.equal(block(x), x.relu())
    nn.init.zeros_(other.second[-1].weight)
    torch.testing.assert_close(other(x), other.beside(x).relu())


def test_a_decoder_gives_maps_of_the_shapes_asked_for() -> None:
    shapes = [(5, 12, 9), (7, 6, 5), (3, 6, 5)]
    with seeded(0):
        decoder = nets.Decoder(8, shapes, 2).eval()
    assert [tuple(m.shape[1:]) for m in decoder(torch.rand(2, 8, 3, 3))] == shapes
