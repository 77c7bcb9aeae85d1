"""A conformal test martingale: evidence that scores are no longer exchangeable with the calibration scores.

Vovk, Nouretdinov & Gammerman, "Testing exchangeability on-line", ICML 2003; for change points Volkhonskiy, Burnaev,
Nouretdinov, Gammerman & Vovk, "Inductive conformal martingales for change-point detection", COPA 2017, and Vovk, Petej,
Nouretdinov, Ahlberg, Carlsson & Gammerman, "Retrain or not retrain", COPA 2021. As long as nothing drifts it ever
reaches c with a probability of at most 1 / c, however many batches come.

**p-values** are online ones, see ranks.py: each score is ranked among the calibration scores and all earlier scores of
the stream. The price of their validity: the pool learns what it sees, so drift has to be noticed while it is new.

**What is watched** are scores below the alarm threshold, ranked among calibration scores below it. Batches hold
anomalies and the calibration scores do not; alarms have a test of their own (drift.py). Let the threshold t be the k-th
lowest of the calibration scores, for a fixed k. That it is t depends on the scores only through how many lie below, at
and above t. So, given t and which scores lie below it, these are independent draws from the normals' distribution cut
off at t, and so are the stream's normals below t: they are exchangeable. *Strictly* below it, since of an atom at t the
calibration set holds at least one by construction. This is exact for the rules that promise a rate, whether of false
alarms (the threshold is such an order statistic) or of escapes (it comes from anomalies alone), and for gaussian (from
neither). The others look at all normals to set a threshold, so each of them leans a little towards one side of it:
see simulation.py for what that does. Anomalies below the threshold are escapes; few of them do no harm, as bets need a
shift of at least an eighth of a standard deviation to gain.

**Groups** with thresholds of their own are ranked within themselves, each below its own threshold; all other samples
together (Vovk, Lindsay, Nouretdinov & Gammerman, "Mondrian confidence machine", 2003: these p-values are independent
and uniform as well). A change of the mix of groups is no drift then. Where the group of a score is not known, all
scores below the lowest threshold are ranked together, and such a change is one.

**Scores** are held as distances below the threshold, rounded, which given the threshold is a fixed monotone map and
changes nothing but ties; those are broken at random by a generator that knows the place in the stream.

**Bets**: with z the normal quantile of 1 - p, cut at +-LIMIT so that no single score can win much, exp(a z + b z^2)
over its mean under uniform p: shifts of the scores up and down, and spreads that grow or shrink, mixed over when it
began (mixture.py).
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import numpy as np
from safetensors.numpy import load, save
from scipy.special import ndtr, ndtri

from pipeline.errors import DataError
from pipeline.monitoring.mixture import Mixture
from pipeline.monitoring.ranks import Pool, rounded
from pipeline.threshold import Calibration

LIMIT = 3.0  # standard deviations
SHIFTS = (0.25, 0.5, 1.0, 2.0)  # of the scores, in standard deviations, up and down
SPREADS = (0.5, 2.0)  # their standard deviation, as a multiple of what it was
REST = ""  # the pool of all that have no threshold of their own
AT_ONCE = 65_536  # scores that are ranked together


def _bets() -> np.ndarray:
    """Each bet's factors of z and of z^2 and the log of its mean under uniform p, `(K, 3)`. A spread s has the
    likelihood ratio exp(z^2 (1 - 1 / s^2) / 2) / s, before the cut."""
    factors = [(sign * shift, 0.0) for shift in SHIFTS for sign in (1, -1)]
    factors += [(0.0, (1 - spread**-2) / 2) for spread in SPREADS]
    nodes, weights = np.polynomial.legendre.leggauss(100)
    z = np.concatenate([nodes * LIMIT, [-LIMIT, LIMIT]])
    density = np.exp(-((nodes * LIMIT) ** 2) / 2) / (2 * np.pi) ** 0.5
    mass = np.concatenate([weights * LIMIT * density, 2 * [ndtr(-LIMIT)]])
    return np.array([(a, b, np.log(np.sum(mass * np.exp(a * z + b * z**2)))) for a, b in factors])


BETS = _bets()


@dataclass(frozen=True)
class Watched:
    """Which scores a calibration lets the martingale see: `cuts`, the threshold below which a group's scores (REST: all
    others) are watched, and the calibration scores below it, float32 `(n,)` each. `groups`: whether there are any."""

    cuts: dict[str, np.float32]
    scores: dict[str, np.ndarray]

    @property
    def grouped(self) -> bool:
        return len(self.cuts) > 1

    @classmethod
    def of(cls, calibration: Calibration, grouped: bool) -> Self:
        """`grouped`: whether the group of each score will be known."""
        normals, alarm = calibration.scores, np.float32(calibration.thresholds["alarm"])
        own = {value: np.float32(found["alarm"]) for value, found in calibration.own.items()}
        if not own or not grouped:
            cut = min([alarm, *own.values()])
            return cls({REST: cut}, {REST: normals[normals < cut]})
        groups = np.asarray(calibration.known.normals_of, object)
        parts = {value: normals[groups == value] for value in own}
        cuts = {**own, REST: alarm}
        parts[REST] = normals[~np.isin(groups, list(own))]
        return cls(cuts, {value: parts[value][parts[value] < cut] for value, cut in cuts.items()})

    def places(self, scores: np.ndarray, of: Sequence[str] | None) -> dict[str, np.ndarray]:
        """Where in `scores` those of each pool are that are watched. Raises DataError without their groups, or for
        NaN."""
        if np.isnan(scores).any():
            raise DataError(f"scores to watch must be numbers, got NaN for {np.isnan(scores).sum()} of {len(scores)}")
        if not self.grouped:
            return {REST: np.flatnonzero(scores < self.cuts[REST])}
        if of is None or len(of) != len(scores):
            raise DataError("scores to watch need their groups, as thresholds go by them")
        groups = np.asarray(of, object)
        groups = np.where(np.isin(groups, list(self.cuts)), groups, REST)
        return {value: np.flatnonzero((groups == value) & (scores < cut)) for value, cut in self.cuts.items()}


@dataclass
class Martingale:
    """The state after some scores; `seed` is of the lots that break ties. `mixture` has its value and maximum."""

    pools: dict[str, Pool]
    mixture: Mixture
    seed: int

    @classmethod
    def start(cls, watched: Watched, key: str) -> Self:
        """Before the first score; `key` names what it is for, equal keys give equal lots."""
        pools = {value: Pool() for value in watched.cuts}
        for value, scores in watched.scores.items():
            pools[value].add(_distances(scores, watched.cuts[value]))
        return cls(pools, Mixture.of(len(BETS)), int.from_bytes(sha256(key.encode()).digest()[:8], "big"))

    def feed(self, watched: Watched, scores: np.ndarray, of: Sequence[str] | None = None) -> np.ndarray:
        """Take scores, float32 `(m,)`, in the order of the stream, with their groups `of` where thresholds go by them;
        the log of the martingale after each of those that are watched.

        In how many pieces they come makes no difference. Raises DataError for NaN, or without groups."""
        scores = np.asarray(scores, np.float32)
        if len(scores) > AT_ONCE:
            parts = [slice(at, at + AT_ONCE) for at in range(0, len(scores), AT_ONCE)]
            return np.concatenate([self.feed(watched, scores[p], None if of is None else of[p]) for p in parts])
        return self.mixture.feed(log_bets(self._p_values(watched, scores, of)))

    def _p_values(self, watched: Watched, scores: np.ndarray, of: Sequence[str] | None) -> np.ndarray:
        """The online p-values of those of `scores` that are watched, in order."""
        places = watched.places(scores, of)
        seen = np.sort(np.concatenate(list(places.values())))
        lots = _lots(self.seed, self.mixture.steps, len(seen))
        p = np.empty(len(seen))
        for value, at in places.items():
            here = np.searchsorted(seen, at)
            p[here] = self.pools[value].p_values(_distances(scores[at], watched.cuts[value]), lots[here])
        return p

    def to_bytes(self) -> bytes:
        """All of it, to be stored; equal states give equal bytes."""
        arrays: dict[str, np.ndarray] = {f"mixture/{k}": v for k, v in self.mixture.arrays().items()}
        for i, pool in enumerate(self.pools.values()):
            arrays |= {f"{i}/values": pool.values, f"{i}/counts": pool.counts}
        arrays["names"] = np.frombuffer(json.dumps([self.seed, *self.pools]).encode(), np.uint8)
        return zlib.compress(save(arrays), 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The state that `to_bytes` gave."""
        arrays = load(zlib.decompress(data))
        seed, *names = json.loads(arrays["names"].tobytes())
        pools = {name: Pool(arrays[f"{i}/values"], arrays[f"{i}/counts"]) for i, name in enumerate(names)}
        mixture = {k.removeprefix("mixture/"): v for k, v in arrays.items() if k.startswith("mixture/")}
        return cls(pools, Mixture.from_arrays(mixture), seed)


def log_bets(p: np.ndarray) -> np.ndarray:
    """The log of every bet on each p-value in (0, 1]: float64 `(m, K)`; high where p is low bets on rising scores."""
    z = np.clip(-ndtri(np.asarray(p, np.float64)), -LIMIT, LIMIT)[:, None]
    return BETS[:, 0] * z + BETS[:, 1] * z**2 - BETS[:, 2]


def _lots(seed: int, start: int, count: int) -> np.ndarray:
    """Uniform numbers in (0, 1] for the places `start` to `start + count` of a stream."""
    generator = np.random.Philox(key=seed)
    generator.advance(start // 4)  # blocks of four numbers
    return 1.0 - np.random.Generator(generator).random(start % 4 + count)[start % 4 :]


def _distances(scores: np.ndarray, cut: np.float32) -> np.ndarray:
    """How far scores lie below their threshold, rounded: the higher the score, the lower."""
    return rounded((np.float64(cut) - scores.astype(np.float64)).astype(np.float32))
