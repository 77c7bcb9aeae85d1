"""Where torch runs, and random weights that leave torch's global generator as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def device() -> torch.device:
    """The GPU when there is one, the CPU otherwise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block torch's global CPU generator starts from `seed`; afterwards it goes on as before.

    Modules draw their first weights from that generator, and only from it, as long as they are built on the CPU."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
