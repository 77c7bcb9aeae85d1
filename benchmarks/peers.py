"""anomalib's models behind this project's Detector contract, without Lightning around them: at their fastest.

Images come decoded and squashed by this project; what is measured is the model. Needs the extra `bench`.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.parts.device import device
from pipeline.protocols import Batch, Samples, Scores
from pipeline.samples import normals

BATCH = 16
LAYERS = {"mobilenetv2_100": ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"]}
LAYERS["resnet18"] = ["relu", "layer1", "layer2", "layer3", "layer4"]
LEVELS = {"patchcore": (2, 3), "padim": (1, 2, 3), "supersimplenet": (2, 3)}  # (1, 2, 3) of all others


def plain(backbone: dict[str, Any], levels: list[int] | None = None) -> nn.Module:
    """The backbone as timm makes it, cut to its levels."""
    import timm

    weights = backbone.get("weights", "none")
    return timm.create_model(
        backbone["name"],
        pretrained=weights != "none",
        pretrained_cfg_overlay={"file": weights} if weights not in ("none", "pretrained") else None,
        features_only=True,
        out_indices=levels or backbone.get("levels") or (2, 3),
        **backbone.get("extra", {}),
    ).eval()


class Peer:
    """A torch model of anomalib with this project's fit and score; `after` ends the fit of one without gradients.

    `at_once`: what it finds of an image depends on the others of its batch, so that the test is to be one."""

    at_once = False

    def __init__(self, model: nn.Module, backbone: dict[str, Any], after: Any = None) -> None:
        self._model, self._after = model.to(device()), after
        self._mean = torch.tensor(backbone.get("mean", [0.485, 0.456, 0.406])).view(1, 3, 1, 1)
        self._std = torch.tensor(backbone.get("std", [0.229, 0.224, 0.225])).view(1, 3, 1, 1)

    def _images(self, x: np.ndarray) -> torch.Tensor:
        return ((torch.from_numpy(x).float() / 255 - self._mean) / self._std).to(device())

    def fit(self, train: Samples) -> "Peer":
        self._model.train()
        self._model.feature_extractor.eval()
        with torch.inference_mode(False), torch.no_grad():
            for batch in normals(train).batches(BATCH):
                self._model(self._images(batch.x))
            self._after(self._model)
        self._model.eval()
        return self

    def score(self, batch: Batch) -> Scores:
        with torch.inference_mode():
            found = self._model(self._images(batch.x))
        local = found.anomaly_map.float().cpu()
        sample = found.pred_score.float().cpu() if found.pred_score is not None else local.flatten(1).amax(dim=1)
        return Scores(sample.reshape(-1).numpy(), local.reshape(len(batch), *local.shape[-2:]).numpy())


def anomalib(name: str, section: dict[str, Any], own: Any, size: list[int]) -> Peer:
    """anomalib's `name` with the backbone and levels of a params section; of `own`, our detector built from it, it has
    coreset, dimensions, steps and batch. Raises SystemExit where anomalib, or this file, has no such model."""
    from benchmarks.peer_training import RECIPES

    if name not in (*RECIPES, "patchcore", "padim"):
        raise SystemExit(f"no peer for {name} here: patchcore, padim, {', '.join(RECIPES)}")
    backbone = section.get("backbone", {})
    levels = list(backbone.get("levels") or LEVELS.get(name, (1, 2, 3)))
    if name in RECIPES:
        return RECIPES[name]({**backbone, "levels": levels}, own, size)
    layers = [LAYERS[backbone["name"]][level] for level in levels]
    if name == "patchcore":
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        model = PatchcoreModel(layers=layers, backbone=backbone["name"], pre_trained=False)
        share = section.get("coreset", 0.01)

        def after(fitted: Any) -> None:
            fitted.subsample_embedding(share)
    else:
        from anomalib.models.image.padim.torch_model import PadimModel

        model = PadimModel(
            backbone=backbone["name"], layers=layers, pre_trained=False, n_features=section.get("dims", 100)
        )

        def after(fitted: Any) -> None:
            fitted.fit()

    model.feature_extractor.feature_extractor = plain(backbone, levels)
    return Peer(model, backbone, after)
