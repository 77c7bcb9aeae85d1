"""Networks of a detector: their weights as arrays and back, and the steps that train them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DataError, ModelError
from pipeline.parts.progress import tracked

Drawn = TypeVar("Drawn")
Net = TypeVar("Net", bound=nn.Module)
Shape = tuple[int, int, int]  # of one map: channels, rows, columns


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


def convolution(inputs: int, outputs: int, width: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution, batch norm and ReLU; `n` rows become ceil(n / stride)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, width, stride, padding=width // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """The basic block of a ResNet (He et al., CVPR 2016): two convolutions, and the input added before the last ReLU,
    itself through a convolution of 1 x 1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = convolution(inputs, outputs, stride=stride), convolution(outputs, outputs)[:2]
        same = inputs == outputs and stride == 1
        self.beside = nn.Identity() if same else convolution(inputs, outputs, 1, stride)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.beside(x))


class Decoder(nn.Module):
    """A code `(n, c, h, w)` to maps of `shapes`, given finest first, the coarsest made first: enlarged to the size of
    each level, a residual block, and a convolution of 1 x 1 to its channels. It sees nothing but the code."""

    def __init__(self, channels: int, shapes: list[Shape], width: int) -> None:
        super().__init__()
        self.sizes = [(h, w) for _, h, w in shapes]
        widths = [width * 2**i for i in range(len(shapes))]  # finer levels are narrower
        self.blocks = nn.ModuleList(
            [Residual(before, own) for before, own in zip([*widths[1:], channels], widths, strict=True)]
        )
        self.heads = nn.ModuleList([nn.Conv2d(own, c, 1) for own, (c, _, _) in zip(widths, shapes, strict=True)])

    def forward(self, code: Tensor) -> list[Tensor]:
        found, x = [], code
        for size, block, head in reversed(list(zip(self.sizes, self.blocks, self.heads, strict=True))):
            x = block(F.interpolate(x, size, mode="bilinear", align_corners=False))
            found.append(head(x))
        return found[::-1]


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
