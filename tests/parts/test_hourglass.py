import torch

from pipeline.parts.device import seeded
from pipeline.parts.hourglass import Hourglass


def made(skips: bool) -> Hourglass:
    with seeded(0):
        return Hourglass(3, 2, 4, 2, skips).eval()


def test_odd_sizes_come_back_and_widths_double() -> None:
    for skips in (True, False):
        net = made(skips)
        assert net.widths == [4, 8, 16]
        assert net(torch.rand(2, 3, 19, 13)).shape == (2, 2, 19, 13)
        maps = net.encode(torch.rand(1, 3, 19, 13))
        assert [tuple(x.shape[1:]) for x in maps] == [(4, 19, 13), (8, 9, 6), (16, 4, 3)]


def test_only_what_is_handed_over_reaches_the_decoder() -> None:
    x, other = torch.rand(2, 1, 3, 16, 16)
    for skips, handed in ((True, [0, 1, 2]), (False, [2])):
        net, asked = made(skips), []
        assert net.handed == handed
        kept = net.encode(other)

        def change(level: int, maps: torch.Tensor) -> torch.Tensor:
            asked.append(level)  # noqa: B023
            return kept[level]  # noqa: B023

        torch.testing.assert_close(net(x, change), net(other))
        assert sorted(asked) == handed
        assert not torch.allclose(net(x), net(other))
