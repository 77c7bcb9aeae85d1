"""Facts about some samples of a batch, or of the data that a version was calibrated on: what input drift is told from.

Embeddings, where a detector offers them, are float32 `(n, d)` in columns `embedding:0` and so on, of at most EMBEDDED
samples; of more than DIMS dimensions a random projection keeps the distances (Achlioptas, "Database-friendly random
projections", PODS 2001).
"""

import numpy as np
import pandas as pd

from pipeline.protocols import Detector, Modality, Samples
from pipeline.store import Stored

EMBEDDED = 64  # samples of MOST
MOST = 1000  # samples of a batch that are described
SPARED = 25
DIMS = 64
EMBEDDING = "embedding:"
SIZES = ("width", "height")  # of the raw sample, where the manifest has them
AT_A_TIME = 32  # samples decoded together


def sample(stored: Stored, samples: Samples, most: int, seed: int) -> pd.DataFrame:
    """Facts about at most `most` samples of a view, drawn at random by `seed`: one row each, indexed by id, one column
    per fact, as the modality's `describe` gives them, and its size in pixels where the manifest has it.

    The first of them, in the random order, have an embedding, too: as many as EMBEDDED is of MOST, rounded up, but at
    most one in SPARED of all samples, since each costs as much as scoring it."""
    drawn = np.random.default_rng(seed).permutation(len(samples))[:most]
    some = np.sort(drawn[: min(-(-most * EMBEDDED // MOST), -(-len(samples) // SPARED))])
    found = facts(stored.modality, samples[np.sort(drawn)])
    embedded = embeddings(stored.detector, samples[some])
    return found if embedded is None else pd.concat([found, embedded.reindex(found.index)], axis=1)


def facts(modality: Modality, samples: Samples) -> pd.DataFrame:
    """What the modality says about each sample of a view, one row each, indexed by id."""
    told = [modality.describe(batch) for batch in samples.batches(AT_A_TIME)]
    if not told:
        return pd.DataFrame()
    found = pd.concat(told)
    sizes = {name: samples.rows[name].to_numpy(np.float64) for name in SIZES if name in samples.rows}
    return found.assign(**{name: values for name, values in sizes.items() if name not in found})


def embeddings(detector: Detector, samples: Samples) -> pd.DataFrame | None:
    """The embedding of each sample, float32, indexed by id; None when the detector offers none, or without samples."""
    embed = getattr(detector, "embed", None)
    if embed is None or len(samples) == 0:
        return None
    found = np.concatenate([embed(batch) for batch in samples.batches(AT_A_TIME)]).astype(np.float32)
    if found.shape[1] > DIMS:
        signs = np.random.default_rng(0).choice(np.float32([-1, 1]), (found.shape[1], DIMS))
        found = found @ signs / np.float32(DIMS**0.5)
    return pd.DataFrame(found, index=samples.ids, columns=[f"{EMBEDDING}{i}" for i in range(found.shape[1])])
