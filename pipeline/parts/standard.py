"""What it takes to standardise numbers."""

import numpy as np


def moments(numbers: np.ndarray) -> tuple[float, float]:
    """Mean and deviation of float64 `(n,)`; deviation 1 for a constant. Scaled by the largest value, so that none
    overflows."""
    largest = float(np.abs(numbers).max())
    if largest == 0 or numbers.min() == numbers.max():
        return float(numbers[0]), 1.0
    unit = numbers / largest
    return float(unit.mean() * largest), float(unit.std() * largest) or 1.0
