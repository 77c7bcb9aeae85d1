"""Where torch runs, and random weights that leave torch's global generator as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def device() -> torch.device:
    """The GPU when there is one, the CPU otherwise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block torch's global generators, the GPUs' too, start from `seed`; afterwards they go on as before.

    Modules draw their first weights from the CPU's, and only from it, as long as they are built on the CPU; dropout
    draws from that of its device."""
    before = torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
