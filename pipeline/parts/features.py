"""Frozen backbones: images to lists of feature maps, from the filter bank or from any timm model."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Len, MinLen
from pydantic import BeforeValidator
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DataError, ModelError, ParamsError
from pipeline.files import sha256
from pipeline.parts.device import device, seeded
from pipeline.parts.filterbank import SCALES, FilterBank

FILTERBANK = "filterbank"
PREFIX = "backbone."  # of its arrays in a detector's state


@dataclass(frozen=True)
class Backbone:
    """The network whose feature maps a detector looks at; in params the name alone will do."""

    name: Annotated[str, MinLen(1)] = FILTERBANK
    """`filterbank` (nothing to download), or any timm model by name."""
    weights: Annotated[str, MinLen(1)] = "none"
    """`pretrained` (timm's own cache or hub), the path of a .safetensors file, or `none` (random, seed 0)."""
    levels: Annotated[list[Annotated[int, Ge(0)]], MinLen(1)] | None = None
    """Which maps: timm's out_indices, or the filter bank's scales 0 to 3. Without it the detector's own choice."""
    mean: Annotated[list[float], Len(3, 3)] | None = None
    """Subtracted from RGB in [0, 1]. Without it, what timm names for the model."""
    std: Annotated[list[Annotated[float, Gt(0)]], Len(3, 3)] | None = None
    """Divides RGB after `mean`. Without it, what timm names for the model."""
    extra: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Further keyword arguments of timm.create_model, such as pad_type or bn_eps."""


def _from_word(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


# The type of a detector's field: in params a mapping of Backbone's fields, or its name alone.
BackboneField = Annotated[Backbone, BeforeValidator(_from_word)]


class Features(nn.Module):
    """A frozen backbone on its device, ready to run."""

    def __init__(self, net: nn.Module, mean: list[float], std: list[float], hash_: str | None) -> None:
        super().__init__()
        self.net = net
        self.hash = hash_  # sha256 of the weights file, where there is one
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False).to(device())

    @torch.inference_mode()
    def maps(self, x: np.ndarray) -> list[Tensor]:
        """uint8 images `(n, 3, h, w)` to one float32 map `(n, c, h', w')` per level, finest first."""
        images = torch.from_numpy(x).to(self.mean.device, torch.float32) / 255
        return self.net((images - self.mean) / self.std)

    def arrays(self) -> dict[str, np.ndarray]:
        """All weights under PREFIX, in half precision where that loses nothing; none for the filter bank."""
        if isinstance(self.net, FilterBank):
            return {}
        return {PREFIX + name: _compact(tensor.cpu().numpy()) for name, tensor in self.state_dict().items()}


def load(backbone: Backbone, usual: tuple[int, ...] | None = None) -> Features:
    """The backbone with its weights; `usual` are the timm levels taken where params name none (None: all).

    Raises ParamsError for a name, level or option that does not exist, DataError for a weights file that is missing
    or does not fit, ModelError when timm's hub cannot be reached."""
    if backbone.name == FILTERBANK:
        return _filterbank(backbone)
    net, mean, std = _architecture(backbone, usual)
    if backbone.weights == "none":
        return Features(net, mean, std, None)
    if backbone.weights == "pretrained":
        return Features(_downloaded(backbone, usual), mean, std, None)
    path = Path(backbone.weights)
    return Features(_from_file(backbone, usual, path), mean, std, sha256(path))


def restore(backbone: Backbone, arrays: Mapping[str, np.ndarray], usual: tuple[int, ...] | None = None) -> Features:
    """The backbone with the weights that `Features.arrays` gave: no weights file and no hub is needed.

    Raises ModelError when the arrays are not this backbone's."""
    if backbone.name == FILTERBANK:
        return _filterbank(backbone)
    net, mean, std = _architecture(backbone, usual)
    features = Features(net, mean, std, None)
    given = {
        name.removeprefix(PREFIX): torch.from_numpy(np.array(array, np.float32 if array.dtype == np.float16 else None))
        for name, array in arrays.items()
        if name.startswith(PREFIX)
    }
    wrong = _first_mismatch(features.state_dict(), given)
    if wrong:
        raise ModelError(f"the stored weights do not fit the backbone {backbone.name}: {wrong}")
    features.load_state_dict(given)
    return features


def merge(maps: list[Tensor]) -> Tensor:
    """All levels at the resolution of the finest (bilinear), one after the other: `(n, sum of c, h', w')`."""
    size = maps[0].shape[2:]
    return torch.cat([maps[0], *(F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps[1:])], 1)


def local_mean(maps: Tensor, width: int = 3) -> Tensor:
    """Mean over the `width` x `width` neighbourhood (odd) of every position, within the map; same shape."""
    return F.avg_pool2d(maps, width, stride=1, padding=width // 2, count_include_pad=False)


def _filterbank(backbone: Backbone) -> Features:
    for name, default in (("weights", "none"), ("mean", None), ("std", None), ("extra", {})):
        given = getattr(backbone, name)
        if given != default:
            raise ParamsError(f"backbone.{name} has no meaning for the fixed filters of {FILTERBANK}, got {given!r}")
    levels = tuple(backbone.levels or range(SCALES))
    if max(levels) >= SCALES:
        raise ParamsError(f"backbone.levels of {FILTERBANK} must be from 0 to {SCALES - 1}, got {list(levels)}")
    return Features(FilterBank(tuple(sorted(set(levels)))), [0.0] * 3, [1.0] * 3, None)


def _architecture(backbone: Backbone, usual: tuple[int, ...] | None) -> tuple[nn.Module, list[float], list[float]]:
    """The timm model with random weights, and the mean and standard deviation of its input."""
    timm = _timm()
    if not timm.is_model(backbone.name):
        near = get_close_matches(backbone.name, [FILTERBANK, *timm.list_models()], n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ParamsError(f"backbone.name must be {FILTERBANK} or a timm model, got {backbone.name!r}{hint}")
    try:
        with seeded(0):
            net = timm.create_model(backbone.name, pretrained=False, **_options(backbone, usual))
        known = timm.get_pretrained_cfg(backbone.name)
    except (TypeError, ValueError, IndexError, AssertionError, RuntimeError, AttributeError) as error:
        raise ParamsError(
            f"timm cannot build the backbone {backbone.name} with {_options(backbone, usual)}: {_line(error)}"
        ) from error
    mean = backbone.mean or list(known.mean if known else (0.485, 0.456, 0.406))
    std = backbone.std or list(known.std if known else (0.229, 0.224, 0.225))
    return net, mean, std


def _options(backbone: Backbone, usual: tuple[int, ...] | None) -> dict[str, Any]:
    levels = tuple(sorted(set(backbone.levels))) if backbone.levels else usual
    return {**backbone.extra, "features_only": True, **({"out_indices": levels} if levels else {})}


def _downloaded(backbone: Backbone, usual: tuple[int, ...] | None) -> nn.Module:
    try:
        with seeded(0):
            return _timm().create_model(backbone.name, pretrained=True, **_options(backbone, usual))
    except Exception as error:  # hub clients raise what they like
        raise ModelError(
            f"the weights of {backbone.name} cannot be had from timm's cache or hub ({_line(error)}); "
            "name a local .safetensors file in backbone.weights, or use the backbone filterbank"
        ) from error


def _from_file(backbone: Backbone, usual: tuple[int, ...] | None, path: Path) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataError(f"backbone.weights must be pretrained, none or a file that exists, got {path}")
    try:
        given = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"backbone.weights must be a .safetensors file, got {path}: {_line(error)}") from error
    timm = _timm()
    overlay = {"pretrained_cfg_overlay": {"file": str(path)}}
    try:
        # features_only loads without looking at missing keys, so the whole network is loaded first
        with seeded(0):
            timm.create_model(backbone.name, pretrained=True, **overlay, **backbone.extra)
            return timm.create_model(backbone.name, pretrained=True, **overlay, **_options(backbone, usual))
    except (RuntimeError, KeyError, ValueError) as error:
        with seeded(0):
            wanted = timm.create_model(backbone.name, pretrained=False, **backbone.extra).state_dict()
        wrong = _first_mismatch(wanted, given) or _line(error)
        raise DataError(f"the weights file {path} does not fit the backbone {backbone.name}: {wrong}") from error


def _first_mismatch(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    for key, tensor in wanted.items():
        if key not in given:
            return f"{key} is missing"
        if given[key].shape != tensor.shape:
            return f"{key} must have shape {tuple(tensor.shape)}, got {tuple(given[key].shape)}"
    return next((f"{key} is not a weight of it" for key in given if key not in wanted), None)


def _compact(array: np.ndarray) -> np.ndarray:
    """`array` as float16 where every value survives that, unchanged otherwise."""
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _timm() -> Any:
    """timm, which takes seconds to import and so waits until a model of its is asked for."""
    import timm

    logging.getLogger("timm").setLevel(logging.ERROR)
    return timm
