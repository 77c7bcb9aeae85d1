import torch
from torch.nn import functional as F

from pipeline.parts.attenuation import Attenuation, error, signal
from pipeline.parts.device import seeded
from pipeline.parts.hourglass import Hourglass


def test_the_signal_by_hand() -> None:
    wrong, due = torch.tensor([0.0, 1.5, 3.0, 15.0, 2e-3]), torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(signal(wrong, due, 1.5), torch.tensor([1.0, 1.0, 0.5, 0.1, 0.75]))
    a, b = torch.full((1, 2, 4, 4), 0.2), torch.full((1, 2, 4, 4), 0.6)
    b[:, 1] = 0.2
    torch.testing.assert_close(error(a, b), torch.full((1, 4, 4), 0.08))


def test_the_layers_leave_the_normal_and_weaken_what_came_out_wrong() -> None:
    generator = torch.Generator().manual_seed(0)
    with seeded(0):
        layers = Attenuation(Hourglass(6, 6, 6, 0, skips=True), 16)
    maps = torch.randn(16, 6, 8, 8, generator=generator)
    torch.testing.assert_close(layers.weaken(0, maps), 0.953 * maps, rtol=0.05, atol=0.2)  # as good as open at first
    maps[:, 0, 2:4, 2:4] += 6.0  # the planted defect
    wrong = torch.ones(16, 8, 8)
    wrong[:, 2:4, 2:4] = 20.0
    optimiser = torch.optim.Adam(layers.parameters(), lr=0.03)
    for _ in range(120):
        loss = F.binary_cross_entropy_with_logits(layers(0, maps), signal(wrong, torch.ones(16, 8, 8), 1.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    fresh = torch.randn(16, 6, 8, 8, generator=generator)
    fresh[:, 0, 5:7, 5:7] += 6.0
    share = (layers.weaken(0, fresh) / fresh).mean(dim=1)
    defect = torch.zeros(16, 8, 8, dtype=torch.bool)
    defect[:, 5:7, 5:7] = True
    assert share[~defect].mean() > 0.95
    assert share[defect].mean() < 0.2  # 1 / 20 was asked for
