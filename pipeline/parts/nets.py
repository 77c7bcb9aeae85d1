"""Networks of a detector: their weights as arrays and back, and the steps that train them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import DataError, ModelError
from pipeline.parts.progress import tracked

Drawn = TypeVar("Drawn")
Net = TypeVar("Net", bound=nn.Module)


def arrays(net: nn.Module, prefix: str = "net.") -> dict[str, np.ndarray]:
    """All weights and buffers of `net`, each name behind `prefix`, as `State` wants them."""
    return {prefix + name: tensor.cpu().contiguous().numpy() for name, tensor in net.state_dict().items()}


def restored(net: Net, given: Mapping[str, np.ndarray], prefix: str = "net.") -> Net:
    """`net` with the weights that `arrays` gave, ready to score. Raises ModelError when these are of another net."""
    own = {name.removeprefix(prefix): array for name, array in given.items() if name.startswith(prefix)}
    try:
        net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in own.items()})
    except RuntimeError as error:
        raise ModelError(
            f"the stored weights do not fit these hyperparameters: {' '.join(str(error).split())}"
        ) from error
    return frozen(net)


def frozen(net: Net) -> Net:
    """`net` in eval mode, its weights no longer trained."""
    return net.eval().requires_grad_(False)


def train(
    optimiser: torch.optim.Optimizer,
    batches: Iterable[Drawn],
    steps: int,
    losses: Callable[[Drawn], dict[str, Tensor]],
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    clip: float | None = None,
) -> list[dict[str, float]]:
    """One step of `optimiser` per batch on the sum of the `losses` of it, in bfloat16 on a GPU; returns them by step.

    `batches` gives `steps` of them; `clip` is the largest norm of the gradient. Raises DataError when a loss is not
    finite: nothing good comes after that."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    where = weights[0].device.type
    history = []
    for batch in tracked(batches, steps, "training", "steps"):
        with torch.autocast(where, torch.bfloat16, enabled=where == "cuda"):
            parts = losses(batch)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(weights, clip)
        optimiser.step()
        if schedule is not None:
            schedule.step()
        row = {name: float(loss.detach()) for name, loss in parts.items()}
        if not all(map(math.isfinite, row.values())):
            raise DataError(f"training diverged at step {len(history) + 1}: {row}; a smaller rate may help")
        history.append({"step": len(history) + 1, **row})
    return history


def warm_cosine(
    optimiser: torch.optim.Optimizer, steps: int, warm: int = 0, least: float = 0.0
) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rates that rise linearly over `warm` steps, then fall along half a cosine to `least` of them."""

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        share = (step - warm) / max(steps - warm, 1)
        return least + (1 - least) * (1 + math.cos(math.pi * min(share, 1.0))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
