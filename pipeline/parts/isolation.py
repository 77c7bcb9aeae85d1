"""Liu, Ting, Zhou: Isolation Forest. ICDM 2008: what trees that isolate rows count."""

import numpy as np


def expected_path(rows: np.ndarray) -> np.ndarray:
    """c(n) of equation 1: the average path length of an unsuccessful search among n rows; float64 `(k,)`."""
    rows = np.asarray(rows, np.float64)
    many = np.maximum(rows, 3)
    harmonic = np.log(many - 1) + np.euler_gamma
    return np.where(rows > 2, 2 * harmonic - 2 * (many - 1) / many, np.where(rows == 2, 1.0, 0.0))
