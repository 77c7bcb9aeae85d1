"""anomalib's models that learn by gradients, by the steps, losses and optimisers of their own Lightning modules.

Their `training_step` and `configure_optimizers` are called on a stand-in for the module, so no Lightning runs. Decoded
images are held in memory. Each recipe says what of anomalib 2.7.0 had to be set otherwise for the same backbone.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers import BATCH, LAYERS, Peer, plain
from pipeline.parts.draws import shuffled
from pipeline.parts.moments import Moments
from pipeline.protocols import Samples
from pipeline.samples import normals

UNTOUCHED = {"mean": [0.0] * 3, "std": [1.0] * 3}  # images from 0 to 1
HEADS = 4  # of attention over 128 channels: anomalib knows none so small
Backbone = dict[str, Any]


class Learner(Peer):
    """A model and the Lightning module whose training it gets: `own.steps` steps of `own.batch` images.

    `clip` is the largest norm of a gradient. `manual`: the module takes its optimiser's steps itself. `by_step`: its
    schedule is meant to advance with each step, not with each epoch. `at_once`: see Peer."""

    def __init__(
        self,
        module: type,
        model: nn.Module,
        backbone: Backbone,
        own: Any,
        clip: float | None = None,
        manual: bool = False,
        by_step: bool = False,
        at_once: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(model, backbone)
        self.at_once = at_once
        self._module, self._clip, self._manual, self._by_step = module, clip, manual, by_step
        self._steps, self._size = own.steps, own.batch
        trainer = SimpleNamespace(max_steps=own.steps, max_epochs=more.pop("max_epochs", -1))
        self._stub = SimpleNamespace(model=self._model, trainer=trainer, log=lambda *_, **__: None, **more)

    def fit(self, train: Samples) -> "Learner":
        held = np.concatenate([batch.x for batch in normals(train).batches(BATCH)])
        torch.manual_seed(0)
        model, stub = self._model.train(), self._stub
        if hasattr(model, "encoder") and isinstance(model.encoder, Grid):
            model.encoder.learn(self._images(held[at : at + BATCH]) for at in range(0, len(held), BATCH))
        made = self._module.configure_optimizers(stub)
        optimiser, schedule = (made[0][0], made[1][0]) if isinstance(made, tuple) else (made, None)
        stub.optimizers, stub.manual_backward = (lambda: optimiser), (lambda loss: loss.backward())
        order = shuffled(len(held), self._steps * self._size, np.random.default_rng(0))
        for step in range(self._steps):
            stub.global_step = step
            images = self._images(held[order[step * self._size : (step + 1) * self._size]])
            none = torch.zeros(len(images), device=images.device)
            loss = self._module.training_step(stub, SimpleNamespace(image=images, gt_mask=None, gt_label=none))["loss"]
            if not self._manual:
                optimiser.zero_grad()
                loss.backward()
                if self._clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), self._clip)
                optimiser.step()
            if schedule is not None and self._by_step:
                schedule.step()
        model.eval()
        return self


class Grid(nn.Module):
    """Maps of a CNN as the tokens that anomalib's transformers expect of a ViT's blocks: all levels on the grid of the
    finest, in standard deviations from their means, the same for each block asked for."""

    def __init__(self, backbone: Backbone, blocks: list[int]) -> None:
        super().__init__()
        self.net, self.blocks = plain(backbone).requires_grad_(False), blocks
        self.patch_size = self.net.feature_info.reduction()[0]
        self.num_register_tokens = -1  # with the class token, which is missing too, no prefix
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("spread", torch.ones(self.channels))

    @property
    def channels(self) -> int:
        return sum(self.net.feature_info.channels())

    @torch.no_grad()
    def learn(self, batches: Any) -> None:
        moments = Moments()
        for images in batches:
            moments.add(self._tokens(images).flatten(0, 1))
        mean, spread = moments.found()
        self.mean.copy_(mean)
        self.spread.copy_(spread)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            tokens = (self._tokens(images) - self.mean) / self.spread
        return {f"blocks.{i}": tokens for i in self.blocks}

    def _tokens(self, images: Tensor) -> Tensor:
        self.net.eval()
        first, *more = self.net(images)
        size = first.shape[2:]
        enlarged = [F.interpolate(level, size, mode="bilinear", align_corners=False) for level in more]
        return torch.cat([first, *enlarged], dim=1).flatten(2).transpose(1, 2)


def unloaded() -> Any:
    """Inside this, timm loads no weights: they are put in afterwards, from the file at hand."""
    import timm

    create = timm.create_model
    return patch.object(timm, "create_model", lambda *a, **k: create(*a, **{**k, "pretrained": False}))


def layers(backbone: Backbone) -> list[str]:
    return [LAYERS[backbone["name"]][level] for level in backbone["levels"]]


def in_blocks(encode: Callable[[Tensor], dict[str, Tensor]]) -> Callable[[Tensor], dict[str, Tensor]]:
    """An encoder of images to named maps that sees BATCH images at a time, so that many of them fit into memory."""

    def encoded(images: Tensor) -> dict[str, Tensor]:
        found = [encode(some) for some in images.split(BATCH)]
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    return encoded


def supersimplenet(backbone: Backbone, own: Any, size: list[int]) -> Peer:
    from anomalib.models.image.supersimplenet.lightning_model import Supersimplenet
    from anomalib.models.image.supersimplenet.loss import SSNLoss
    from anomalib.models.image.supersimplenet.torch_model import SupersimplenetModel

    with unloaded():
        model = SupersimplenetModel(backbone=backbone["name"], layers=layers(backbone))
    model.feature_extractor.feature_extractor.feature_extractor = plain(backbone)
    more = {"loss": SSNLoss(), "max_epochs": own.steps}
    return Learner(Supersimplenet, model, backbone, own, clip=1.0, by_step=True, **more)


def stfpm(backbone: Backbone, own: Any, size: list[int]) -> Peer:
    from anomalib.models.image.stfpm.lightning_model import Stfpm
    from anomalib.models.image.stfpm.loss import STFPMLoss
    from anomalib.models.image.stfpm.torch_model import STFPMModel

    with unloaded():
        model = STFPMModel(layers=layers(backbone), backbone=backbone["name"])
    model.teacher_model.feature_extractor = plain(backbone).requires_grad_(False)
    model.student_model.feature_extractor = plain({**backbone, "weights": "none"})
    return Learner(Stfpm, model, backbone, own, loss=STFPMLoss())


def reverse_distillation(backbone: Backbone, own: Any, size: list[int]) -> Peer:
    """anomalib has bottleneck and decoder for ResNets alone."""
    from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode
    from anomalib.models.image.reverse_distillation.lightning_model import ReverseDistillation
    from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
    from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel

    name = backbone["name"]
    if "resnet" not in name:
        raise SystemExit(f"anomalib's reverse distillation has a decoder for ResNets only, not for {name}")
    mode = AnomalyMapGenerationMode.ADD
    with unloaded():
        model = ReverseDistillationModel(name, tuple(size), layers(backbone), mode, pre_trained=False)
    model.encoder.feature_extractor = plain(backbone)
    return Learner(ReverseDistillation, model, backbone, own, loss=ReverseDistillationLoss())


def fastflow(backbone: Backbone, own: Any, size: list[int]) -> Peer:
    """anomalib builds its flows for four named backbones; given another network under such a name, they fit that."""
    from anomalib.models.image.fastflow.lightning_model import Fastflow
    from anomalib.models.image.fastflow.loss import FastflowLoss
    from anomalib.models.image.fastflow.torch_model import FastflowModel, timm

    net = plain(backbone)
    with patch.object(timm, "create_model", lambda *_, **__: net):
        model = FastflowModel(tuple(size), "resnet18", pre_trained=False)
    return Learner(Fastflow, model, backbone, own, loss=FastflowLoss())


def cflow(backbone: Backbone, own: Any, size: list[int]) -> Peer:
    """Ours learns from vectors drawn from all images, anomalib's from all vectors of an image, 64 at a time: it gets as
    many images as have as many vectors, at the finest level, as ours sees there. Coarser levels have fewer vectors an
    image, so of those it sees fewer than ours. Its maps are measured by the largest likelihood of the batch, which in
    the paper is the test."""
    from anomalib.models.image.cflow.lightning_model import Cflow
    from anomalib.models.image.cflow.torch_model import CflowModel

    model = CflowModel(backbone=backbone["name"], layers=layers(backbone), pre_trained=False)
    model.encoder.feature_extractor = plain(backbone).requires_grad_(False)
    model.encoder.forward = in_blocks(model.encoder.forward)
    vectors = math.prod(side // model.encoder.feature_extractor.feature_info.reduction()[0] for side in size)
    images = SimpleNamespace(steps=math.ceil(own.steps * own.batch / (vectors * BATCH)), batch=BATCH)
    return Learner(Cflow, model, backbone, images, manual=True, at_once=True, learning_rate=1e-4)


def draem(backbone: Backbone, own: Any, size: list[int]) -> Peer:
    """Without a folder of textures its anomalies are of noise, as anomalib makes them then. Its networks get the
    widths of ours, not 128 and 64: those take 8 s a step on two cores."""
    from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
    from anomalib.models.image.draem.lightning_model import Draem
    from anomalib.models.image.draem.loss import DraemLoss
    from anomalib.models.image.draem.torch_model import DiscriminativeSubNetwork, DraemModel, ReconstructiveSubNetwork

    model = DraemModel()
    model.reconstructive_subnetwork = ReconstructiveSubNetwork(base_width=own.width)
    model.discriminative_subnetwork = DiscriminativeSubNetwork(in_channels=6, out_channels=2, base_width=own.compare)
    made = PerlinAnomalyGenerator(anomaly_source_path=None, blend_factor=(0.1, 1.0))
    return Learner(Draem, model, UNTOUCHED, own, loss=DraemLoss(), augmenter=made, sspcab=False)


def _transformer(module: Any, known: str, cls: str, backbone: Backbone) -> nn.Module:
    """A model over a Grid: anomalib's sizes of ViTs in the table `known` get one more."""
    blocks = list(range(2, 10))
    grid = Grid(backbone, blocks)
    name = backbone["name"]
    sizes = {name: {"embed_dim": grid.channels, "num_heads": HEADS, "target_layers": blocks}}
    with (
        patch.dict(getattr(module, known), sizes),
        patch.object(module, "TimmFeatureExtractor", lambda *_, **__: grid),
    ):
        return getattr(module, cls)(encoder_name=name)


