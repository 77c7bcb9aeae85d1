"""Online conformal p-values: each score ranked among all that came before it, whether it is a calibration score or not.

Vovk, Nouretdinov & Gammerman, "Testing exchangeability on-line", ICML 2003; Vovk, Gammerman & Shafer, "Algorithmic
Learning in a Random World" (2005), section 2.4: when scores are exchangeable, these smoothed p-values are independent
and uniform on (0, 1]. Those against a fixed calibration set are not: given that set they all err the same way, and what
is built on them rejects in the end, with nothing changed.
"""

from dataclasses import dataclass, field

import numpy as np

BLOCK = 256  # values compared with each other at once
KEPT = 10  # bits of a float32's 23-bit mantissa: 1,024 values between a number and its double


@dataclass
class Pool:
    """Values seen so far: float32, rounded, rising, and how often each came. Memory is bounded by what can be told
    apart in KEPT bits, whatever the number of values."""

    values: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, values: np.ndarray) -> None:
        """Take rounded values in, in any order."""
        values, counts = np.unique(values, return_counts=True)
        together = np.concatenate([self.values, values])
        self.values, place = np.unique(together, return_inverse=True)
        weights = np.concatenate([self.counts, counts])
        self.counts = np.zeros(len(self.values), np.int64)
        np.add.at(self.counts, place, weights)

    def p_values(self, values: np.ndarray, lots: np.ndarray) -> np.ndarray:
        """p-values float64 `(m,)` of rounded values that come one after the other, low ones for low values: the share
        of values before it, itself included, that are lower, plus the lot, in (0, 1], times the share of equal ones.
        Takes them in."""
        here, rank = np.unique(values, return_inverse=True)
        edges = np.concatenate([[0], np.cumsum(self.counts)])
        below = edges[np.searchsorted(self.values, here, side="left")]
        equal = edges[np.searchsorted(self.values, here, side="right")] - below
        lower, tied = earlier(rank, len(here))
        lower, tied = lower + below[rank], tied + equal[rank]
        before = edges[-1] + np.arange(len(values))
        self.add(values)
        return (lower + lots * (tied + 1)) / (before + 1)


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 with the last 23 - KEPT bits of the mantissa cut off: a monotone map."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFFFFFF << (23 - KEPT) & 0xFFFFFFFF)).view(np.float32)


def earlier(rank: np.ndarray, distinct: int) -> tuple[np.ndarray, np.ndarray]:
    """How many earlier entries of `rank`, integers `(m,)` below `distinct`, are lower than each, and how many equal it.

    Entries of a block are compared with each other, those of earlier blocks are counted by rank: O(m (BLOCK + distinct
    / BLOCK))."""
    lower, equal = np.empty(len(rank), np.int64), np.empty(len(rank), np.int64)
    seen = np.zeros(distinct + 1, np.int64)  # entries of earlier blocks with a lower rank
    before = np.tri(BLOCK, k=-1, dtype=bool)
    for start in range(0, len(rank), BLOCK):
        some = rank[start : start + BLOCK]
        part, mask = slice(start, start + len(some)), before[: len(some), : len(some)]
        lower[part] = seen[some] + np.count_nonzero((some[None] < some[:, None]) & mask, axis=1)
        equal[part] = seen[some + 1] - seen[some] + np.count_nonzero((some[None] == some[:, None]) & mask, axis=1)
        seen[1:] += np.cumsum(np.bincount(some, minlength=distinct))
    return lower, equal
