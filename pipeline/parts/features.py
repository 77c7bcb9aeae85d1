"""Frozen backbones: images to lists of feature maps or tokens, from the filter bank or from any timm model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DataError, ModelError, ParamsError
from pipeline.files import sha256
from pipeline.parts import backbones
from pipeline.parts.backbones import FILTERBANK, Backbone, BackboneField, Tokens
from pipeline.parts.device import device
from pipeline.parts.filterbank import SCALES, FilterBank
from pipeline.parts.regions import counted, pooled
from pipeline.protocols import Batch

__all__ = ["Backbone", "BackboneField", "Features", "embedding", "load", "local_mean", "merge", "patches", "restore"]

PREFIX = "backbone."  # of its arrays in a detector's state
PROBE = (1, 3, 64, 64)  # shape of the image on which a folded network is compared


class Features(nn.Module):
    """A frozen backbone on its device, ready to run: convolutions in channels_last, batch norms folded."""

    def __init__(self, net: nn.Module, backbone: Backbone, mean: list[float], std: list[float], hash_: str | None):
        super().__init__()
        self.name = backbone.name
        self.hash = hash_  # sha256 of the weights file, where there is one
        self.half = backbone.precision == "bfloat16"
        self._weights = {} if isinstance(net, FilterBank) else _arrays(net)
        net = net.eval().requires_grad_(False)
        if any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
            generator = torch.Generator().manual_seed(0)
            net = backbones.folded(net, torch.rand(PROBE, generator=generator))
        self.net = net.to(memory_format=torch.channels_last)
        # (x / 255 - mean) / std as one product and one sum
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(1, 3, 1, 1)))
        self.register_buffer("shift", -(torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1))
        self.eval().requires_grad_(False).to(device())

    @property
    def device(self) -> torch.device:
        return self.scale.device

    @torch.inference_mode()
    def maps(self, x: np.ndarray) -> list[Tensor]:
        """uint8 images `(n, 3, h, w)` to one float32 map `(n, c, h', w')` per level, finest first; a ViT's tokens
        without its prefix, laid out as maps. Raises DataError for a size that the backbone cannot take."""
        return [m.float() for m in self._run(x)]

    @torch.inference_mode()
    def tokens(self, x: np.ndarray) -> list[Tensor]:
        """uint8 images `(n, 3, h, w)` to float32 tokens `(n, t, c)` per level: of a ViT its prefix tokens (class,
        registers), then the patches row by row; of any other backbone the positions of its maps, row by row."""
        if not isinstance(self.net, Tokens):
            return [m.flatten(2).transpose(1, 2) for m in self.maps(x)]
        found = self._run(x, output_fmt="NLC", return_prefix_tokens=True)
        pairs = [one if isinstance(one, tuple) else (one, one[:, :0]) for one in found]
        return [torch.cat([prefix, patches], dim=1).float() for patches, prefix in pairs]

    @torch.inference_mode()
    def maps_and_class(self, x: np.ndarray) -> tuple[list[Tensor], Tensor | None]:
        """The maps that `maps` gives, and the class token `(n, c)` of a ViT's last level, None where there is none."""
        if not isinstance(self.net, Tokens) or not self.net.prefix:
            return self.maps(x), None
        found = self._run(x, return_prefix_tokens=True)
        return [m.float() for m, _ in found], found[-1][1][:, 0].float()

    @torch.inference_mode()
    def guided(self, x: np.ndarray, inside: Tensor) -> Tensor | None:
        """The class token `(n, c)` of a ViT's last level when of all patches it looks at those `inside`, bool
        `(n, h, w)`, alone, in every block; patches see all. None for a backbone without one."""
        if not isinstance(self.net, Tokens) or not self.net.prefix:
            return None
        grid = (x.shape[2] // self.net.patch[0], x.shape[3] // self.net.patch[1])
        share = F.adaptive_avg_pool2d(inside[:, None].float().to(self.device), grid).flatten(1)
        seen = share >= share.amax(dim=1, keepdim=True).clamp(max=0.5)  # (n, t), one at least
        prefix = self.net.prefix
        mask = seen.new_ones(len(x), 1, prefix + seen.shape[1], prefix + seen.shape[1])
        mask[:, 0, 0, prefix:] = seen
        found = self._run(x, return_prefix_tokens=True, attn_mask=mask)
        return found[-1][1][:, 0].float()

    def _run(self, x: np.ndarray, **options: Any) -> list[Any]:
        if isinstance(self.net, Tokens):
            why = self.net.refusal(x.shape[2:])
            if why:
                raise DataError(f"images for the backbone {self.name} {why}, got {x.shape[2]} x {x.shape[3]}")
        images = torch.from_numpy(x).to(self.device).to(torch.float32, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            try:
                return self.net(images.mul_(self.scale).add_(self.shift), **options)
            except AssertionError as error:  # how timm refuses a size
                raise DataError(
                    f"the backbone {self.name} cannot take images of {x.shape[2]} x {x.shape[3]} pixels: {error}"
                ) from error

    def arrays(self) -> dict[str, np.ndarray]:
        """All weights under PREFIX, in half precision where that loses nothing; none for the filter bank."""
        return dict(self._weights)


def load(backbone: Backbone, usual: tuple[int, ...] | None = None) -> Features:
    """The backbone with its weights; `usual` are the levels taken of a CNN where params name none (None: all).

    Raises ParamsError for a name, level or option that does not exist, DataError for a weights file that is missing
    or does not fit, ModelError when timm's hub cannot be reached."""
    if backbone.name == FILTERBANK:
        return _filterbank(backbone)
    net, mean, std = backbones.architecture(backbone, usual)
    if backbone.weights == "none":
        return Features(net, backbone, mean, std, None)
    if backbone.weights == "pretrained":
        return Features(backbones.downloaded(backbone, usual), backbone, mean, std, None)
    path = Path(backbone.weights)
    return Features(backbones.from_file(backbone, usual, path), backbone, mean, std, sha256(path))


def restore(backbone: Backbone, arrays: Mapping[str, np.ndarray], usual: tuple[int, ...] | None = None) -> Features:
    """The backbone with the weights that `Features.arrays` gave: no weights file and no hub is needed.

    Raises ModelError when the arrays are not this backbone's."""
    if backbone.name == FILTERBANK:
        return _filterbank(backbone)
    net, mean, std = backbones.architecture(backbone, usual)
    given = {
        name.removeprefix(PREFIX): torch.from_numpy(np.array(array, np.float32 if array.dtype == np.float16 else None))
        for name, array in arrays.items()
        if name.startswith(PREFIX)
    }
    wrong = backbones.first_mismatch(net.state_dict(), given)
    if wrong:
        raise ModelError(f"the stored weights do not fit the backbone {backbone.name}: {wrong}")
    net.load_state_dict(given)
    return Features(net, backbone, mean, std, None)


def merge(maps: list[Tensor]) -> Tensor:
    """All levels at the resolution of the finest (bilinear), one after the other: `(n, sum of c, h', w')`."""
    size = maps[0].shape[2:]
    return torch.cat([maps[0], *(F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps[1:])], 1)


def local_mean(maps: Tensor, width: int = 3) -> Tensor:
    """Mean over the `width` x `width` neighbourhood (odd) of every position; same shape. Beyond the edges lie zeros, so
    what is at an edge weighs less: there a network sees its own padding, which differs from image to image."""
    return F.avg_pool2d(maps, width, stride=1, padding=width // 2)


def patches(levels: list[Tensor], batch: Batch) -> Tensor:
    """Locally aware patch features `(n, c, h', w')` of the maps of `batch` (PatchCore, equations 1 to 3; SimpleNet,
    section 3.1): local means of all levels, merged. What does not count is as if beyond the edges."""
    if batch.region is not None:
        levels = [level * counted(batch, level.shape[2:], level.device)[:, None] for level in levels]
    return merge([local_mean(level) for level in levels])


def embedding(levels: list[Tensor], batch: Batch) -> np.ndarray:
    """Means of the maps of `batch` over what counts, all levels one after the other: float32 `(n, sum of c)`."""
    means = [pooled(level, counted(batch, level.shape[2:], level.device)) for level in levels]
    return torch.cat(means, dim=1).float().cpu().numpy()


def _filterbank(backbone: Backbone) -> Features:
    for name, default in (("weights", "none"), ("mean", None), ("std", None), ("extra", {}), ("precision", "float32")):
        given = getattr(backbone, name)
        if given != default:
            raise ParamsError(f"backbone.{name} has no meaning for the fixed filters of {FILTERBANK}, got {given!r}")
    levels = tuple(backbone.levels or range(SCALES))
    if max(levels) >= SCALES:
        raise ParamsError(f"backbone.levels of {FILTERBANK} must be from 0 to {SCALES - 1}, got {list(levels)}")
    return Features(FilterBank(tuple(sorted(set(levels)))), backbone, [0.0] * 3, [1.0] * 3, None)


def _arrays(net: nn.Module) -> dict[str, np.ndarray]:
    return {PREFIX + name: _compact(tensor.cpu().numpy()) for name, tensor in net.state_dict().items()}


def _compact(array: np.ndarray) -> np.ndarray:
    """`array` as float16 where every value survives that, unchanged otherwise."""
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array