def _prepared(module: type, model: nn.Module, names: list[str]) -> nn.ModuleList:
    """The parts that are trained, with their first weights."""
    model.requires_grad_(False)
    parts = nn.ModuleList([getattr(model, name).requires_grad_(True) for name in names])
    module._initialize_trainable_modules(parts)
    return parts


def dinomaly(backbone: Backbone, own: Any, size: list[int]) -> Peer:
    from anomalib.models.image.dinomaly import torch_model
    from anomalib.models.image.dinomaly.lightning_model import Dinomaly

    model = _transformer(torch_model, "DINO_ARCHITECTURES", "DinomalyModel", backbone)
    parts = _prepared(Dinomaly, model, ["bottleneck", "decoder"])
    return Learner(Dinomaly, model, backbone, own, clip=0.1, by_step=True, trainable_modules=parts)


def inpformer(backbone: Backbone, own: Any, size: list[int]) -> Peer:
    from anomalib.models.image.inp_former import torch_model
    from anomalib.models.image.inp_former.lightning_model import InpFormer

    model = _transformer(torch_model, "DINOV2_ARCHITECTURES", "InpFormerModel", backbone)
    parts = _prepared(InpFormer, model, ["bottleneck", "decoder", "aggregation", "prototype_token"])
    return Learner(InpFormer, model, backbone, own, clip=0.1, by_step=True, trainable_modules=parts)


Recipe = Callable[[Backbone, Any, list[int]], Peer]
RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (supersimplenet, stfpm, reverse_distillation, fastflow, cflow, draem, dinomaly, inpformer)
}
