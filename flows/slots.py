"""One GPU, one user at a time: a global concurrency limit of Prefect, for runs of deployments.

Whoever needs a GPU holds the slot meanwhile; on a machine without one nothing is asked and nothing is waited for.
"""

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from prefect import runtime
from prefect.concurrency.sync import concurrency

GPU = "assay-gpu"  # Prefect's concurrency limit that `make serve` sets to 1
STAGES = frozenset({"train", "calibrate", "evaluate", "publish"})  # of dvc.yaml, whose detectors compute on a GPU
DEVICES = Path("/dev")


def visible() -> bool:
    """Whether this process may use an NVIDIA GPU, by the system's device files; torch is not asked."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1", "NoDevFiles"):
        return False
    if os.name == "nt":
        return shutil.which("nvidia-smi") is not None
    return any(DEVICES.glob("nvidia[0-9]*"))


def gpu() -> AbstractContextManager[None]:
    """The GPU's slot, waited for where another run holds it. A person's own runs take none and wait for none."""
    return concurrency(GPU) if visible() and runtime.deployment.id else nullcontext()


def stage(name: str) -> AbstractContextManager[None]:
    """The GPU's slot for the DVC stage `name`, such as train@knn, if it is one of STAGES."""
    return gpu() if name.partition("@")[0] in STAGES else nullcontext()
