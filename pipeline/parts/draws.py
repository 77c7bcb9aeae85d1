"""Drawing samples at random."""

import numpy as np


def shuffled(count: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """`wanted` positions among `count`, one shuffled round after the other: none comes twice before all came once."""
    rounds = [rng.permutation(count) for _ in range(max(-(-wanted // count), 1))]
    return np.concatenate(rounds)[:wanted]
