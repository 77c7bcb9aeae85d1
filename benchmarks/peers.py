"""anomalib's models behind this project's Detector contract, without Lightning around them: at their fastest.

Images come decoded and squashed by this project; what is measured is the model. Needs the extra `bench`.
"""

from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from pipeline.parts.draws import shuffled
from pipeline.protocols import Batch, Samples, Scores
from pipeline.samples import normals

BATCH = 16
LAYERS = {"mobilenetv2_100": ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"]}
LAYERS["resnet18"] = ["relu", "layer1", "layer2", "layer3", "layer4"]


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
    """A torch model of anomalib with this project's fit and score."""

    def __init__(self, model: nn.Module, backbone: dict[str, Any], after: Any) -> None:
        self._model, self._after = model, after
        self._mean = torch.tensor(backbone.get("mean", [0.485, 0.456, 0.406])).view(1, 3, 1, 1)
        self._std = torch.tensor(backbone.get("std", [0.229, 0.224, 0.225])).view(1, 3, 1, 1)

    def _images(self, batch: Batch) -> torch.Tensor:
        return (torch.from_numpy(batch.x).float() / 255 - self._mean) / self._std

    def fit(self, train: Samples) -> "Peer":
        self._model.train()
        self._model.feature_extractor.eval()
        with torch.inference_mode(False), torch.no_grad():
            for batch in normals(train).batches(BATCH):
                self._model(self._images(batch))
            self._after(self._model)
        self._model.eval()
        return self

    def score(self, batch: Batch) -> Scores:
        with torch.inference_mode():
            found = self._model(self._images(batch))
        sample = found.pred_score if found.pred_score is not None else found.anomaly_map.amax(dim=(-2, -1))
        return Scores(sample.reshape(-1).numpy().astype(np.float32), found.anomaly_map[:, 0].numpy())


class Trained(Peer):
    """The same for a model that learns by gradients."""

    def __init__(self, model: nn.Module, backbone: dict[str, Any], section: dict[str, Any]) -> None:
        super().__init__(model, backbone, None)
        self._steps, self._batch = section.get("steps", 300), section.get("batch", 8)

    def fit(self, train: Samples) -> "Trained":
        """Steps, batch, optimiser, schedule and clipping of anomalib 2.7.0's Lightning module."""
        from anomalib.models.image.supersimplenet.loss import SSNLoss

        some, rng, loss = normals(train), np.random.default_rng(0), SSNLoss()
        torch.manual_seed(0)
        model = self._model.train()
        optimiser = torch.optim.AdamW(
            [
                {"params": model.adaptor.parameters(), "lr": 1e-4},
                {"params": model.segdec.parameters(), "lr": 2e-4, "weight_decay": 1e-5},
            ]
        )
        cuts = [round(0.8 * self._steps), round(0.9 * self._steps)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, cuts, gamma=0.4)
        for batch in some[shuffled(len(some), self._steps * self._batch, rng)].batches(self._batch):
            odd, score, masks, labels = model(self._images(batch), labels=torch.zeros(len(batch)))
            optimiser.zero_grad()
            loss(pred_map=odd, pred_score=score, target_mask=masks, target_label=labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        model.eval()
        return self


def anomalib(name: str, section: dict[str, Any]) -> Peer:
    """anomalib's `name` with the backbone, levels, coreset, dimensions, steps and batch of a params section."""
    backbone = section["backbone"]
    usual = {"patchcore": [2, 3], "padim": [1, 2, 3], "supersimplenet": [2, 3]}
    if name not in usual:
        raise SystemExit(f"no peer for {name} here: {', '.join(usual)}")
    levels = backbone.get("levels") or usual[name]
    layers = [LAYERS[backbone["name"]][level] for level in levels]
    if name == "supersimplenet":
        import timm
        from anomalib.models.image.supersimplenet.torch_model import SupersimplenetModel

        create = timm.create_model
        with patch.object(timm, "create_model", lambda *a, **k: create(*a, **{**k, "pretrained": False})):
            learner = SupersimplenetModel(backbone=backbone["name"], layers=layers)
        learner.feature_extractor.feature_extractor.feature_extractor = plain(backbone, levels)
        return Trained(learner, backbone, section)
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
