"""Score a view of samples batch by batch, with their progress; memory grows only where maps are kept."""

from dataclasses import dataclass

import numpy as np

from pipeline.parts.progress import Progress
from pipeline.protocols import UNKNOWN, Detector, Samples, Scores


@dataclass(frozen=True)
class Scored:
    """The scores of all samples of a view, in its order, and the true labels of their parts where maps were kept.

    `scores.local` is float32 `(n, h, w)` or None; `truth`, the labels of its parts, int8 of the same shape or None."""

    scores: Scores
    truth: np.ndarray | None = None


def score(detector: Detector, samples: Samples, batch: int = 32, *, keep_local: bool) -> Scored:
    """Score every sample of `samples`, at most `batch` at a time; maps are held only with `keep_local`.

    Batches are of one size, the largest that leaves the last one half full at least: where a batch judges itself, a few
    samples on their own would be judged by too few."""
    sample, local, truth = [], [], []
    n = len(samples)
    size = next(size for size in range(batch, 0, -1) if n <= size or -n % size <= size // 2)
    with Progress(n, "score", "samples") as bar:
        for some in samples.batches(size):
            scores = detector.score(some)
            sample.append(scores.sample)
            if keep_local and scores.local is not None:
                local.append(scores.local)
                if some.mask is not None:
                    counts = some.region is None or some.region
                    truth.append(np.where(counts, some.mask, np.int8(UNKNOWN)))
            bar.update(len(some))
    return Scored(
        Scores(np.concatenate(sample), np.concatenate(local) if local else None),
        np.concatenate(truth) if truth else None,
    )
