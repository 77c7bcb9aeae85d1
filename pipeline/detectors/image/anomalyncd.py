"""AnomalyNCD: which kinds of anomaly there are, found without a label among the regions that a detector points at.

Huang, Li, Liu, Xue, Wang and Zhou (CVPR 2025), "AnomalyNCD: Towards Novel Anomaly Class Discovery in Industrial
Scenarios", https://arxiv.org/abs/2410.14379.
"""

from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.parts import discovery, features, nets
from pipeline.parts.backbones import at_depths
from pipeline.parts.binarise import boxes, looks, root_area, search_range, standing_out
from pipeline.parts.coreset import Coreset
from pipeline.parts.device import seeded
from pipeline.parts.discovery import NOVEL, Heads, Space
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.fitted import must_be_fitted
from pipeline.parts.images import checked
from pipeline.parts.neighbours import Bank
from pipeline.parts.progress import Progress
from pipeline.parts.regions import counted, enlarged, largest
from pipeline.protocols import ANOMALOUS, Batch, Samples, Scores, State
from pipeline.samples import normals

LEVELS = (2, 3)  # of a timm CNN, for the maps and for the regions
DEPTHS = (1 / 2, 3 / 4, 1)  # where those of a ViT end; the class token is the last one's
BATCH = 16  # images, or regions, looked at together
NOTHING = -1  # the class of an image without an anomalous region


