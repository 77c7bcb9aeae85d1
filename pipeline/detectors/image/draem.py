"""DRAEM: a network that repairs images and one that compares each image with its repair.

Zavrtanik, Kristan and Skočaj (ICCV 2021), "DRAEM: A discriminatively trained reconstruction embedding for surface
anomaly detection", https://arxiv.org/abs/2108.07610. Defaults are for small images on a CPU; the paper trains with rate
1e-4 for 700 epochs, its repository with width 128, compare 64, depth 4 for the repair and 5 for the comparison, and
shrink 1, on 256 x 256 pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import ParamsError
from pipeline.parts import nets
from pipeline.parts.attenuation import Attenuation, error
from pipeline.parts.device import device, seeded
from pipeline.parts.draws import shuffled
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.held_images import Images, hold_images, shrunk, unit
from pipeline.parts.hourglass import Hourglass
from pipeline.parts.images import checked
from pipeline.parts.losses import focal
from pipeline.parts.perlin import corrupted
from pipeline.parts.regions import counted
from pipeline.parts.ssim import ssim
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import teaching

HIDDEN = 32  # width between the layers that attenuate
TOLERATED = 1.5  # times that a patch's error may exceed what it is without the texture before its features are weakened
LAYERS_RATE = 2e-2  # of Adam for these layers; it falls along half a cosine


@dataclass
class Draem:
    """Learns from normals corrupted on the fly, and from labelled anomalies with masks where there are any.

    Half of the normals of each step are corrupted by Perlin-shaped foreign textures (section 3.3). Labelled
    anomalies, real or from an augmenter, have no clean twin: they teach the comparing network only, and those without
    a mask nothing."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = "https://arxiv.org/abs/2108.07610"

    steps: Annotated[int, Ge(1)] = 400
    """Optimiser steps."""
    batch: Annotated[int, Ge(1)] = 8
    """Normal images per step."""
    labelled: Annotated[int, Ge(0)] = 4
    """Labelled anomalies with masks added to each step, where training has any."""
    width: Annotated[int, Ge(1)] = 16
    """Channels of the repairing network's first block; they double with each block up to 8 times."""
    compare: Annotated[int, Ge(1)] = 16
    """Channels of the comparing network's first block."""
    depth: Annotated[int, Ge(1), Le(6)] = 3
    """Halvings of the resolution in both networks."""
    shrink: Annotated[int, Ge(1), Le(8)] = 2
    """Side of the blocks of pixels averaged before the networks look; 2 costs a quarter of 1, and finest defects."""
    crop: Annotated[int, Ge(8)] = 64
    """Side of the windows, at random places, that are trained on, in blocks of `shrink` pixels; smaller is faster and
    sees less at once. Larger than the image is all of it, as in the paper."""
    chance: Annotated[float, Gt(0), Le(1)] = 0.5
    """Share of the normals that are corrupted (0.5 in the repository); larger teaches more of anomalies and
    less of normals."""
    opacity: Annotated[float, Ge(0), Le(1)] = 0.2
    """Least opacity of the textures (the paper's 0.1, its repository's 0.2); 1 is the most. Smaller is fainter."""
    repair: Annotated[float, Ge(0)] = 1.0
    """Weight of the repair's losses (section 3.1; 1 in the repository); 0 leaves the repair to the comparing alone."""
    rate: Annotated[float, Gt(0), Le(1)] = 2e-3
    """Learning rate of Adam; a fifth of it after 80 %, and again after 90 % of the steps, as in the repository. The
    paper's is 1e-4, a tenth of it after 400 and again after 600 of 700 epochs."""
    pool: Annotated[float, Ge(0), Le(1)] = 11 / 224
    """Side of the mean filter whose largest value is the score (equation 5), as a share of the image's shorter side;
    larger is steadier and passes over small defects. The paper's is 21 / 256."""
    attenuating: Annotated[int, Ge(0)] = 0
    """Optimiser steps of FADeR's two layers (https://arxiv.org/abs/2407.04597), learnt afterwards behind the repairing
    network, so that less of an anomaly slips through it; 0 is without."""
    gamma: Annotated[float, Ge(0)] = 2.0
    """Exponent of the focal loss; larger looks more at hard pixels."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of images held during fit; of more images than it holds, as many as it does are drawn."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the order of the images and the corruptions."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Train on uint8 images `(n, 3, h, w)`, at least shrink * 2**(depth + 1) pixels high and wide; of unknown
        label only where none is labelled normal, as normals.

        Raises ParamsError for windows too small for `depth`, DataError without normals, for images too small or of
        differing sizes, or when `cache` does not hold a normal one of each category."""
        if self.crop < 2 ** (self.depth + 1):
            raise ParamsError(
                f"draem.crop must be at least {2 ** (self.depth + 1)} for depth = {self.depth}, got {self.crop}"
            )
        some = teaching(train)
        held = hold_images(some, self.cache, self.seed, self.shrink, self.shrink * 2 ** (self.depth + 1))
        where = device()
        with seeded(self.seed):
            net = self._net().to(where, memory_format=torch.channels_last).train()
        optimiser = torch.optim.Adam(net.parameters(), lr=self.rate)
        cuts = [round(0.8 * self.steps), round(0.9 * self.steps)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, cuts, gamma=0.2)
        rng = np.random.default_rng(self.seed)
        drawn = self._drawn(held, where, self.steps, rng)
        self.history_ = nets.train(optimiser, drawn, self.steps, lambda one: self._losses(net, *one), schedule)
        self.net_, self.size_ = nets.frozen(net), held.size
        if self.attenuating:
            self._attenuate(net, self._drawn(held, where, self.attenuating, rng))
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)` and maps `(n, h, w)`: the probability of an anomaly, smoothed for the score (section 3.4)."""
        must_be_fitted(self, "net_")
        checked(batch, self.size_)
        images = unit(shrunk(batch, self.shrink)[0], next(self.net_.parameters()).device)
        with torch.inference_mode():
            odd = self.net_(images)[1].sigmoid()[:, None]
            odd = F.interpolate(odd, self.size_, mode="bilinear", align_corners=False)
            side = max(1, round(self.pool * min(self.size_)))
            odd = odd * counted(batch, self.size_, odd.device)[:, None]
            sample = F.avg_pool2d(odd, side, stride=1).amax(dim=(1, 2, 3))
        return Scores(sample.cpu().numpy(), odd[:, 0].cpu().contiguous().numpy())

    def state(self) -> State:
        must_be_fitted(self, "net_")
        return State(nets.arrays(self.net_), {"size": list(self.size_)})

    def from_state(self, state: State) -> Self:
        net = nets.restored(self._net(), state.arrays)
        self.net_ = net.to(device(), memory_format=torch.channels_last)
        self.size_ = tuple(state.meta["size"])
        return self

    def _net(self) -> "Networks":
        return Networks(self.width, self.compare, self.depth, attenuated=self.attenuating > 0)

    def _attenuate(self, net: "Networks", drawn: Iterator["Drawn"]) -> None:
        """Train the layers of `net` alone: the repair of a corrupted normal should be as good as that of its twin."""
        layers = net.layers.train().requires_grad_(True)

        def losses(one: "Drawn") -> dict[str, Tensor]:
            clean, seen = one[0], one[1][: len(one[0])]
            with torch.no_grad():
                due = error(net.repair(clean), clean)
            asked, left = layers.learned(net.repair, seen, clean, due, TOLERATED)
            return {"signal": asked, "left": left.mean()}

        optimiser = torch.optim.Adam(layers.parameters(), lr=LAYERS_RATE)
        schedule = nets.warm_cosine(optimiser, self.attenuating)
        more = nets.train(optimiser, drawn, self.attenuating, losses, schedule)
        self.history_ += [{**row, "step": row["step"] + self.steps} for row in more]
        nets.frozen(layers)

    def _drawn(self, held: Images, where: torch.device, steps: int, rng: np.random.Generator) -> Iterator["Drawn"]:
        """Per step: clean normals `(n, 3, h, w)`, what the network sees `(n + m, 3, h, w)`, the masks
        `(n + m, h, w)`; the last m are labelled anomalies."""
        good, bad = held.normals, held.marked
        order = good[shuffled(len(good), steps * self.batch, rng)].reshape(steps, -1)
        for at in order:
            windows = [self._window(held, i, rng) for i in at]
            clean, inside = (np.stack([part[window] for window in windows]) for part in (held.x, held.inside))
            pairs = [
                corrupted(clean, i, rng, self.chance, (self.opacity, 1.0), inside=inside[i]) for i in range(len(at))
            ]
            for i in rng.choice(bad, self.labelled) if len(bad) else ():
                window = self._window(held, i, rng)
                pairs.append((held.x[window], held.marks[window]))
            seen, masks = (np.stack(part) for part in zip(*pairs, strict=True))
            yield unit(clean, where), unit(seen, where), torch.from_numpy(masks).to(where)

    def _window(self, held: Images, i: int, rng: np.random.Generator) -> tuple:
        """Index of a window of image i at a random place, of a marked one around one of its marks."""
        starts = []
        about = rng.permutation(np.argwhere(held.marks[i]))[0] if held.marks[i].any() else None
        for axis, side in enumerate(held.x.shape[2:]):
            least, most = 0, max(side - self.crop, 0)
            if about is not None:
                least, most = max(least, int(about[axis]) - self.crop + 1), min(most, int(about[axis]))
            starts.append(int(rng.integers(min(least, most), most + 1)))
        return (i, ..., slice(starts[0], starts[0] + self.crop), slice(starts[1], starts[1] + self.crop))

    def _losses(self, net: "Networks", clean: Tensor, seen: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """The losses of sections 3.1 and 3.2; the repair counts only where the clean image is known."""
        repaired, logit = net(seen)
        known = repaired[: len(clean)].float()
        return {
            "ssim": self.repair * (1 - ssim(known, clean).mean()),
            "l2": self.repair * F.mse_loss(known, clean),
            "focal": focal(logit.float(), masks, self.gamma),
        }


Drawn = tuple[Tensor, Tensor, Tensor]


class Networks(nn.Module):
    """The repairing network (no skip connections) and the comparing U-Net, sections 3.1 and 3.2; between them, if
    `attenuated`, FADeR's layers, at first as good as open."""

    def __init__(self, width: int, compare: int, depth: int, attenuated: bool = False) -> None:
        super().__init__()
        self.repair = Hourglass(3, 3, width, depth, skips=False)
        self.compare = Hourglass(6, 1, compare, depth, skips=True)
        self.layers = Attenuation(self.repair, HIDDEN) if attenuated else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, 3, h, w)` in [0, 1] to the repair `(n, 3, h, w)` and the logits of an anomaly `(n, h, w)`; the paper's
        softmax over two channels is the sigmoid of their difference."""
        repaired = self.repair(x, self.layers.weaken if self.layers is not None and not self.training else None)
        return repaired, self.compare(torch.cat([repaired, x], dim=1))[:, 0]
