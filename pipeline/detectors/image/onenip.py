"""OneNIP: features rebuilt by looking at one normal image of the same kind, and a refiner that makes a finer map of it.

Gao (ECCV 2024), "Learning to Detect Multi-class Anomalies with Just One Normal Image Prompt",
https://arxiv.org/abs/2505.09264; jitter and neighbour masks after You et al. (NeurIPS 2022), UniAD,
https://arxiv.org/abs/2206.03687. Defaults are for a CPU; what is called the paper's is its repository's, which also
makes each synthetic anomaly anew, jitters the prompts, clips gradients (at 0.1) and has dropout (0.1).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DataError, ParamsError
from pipeline.parts import features, nets
from pipeline.parts.attention import Block, apart
from pipeline.parts.device import seeded
from pipeline.parts.draws import shuffled
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.held_images import Images, hold_images, shrunk
from pipeline.parts.images import checked
from pipeline.parts.losses import dice
from pipeline.parts.moments import Moments, standardised
from pipeline.parts.perlin import corrupted
from pipeline.parts.progress import tracked
from pipeline.parts.regions import counted, covered, enlarged, largest, pooled
from pipeline.parts.tokens import laid_out, on_grid, tokens
from pipeline.protocols import NORMAL, Batch, Samples, Scores, State
from pipeline.samples import teaching

LEVELS = (1, 2, 3)  # of a timm CNN; the paper merges the four stages of an EfficientNet-B4 at stride 16
BATCH = 16  # images looked at together
TWINS = 32  # least number of corrupted twins: with fewer normals, each has several
FINER = 4  # times that the refiner's map is finer than the tokens


@dataclass
class OneNIP:
    """One network for all categories: what each should look like it sees from one normal image of it, the prompt.

    What is rebuilt starts from the prompt's tokens, which look at the image's; those look back. Normals with textures
    blended in are to be restored to what they were; with them, and with labelled anomalies that have a mask, a refiner
    learns to tell the errors of rebuilding that mean something. Images without a category share one of their own."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = "https://arxiv.org/abs/2505.09264"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose features are rebuilt, all levels at the resolution of the coarsest."""
    prompted: bool = True
    """Whether what is rebuilt starts from a prompt; without it from positions, the same for all images."""
    back: bool = True
    """Whether the image's tokens look back at what is rebuilt, between its blocks."""
    width: Annotated[int, Ge(4)] = 64
    """Width of the tokens (the paper's 256); time grows with its square."""
    heads: Annotated[int, Ge(1)] = 4
    """Heads of the attention (the paper's 8); must divide `width`."""
    depth: Annotated[int, Ge(1)] = 2
    """Blocks in which tokens look at their own image, and again in which the prompt's look at it (the paper's 4)."""
    neighbours: Annotated[int, Ge(0)] = 7
    """Side of the square of positions around its own that a token must not look at in any block, so that nothing is
    copied (the paper's 7); fewer where the grid is small; 0 lets it look everywhere."""
    jitter: Annotated[float, Ge(0)] = 1.0
    """Standard deviation of the noise on the features in training, in theirs (the paper's about 1.2)."""
    restoration: Annotated[float, Ge(0)] = 1.0
    """Weight of restoring the corrupted (the paper's 1); 0 leaves it out."""
    refined: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the refiner's map in the whole (the paper's 0.5); the rest is the error of rebuilding. 0 leaves it."""
    hidden: Annotated[int, Ge(1)] = 32
    """Width of the refiner (the paper's 128)."""
    steps: Annotated[int, Ge(1)] = 300
    """Optimiser steps (the paper's 1,000 epochs)."""
    batch: Annotated[int, Ge(1)] = 8
    """Normal images per step; each comes with its corrupted twin and a prompt."""
    labelled: Annotated[int, Ge(0)] = 4
    """Labelled anomalies with masks added to each step for the refiner, where training has any."""
    rate: Annotated[float, Gt(0), Le(1)] = 4e-3
    """Largest learning rate of AdamW (the paper's 1e-4); it falls along half a cosine, the paper's by steps."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side."""
    cache: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of images and their features held during fit; of more, as many as it holds are drawn."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the first weights, the images drawn, the textures and the noise."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []
        if self.width % self.heads:
            raise ParamsError(f"onenip.heads must divide width = {self.width}, got {self.heads}")

    def fit(self, train: Samples) -> Self:
        """Train on uint8 images `(n, 3, h, w)`; of unknown label only where none is labelled normal, as normals.

        Raises DataError without normals, for differing sizes, a grid too small to attend to, or a `cache` too small."""
        self._features = features.load(self.backbone, LEVELS)
        where, rng = self._features.device, np.random.default_rng(self.seed)
        some = teaching(train)
        held = hold_images(some, self.cache, self.seed, normals=TWINS, beside=lambda x: 4 * self._maps(x).numel())
        known = self._known(held, rng)
        with seeded(self.seed):
            net = self._net(known.clean.shape).to(where).train()
        optimiser = torch.optim.AdamW(net.parameters(), lr=self.rate, weight_decay=1e-4)
        schedule = nets.warm_cosine(optimiser, self.steps)
        drawn = self._drawn(held, known, rng, where)
        self.history_ = nets.train(optimiser, drawn, self.steps, lambda one: self._losses(net, one), schedule)
        self.net_, self.size_, self.hash_ = nets.frozen(net), held.size, self._features.hash
        with torch.inference_mode():
            self._remember(held, known, where)
        return self

    def score(self, batch: Batch) -> Scores:
        """Maps `(n, h, w)`: errors of rebuilding, and what the refiner makes of them; scores `(n,)`: their largest.

        Raises DataError for a category unseen in training."""
        must_be_fitted(self, "net_")
        checked(batch, self.size_)
        with torch.inference_mode():
            prompts = self.net_.looked(self.prompts_)[self._places(batch)]
            maps = standardised(self._maps(shrunk(batch)[0]), self.mean_, self.spread_)
            made, odd = self.net_(maps, prompts)
            parts = ((1 - self.refined) * (made - maps).norm(dim=1), self.refined * self.scale_ * odd.sigmoid())
            local = sum(enlarged(x, self.size_, self.smooth, counted(batch, x.shape[1:], x.device)) for x in parts)
            sample = largest(local, counted(batch, self.size_, local.device))
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def embed(self, batch: Batch) -> np.ndarray:
        """Means of the backbone's features, float32 `(n, d)`, for monitoring."""
        must_be_fitted(self, "net_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "net_")
        arrays = {name: getattr(self, f"{name}_").cpu().numpy() for name in ("mean", "spread", "prompts")}
        meta = {"size": list(self.size_), "weights_sha256": self.hash_}
        meta |= {"scale": self.scale_, "categories": self.categories_}
        return State(nets.arrays(self.net_) | arrays | self._features.arrays(), meta)

    def from_state(self, state: State) -> Self:
        self._features = features.restore(self.backbone, state.arrays, LEVELS)
        where, own = self._features.device, (state.arrays[name] for name in ("mean", "spread", "prompts"))
        self.mean_, self.spread_, self.prompts_ = (torch.from_numpy(np.array(array)).to(where) for array in own)
        self.net_ = nets.restored(self._net(self.prompts_.shape), state.arrays).to(where)
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        self.scale_, self.categories_ = state.meta["scale"], list(state.meta["categories"])
        return self

    def _net(self, shape: torch.Size) -> "Rebuilding":
        """The network for maps of `shape` `(n, c, h', w')`."""
        return Rebuilding(shape, self.width, self.heads, self.depth, self.back, self.neighbours, self.hidden)

    def _places(self, batch: Batch) -> list[int]:
        """The prompt of each image. Raises DataError for a category unseen in training."""
        names = batch.category if batch.category is not None else [""] * len(batch)
        for name, sample in zip(names, batch.ids, strict=True):
            if name not in self.categories_:
                known = ", ".join(name or "none" for name in self.categories_)
                raise DataError(f"category of sample {sample} must be one of training, {known}, got {name!r}")
        return [self.categories_.index(name) for name in names]

    def _maps(self, images: np.ndarray) -> Tensor:
        """All levels of the backbone on one grid, `(n, c, h', w')`."""
        return torch.cat(on_grid(self._features.maps(images)), dim=1)

    def _known(self, held: Images, rng: np.random.Generator) -> "Known":
        """Features of all images and of a corrupted twin of each normal one."""
        clean, twins, marks, counts, moments = [], [], [], [], Moments()
        good, parts = held.label == NORMAL, [slice(start, start + BATCH) for start in range(0, len(held), BATCH)]
        for part in tracked(parts, len(parts), "features", "batches"):
            images, inside = held.x[part], held.inside[part]
            seen, where = images.copy(), held.marks[part].copy()
            for nth, i in enumerate(np.flatnonzero(good[part])):
                seen[i], where[i] = corrupted(images[good[part]], nth, rng, 1.0, inside=inside[i])
            maps = self._maps(images)
            inside = covered(torch.from_numpy(inside), maps.shape[2:])
            rows = maps.permute(0, 2, 3, 1)[good[part]][inside[good[part]].to(maps.device)]
            if len(rows):
                moments.add(rows)
            fine = (FINER * maps.shape[2], FINER * maps.shape[3])
            marks.append(F.adaptive_max_pool2d(torch.from_numpy(where)[:, None].float(), fine)[:, 0])
            for to, one in ((clean, maps), (twins, self._maps(seen)), (counts, inside)):
                to.append(one.cpu())
        self.mean_, self.spread_ = moments.found()
        for each in (clean, twins):
            for i, maps in enumerate(each):
                each[i] = standardised(maps, self.mean_.cpu(), self.spread_.cpu()).half()
        return Known(*(torch.cat(x) for x in (clean, twins, marks, counts)))

    def _drawn(self, held: Images, known: "Known", rng: np.random.Generator, where: torch.device) -> Iterator["Drawn"]:
        """What each step sees: normals with their twins, labelled anomalies, and a prompt of the same kind for each."""
        generator = torch.Generator().manual_seed(self.seed)
        names, good = np.array(held.category), held.normals
        same = {name: good[names[good] == name] for name in sorted(set(held.category))}
        bad = np.array([at for at in held.marked if len(same[held.category[at]])], int)  # those that have a prompt
        for at in good[shuffled(len(good), self.steps * self.batch, rng)].reshape(self.steps, -1):
            more = rng.choice(bad, self.labelled) if len(bad) else bad
            prompts = np.array([rng.choice(same[held.category[i]]) for i in np.r_[at, more]])
            seen = torch.cat([known.clean[at], known.twins[at], known.clean[more]]).to(where).float()
            noise = self.jitter * torch.randn(seen.shape, generator=generator)
            marks = torch.cat([torch.zeros_like(known.marks[at]), known.marks[at], known.marks[more]]).to(where)
            prompt, inside = self._prompt(known, prompts).to(where), known.inside[at].to(where)
            yield Drawn(seen, prompt, noise.to(where), marks, inside)

    def _losses(self, net: "Rebuilding", one: "Drawn") -> dict[str, Tensor]:
        """Rebuilding and restoring normal features (sections 3.1 and 3.2), and the refiner's Dice loss (3.3)."""
        n, context, clean = len(one.inside), net.looked(one.prompt), one.seen[: len(one.inside)]
        made, odd = net(one.seen, torch.cat([context[:n], context]), one.noise)
        rebuilt, restored = ((part.float() - clean) ** 2 for part in (made[:n], made[n : 2 * n]))
        return {
            "rebuilding": pooled(rebuilt, one.inside).mean(),
            "restoration": self.restoration * pooled(restored, one.inside).mean(),
            "refiner": 0.5 * dice(odd.float(), one.marks),
        }

    def _prompt(self, known: "Known", at: np.ndarray | list[int]) -> Tensor:
        """The maps of the prompts `at`, or the same mean map for all of them."""
        return known.clean[at].float() if self.prompted else torch.zeros_like(known.clean[at], dtype=torch.float32)

    def _remember(self, held: Images, known: "Known", where: torch.device) -> None:
        """The prompt of each category, the normal image whose mean is nearest to that of all, and the refiner's scale:
        the middle of the least and the largest error of the twins that count (the paper's is of all that is tested)."""
        names, good = np.array(held.category), held.normals
        self.categories_ = sorted({held.category[i] for i in good})
        prompts, ends = [], []
        for name in self.categories_:
            at = good[names[good] == name]
            means = known.clean[at].float().mean(dim=(2, 3))
            nearest = at[int((means - means.mean(dim=0)).norm(dim=1).argmin())]
            prompts.append(self._prompt(known, [nearest]).to(where))
            context = self.net_.looked(prompts[-1])
            for some in np.split(at, range(BATCH, len(at), BATCH)):
                maps, inside = known.twins[some].to(where).float(), known.inside[some].to(where)
                wrong = (self.net_(maps, context.expand(len(maps), -1, -1))[0] - maps).norm(dim=1)[inside]
                ends += [float(wrong.min()), float(wrong.max())]
        self.prompts_, self.scale_ = torch.cat(prompts), (min(ends) + max(ends)) / 2


class Known(NamedTuple):
    """Standardised features of images and of their corrupted twins, float16 `(n, c, h', w')`; marks of the twins and of
    the labelled, `(n, FINER h', FINER w')`; what counts, bool `(n, h', w')`."""

    clean: Tensor
    twins: Tensor
    marks: Tensor
    inside: Tensor


class Drawn(NamedTuple):
    """A step: n normals, their twins and m labelled, `seen`, noise and marks; n + m prompts; of the n what counts."""

    seen: Tensor
    prompt: Tensor
    noise: Tensor
    marks: Tensor
    inside: Tensor


class Rebuilding(nn.Module):
    """Tokens that look at their own image, a prompt's that look at an image's, and a refiner of what is rebuilt."""

    def __init__(
        self, shape: torch.Size, width: int, heads: int, depth: int, back: bool, neighbours: int, hidden: int
    ) -> None:
        super().__init__()
        channels, self.grid = shape[1], tuple(shape[2:])
        self.into, self.out = nn.Linear(channels, width), nn.Linear(width, channels)
        self.place = nn.Parameter(0.02 * torch.randn(1, shape[2] * shape[3], width))
        counts = (depth, depth, depth - 1 if back else 0)
        self.own, self.across, self.back = (nn.ModuleList(Block(width, heads) for _ in range(n)) for n in counts)
        self.norm = nn.LayerNorm(width)
        self.refiner = nn.Sequential(
            nets.convolution(channels, hidden),
            nn.ConvTranspose2d(hidden, hidden, 2, 2),
            nets.convolution(hidden, hidden),
            nn.ConvTranspose2d(hidden, hidden, 2, 2),
            nn.Conv2d(hidden, 1, 1),
        )
        self.register_buffer("allowed", apart(self.grid, neighbours), persistent=False)

    def looked(self, maps: Tensor) -> Tensor:
        """Tokens `(n, h w, width)` of `maps` `(n, c, h, w)`, each having looked at the others of its own image only."""
        x = self.into(tokens(maps)) + self.place
        for block in self.own:
            x = block(x, mask=self.allowed)
        return x

    def forward(self, maps: Tensor, prompt: Tensor, noise: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Maps `(n, c, h, w)`, seen through `noise`, rebuilt from `looked` prompts; logits, FINER times finer."""
        x, seen = prompt, self.looked(maps + noise)
        for nth, block in enumerate(self.across):
            x = block(x, seen, self.allowed)
            seen = self.back[nth](seen, x, self.allowed) if nth < len(self.back) else seen
        made = laid_out(self.out(self.norm(x)), self.grid)
        return made, self.refiner((made - maps).abs())[:, 0]