@dataclass
class AnomalyNCD:
    """A bank of normal patches says where anomalies are; what is cut out around each teaches a classifier of its own.

    `score` is that of the bank: the distance to the nearest of a coreset of normal patches, largest of the map. The
    anomalous images of training, whose kinds need not be known, are binarised into main elements, cut out around
    these, and shown to the frozen backbone under the mask of the region: on a ViT the class token looks at the region
    alone in every block (the paper masks the last nine and trains the last), on any other backbone the maps are pooled
    over the region. On these vectors an adapter and cosine classifiers are trained on their own pseudo labels, which
    are drawn to a normal class where the map is low. `classify` then says which class an image has. Without anomalous
    images only the map is learned, and `classify` says so.

    Our choice, not the paper's: a backbone that is not trained leaves a good geometry to start from, so the adapter
    begins as the identity and the prototypes at the centres that k-means finds among principal components of the
    vectors (the paper's begin at random), and regions are looked at in several ways when classes are told, too."""

    learns_from: ClassVar[Literal["normals", "labels"]] = "labels"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.14379"

    backbone: BackboneField = field(default_factory=Backbone)
    """Whose features make patches and regions (the paper's is DINO's ViT-B/8)."""
    classes: Annotated[int, Ge(2)] = 3
    """Kinds of anomaly to find; the paper takes it as known."""
    base: list[str] = field(default_factory=list)
    """Categories whose anomalies are of known kinds, told by the manifest's `defect`: they teach what kinds are, and
    are none of `classes`. The paper takes those of another data set."""
    coreset: Annotated[float, Gt(0), Le(1)] = 0.01
    """Share of all normal patches that the bank keeps; smaller is faster and coarser."""
    memory: Annotated[int, Ge(1)] = 1000
    """Most MB (10^6 bytes) of patches held while the bank is filled."""
    smooth: Annotated[float, Ge(0), Le(1)] = 4 / 224
    """Sigma of the blur of the map, as a share of the image's shorter side."""
    thresholds: Annotated[int, Ge(4)] = 64
    """Thresholds tried on each map (the paper's 64); fewer is faster and coarser."""
    erosion: Annotated[int, Ge(1)] = 3
    """Side, in pixels, of the square that erodes a thresholded map (the paper's 6 of larger images); 1 does not."""
    crop: Annotated[int, Ge(16)] = 112
    """Side, in pixels, at which a region is shown to the backbone (the paper's 224); time grows with its square."""
    guided: bool = True
    """Whether the mask of a region guides what is seen of it; without, the whole cut-out counts."""
    views: Annotated[int, Ge(2)] = 4
    """Times that each region is looked at, turned, mirrored and shifted each time but the first; fewer is faster. The
    paper makes two in training, and tells classes from one."""
    parts: Annotated[int, Ge(1)] = 32
    """Principal components of the vectors that classes are found among (the paper keeps all)."""
    steps: Annotated[int, Ge(0)] = 300
    """Optimiser steps; 0 leaves the classes at the centres of k-means. The paper trains for 50 epochs."""
    batch: Annotated[int, Ge(4)] = 64
    """Regions per step, each in two views (the paper's 32)."""
    rate: Annotated[float, Gt(0), Le(1)] = 1e-3
    """Learning rate of AdamW, falling along a cosine (the paper's is 3e-3 of SGD)."""
    hidden: Annotated[int, Ge(1)] = 128
    """Width of the adapter, which the paper does without."""
    heads: Annotated[int, Ge(1)] = 1
    """Classifiers trained side by side, of which the one with the least loss is kept."""
    even: Annotated[float, Ge(0)] = 4.0
    """Weight of the loss that keeps classes from being empty (the paper's); 0 lets one take all."""
    known: Annotated[float, Ge(0), Le(1)] = 0.3
    """Weight of what `base` teaches against what the rest does, where there are base categories (the paper's)."""
    correction: Annotated[float, Ge(0), Le(1)] = 0.5
    """Height of the map, 0 and 1 at the medians of normal images and of anomalies, below which a region's pseudo label
    is drawn to the normal class (the paper's); 0 does without correction and normal class."""
    merge: Annotated[float, Gt(0)] = 0.15
    """Temperature of the softmax of the square roots of areas, as shares of the image's side, by which an image's
    regions vote; larger is closer to one region, one vote."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the coreset's start, the views, the first weights and the draws."""

    def __post_init__(self) -> None:
        self.history_: list[dict[str, float]] = []

    def fit(self, train: Samples) -> Self:
        """Fill the bank from the normal images, uint8 `(n, 3, h, w)`, and find classes among the anomalous ones.

        Raises DataError without normals, for fewer anomalies or regions than `classes`, when nothing is known of the
        base categories, and for images of differing sizes."""
        odd = train[train.label == ANOMALOUS]
        kind = discovery.kinds(odd.rows, self.base)
        novel = int((kind < 0).sum())
        if 0 < novel < self.classes or (len(odd) and not novel):
            raise DataError(f"anomalyncd needs at least one anomaly for each of {self.classes} classes, got {novel}")
        self._features = features.load(at_depths(self.backbone, DEPTHS), LEVELS)
        self._fill(normals(train))
        self.history_, self.net_, self.space_ = [], None, None
        self.known_, self.range_ = int(kind.max(initial=-1)) + 1, (0.0, 0.0)
        if novel:
            good = normals(train)
            good = good[np.unique(np.linspace(0, len(good) - 1, min(novel, len(good))).round().astype(int))]
            self._discover([(odd, kind), (good, np.full(len(good), NOVEL))])
        return self

    def score(self, batch: Batch) -> Scores:
        """Scores `(n,)`, the largest of the maps, and maps `(n, h, w)`, in units of feature distance."""
        must_be_fitted(self, "bank_")
        checked(batch, self.size_)
        local = self._map(batch)
        sample = largest(local, counted(batch, self.size_, local.device))
        return Scores(sample.cpu().numpy(), local.cpu().numpy())

    def classify(self, batch: Batch) -> np.ndarray:
        """The class of each image, int64 `(n,)`: 0 to `classes` - 1, or -1 where the map has no region, or its regions
        look normal. Raises DataError when training had no anomalous images."""
        must_be_fitted(self, "bank_")
        answer = np.full(len(batch), NOTHING, np.int64)
        seen, whose, areas = self.regions(batch)
        with torch.inference_mode():
            if len(seen):
                share = self._shares(torch.from_numpy(seen).to(self.space_.mean.device)).cpu()
        for i in np.unique(whose):
            own = whose == i
            best = int(discovery.merged(share[own], torch.from_numpy(areas[own]), self.merge).argmax())
            answer[i] = best - bool(self.correction)  # the normal class comes first, and gives -1
        return answer

    def regions(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the frozen backbone sees of the regions of a batch, float32 `(r, views, d)`, which image each is of,
        `(r,)`, and the roots of their areas, `(r,)`, as shares of the image's side; the first view is the plain one.
        Raises DataError as `classify` does."""
        must_be_fitted(self, "bank_")
        images = checked(batch, self.size_)
        if self.net_ is None:
            raise DataError("classify needs anomalous images in training, and this anomalyncd was trained without any")
        shown, whose, areas = [], [], []
        for i, local in enumerate(self._map(batch).cpu().numpy()):
            mask = standing_out(local, *self.range_, self.thresholds, self.erosion)
            for box in boxes(mask):
                shown += looks(images[i], mask, box, self.crop, self.views, np.random.default_rng(self.seed))
                whose.append(i)
                areas.append(root_area(mask, box))
        seen = self._vectors(shown).cpu().numpy() if shown else np.zeros((0, len(self.space_.mean)), np.float32)
        return seen.reshape(-1, self.views, len(self.space_.mean)), np.array(whose, int), np.array(areas, np.float32)

    def embed(self, batch: Batch) -> np.ndarray:
        """What the backbone sees of each image, float32 `(n, d)`: means of its features, for monitoring."""
        must_be_fitted(self, "bank_")
        return features.embedding(self._features.maps(checked(batch, self.size_)), batch)

    def state(self) -> State:
        must_be_fitted(self, "bank_")
        arrays = {"bank": self.bank_.cpu().numpy(), **self._features.arrays()}
        if self.net_ is not None:
            own = {name: tensor.cpu().numpy() for name, tensor in self.space_._asdict().items()}
            arrays |= {**nets.arrays(self.net_), **own}
        meta = {"size": list(self.size_), "weights_sha256": self.hash_, "known": self.known_}
        return State(arrays, {**meta, "range": list(self.range_)})

    def from_state(self, state: State) -> Self:
        self._features = features.restore(at_depths(self.backbone, DEPTHS), state.arrays, LEVELS)
        where = self._features.device
        self.bank_ = torch.from_numpy(np.array(state.arrays["bank"])).to(where)
        self._search = Bank(self.bank_)
        self.size_, self.hash_ = tuple(state.meta["size"]), state.meta["weights_sha256"]
        self.known_, self.range_ = state.meta["known"], tuple(state.meta["range"])
        self.net_ = self.space_ = None
        if "mean" in state.arrays:
            self.space_ = Space(*(torch.from_numpy(np.array(state.arrays[n])).to(where) for n in Space._fields))
            net = Heads(self.space_.axes.shape[1], self.hidden, self._outputs(), 1)
            self.net_ = nets.restored(net, state.arrays).to(where)
        return self

    def _outputs(self) -> int:
        """Classes of a head: the known ones, the normal one where there is correction, and those to find."""
        return self.known_ + bool(self.correction) + self.classes

    def _shares(self, seen: Tensor) -> Tensor:
        """Probabilities of the classes to find, the normal one first, `(r, classes)`, of regions `(r, views, d)`."""
        _, cosines = self.net_(self.space_.placed(seen).flatten(0, 1))
        return discovery.guessed(cosines[0].unflatten(0, seen.shape[:2]).mean(dim=1), self.known_, discovery.STUDENT)

    def _fill(self, some: Samples) -> None:
        """The bank: a coreset of the patches of normal images."""
        size = coreset = None
        with Progress(len(some), "patches", "images") as bar:
            for batch in some.batches(BATCH):
                images = checked(batch, size)
                size = images.shape[2:]
                maps = features.patches(self._features.maps(images), batch)
                coreset = coreset or Coreset.within(self.memory, self.coreset, maps.shape, len(some), seed=self.seed)
                coreset.add(maps.permute(0, 2, 3, 1)[counted(batch, maps.shape[2:], maps.device)])
                bar.update(len(batch))
        self.bank_, self.size_, self.hash_ = coreset.centres(), size, self._features.hash
        self._search = Bank(self.bank_)

    def _map(self, batch: Batch) -> Tensor:
        """Distances to the bank, enlarged and blurred, `(n, h, w)`; 0 where nothing counts."""
        return self._enlarged(self._distance(batch), batch)

    @torch.inference_mode()
    def _distance(self, batch: Batch) -> Tensor:
        """The same of patches, `(n, h', w')`."""
        maps = features.patches(self._features.maps(batch.x), batch)
        inside = counted(batch, maps.shape[2:], maps.device)
        distance = maps.new_zeros(inside.shape)
        distance[inside] = self._search.nearest(maps.permute(0, 2, 3, 1)[inside])[0][:, 0]
        return distance

    @torch.inference_mode()
    def _enlarged(self, distance: Tensor, batch: Batch) -> Tensor:
        inside = counted(batch, distance.shape[1:], distance.device)
        local = enlarged(distance, self.size_, self.smooth, inside)
        return local * counted(batch, self.size_, local.device)

    def _vectors(self, shown: list[tuple[np.ndarray, np.ndarray]]) -> Tensor:
        """What the backbone sees of cut-outs `(3, crop, crop)` under their masks, `(r, d)`."""
        found = []
        for start in range(0, len(shown), 4 * BATCH):
            x, masks = (np.stack(each) for each in zip(*shown[start : start + 4 * BATCH], strict=True))
            if self.guided:
                token = self._features.guided(x, torch.from_numpy(masks))
            else:
                token = self._features.maps_and_class(x)[1]
            if token is None:  # masked pooling
                region = masks if self.guided else None
                cut = Batch([""] * len(x), x, np.full(len(x), ANOMALOUS, np.int8), region=region)
                token = torch.from_numpy(features.embedding(self._features.maps(x), cut)).to(self._features.device)
            found.append(token)
        return torch.cat(found)

    def _discover(self, parts: list[tuple[Samples, np.ndarray]]) -> None:
        """Regions of the images of some samples, each with their kinds, and a classifier of these."""
        coarse, tops = [], []  # maps are enlarged twice, as all of them at the images' size may not fit
        for batch in chain.from_iterable(some.batches(BATCH) for some, _ in parts):
            coarse.append(self._distance(batch))
            tops.append(self._enlarged(coarse[-1], batch).amax(dim=(1, 2)).cpu())
        self.range_ = search_range(torch.cat(tops).numpy())
        kind, rng, at = np.concatenate([each for _, each in parts]), np.random.default_rng(self.seed), 0
        vectors, peaks, whose, areas = [], [], [], []
        for batch, distance in zip(chain.from_iterable(some.batches(BATCH) for some, _ in parts), coarse, strict=True):
            cuts, maps = [], self._enlarged(distance, batch).cpu().numpy()
            for i, local in enumerate(maps, at):
                mask = standing_out(local, *self.range_, self.thresholds, self.erosion)
                if kind[i] != NOVEL and batch.mask is not None and (batch.mask[i - at] == ANOMALOUS).any():
                    mask = batch.mask[i - at] == ANOMALOUS  # what is known need not be found
                for box in boxes(mask):
                    cuts += looks(batch.x[i - at], mask, box, self.crop, self.views, rng)
                    peaks.append(float(local[box.top : box.top + box.side, box.left : box.left + box.side].max()))
                    whose.append(i)
                    areas.append(root_area(mask, box))
            at += len(batch)
            vectors += [self._vectors(cuts).cpu()] if cuts else []
        image = np.array(whose, int)
        kinds, odd = torch.from_numpy(kind[image]), torch.from_numpy(image < len(parts[0][1]))
        found, wanted = int(((kinds == NOVEL) & odd).sum()), self.classes
        if found < wanted:
            raise DataError(f"anomalyncd needs at least one anomalous region for each of {wanted} classes, got {found}")
        height = discovery.heights(torch.tensor(peaks), odd)
        weight = torch.from_numpy(discovery.says(np.array(areas), image, self.merge)).float()
        given = (torch.cat(vectors).unflatten(0, (-1, self.views)), height, kinds, odd, weight)
        self._learn(*(each.to(self._features.device) for each in given))

    def _learn(self, seen: Tensor, height: Tensor, kind: Tensor, odd: Tensor, weight: Tensor) -> None:
        """Train on regions seen in several views, `(r, views, d)`, with the heights of their maps, their kinds, whether
        they are of anomalies, and their weights in the start, `(r,)`."""
        self.space_ = Space.of(seen[(kind == NOVEL) & odd].flatten(0, 1), self.parts)
        x, mean = self.space_.placed(seen), F.normalize(self.space_.placed(seen).mean(dim=1), dim=1)
        with seeded(self.seed):
            net = Heads(x.shape[2], self.hidden, self._outputs(), self.heads).to(seen.device)
        begin = discovery.starts(mean, kind, odd, weight, self.classes, bool(self.correction), self.heads, self.seed)
        net.prototypes.data.copy_(begin)
        weights = discovery.Weights(self.even, self.known if self.known_ else 0.0, self.correction)
        plan = discovery.Plan(self.steps, self.batch, self.rate, self.seed)
        self.history_, self.net_ = discovery.taught(net, x, kind, height, self.known_, weights, plan), net
