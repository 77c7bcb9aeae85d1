"""timm models as frozen networks: which one, with which weights, cut down to the levels that are looked at."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Len, MinLen
from pydantic import BeforeValidator
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.errors import DataError, ModelError, ParamsError
from pipeline.parts.device import seeded

FILTERBANK = "filterbank"
DEPTHS = (1 / 2, 3 / 4)  # of a ViT's blocks, where params name no levels


@dataclass(frozen=True)
class Backbone:
    """The network whose feature maps a detector looks at; in params the name alone will do."""

    name: Annotated[str, MinLen(1)] = FILTERBANK
    """`filterbank` (nothing to download), or any timm model by name."""
    weights: Annotated[str, MinLen(1)] = "none"
    """`pretrained` (timm's own cache or hub), the path of a .safetensors file, or `none` (random, seed 0)."""
    levels: Annotated[list[Annotated[int, Ge(0)]], MinLen(1)] | None = None
    """Which maps: timm's out_indices of a CNN, the blocks of a ViT (from 0), or the filter bank's scales 0 to 3.
    Without it the detector's own choice; of a ViT the blocks at half and three quarters of its depth, or the
    detector's own."""
    mean: Annotated[list[float], Len(3, 3)] | None = None
    """Subtracted from RGB in [0, 1]. Without it, what timm names for the model."""
    std: Annotated[list[Annotated[float, Gt(0)]], Len(3, 3)] | None = None
    """Divides RGB after `mean`. Without it, what timm names for the model."""
    extra: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Further keyword arguments of timm.create_model, such as pad_type or bn_eps."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's own arithmetic; its maps are float32 either way. bfloat16 is faster where the machine has it."""


def _from_word(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


# The type of a detector's field: in params a mapping of Backbone's fields, or its name alone.
BackboneField = Annotated[Backbone, BeforeValidator(_from_word)]


def architecture(
    backbone: Backbone, usual: tuple[int, ...] | None, seed: int = 0
) -> tuple[nn.Module, list[float], list[float]]:
    """The timm model with random weights, and the mean and standard deviation of its input."""
    timm = _timm()
    if not timm.is_model(backbone.name):
        near = get_close_matches(backbone.name, [FILTERBANK, *timm.list_models()], n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ParamsError(f"backbone.name must be {FILTERBANK} or a timm model, got {backbone.name!r}{hint}")
    try:
        net = _created(backbone, usual, seed, pretrained=False)
        known = timm.get_pretrained_cfg(backbone.name)
    except (TypeError, ValueError, IndexError, AssertionError, RuntimeError, AttributeError) as error:
        levels = list(backbone.levels or usual or [])
        raise ParamsError(
            f"timm cannot build the backbone {backbone.name} with levels {levels} and extra {backbone.extra}: "
            f"{_line(error)}"
        ) from error
    mean = backbone.mean or list(known.mean if known else (0.485, 0.456, 0.406))
    std = backbone.std or list(known.std if known else (0.229, 0.224, 0.225))
    return net, mean, std


def downloaded(backbone: Backbone, usual: tuple[int, ...] | None) -> nn.Module:
    """The model with timm's own weights. Raises ModelError when these cannot be had."""
    try:
        return _created(backbone, usual, 0, pretrained=True)
    except Exception as error:  # hub clients raise what they like
        raise ModelError(
            f"the weights of {backbone.name} cannot be had from timm's cache or hub ({_line(error)}); "
            "name a local .safetensors file in backbone.weights, or use the backbone filterbank"
        ) from error


def from_file(backbone: Backbone, usual: tuple[int, ...] | None, path: Path) -> nn.Module:
    """The model with the weights of a .safetensors file of the whole network.

    Raises DataError when the file is missing or does not fit, naming the first key that does not."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataError(f"backbone.weights must be pretrained, none or a file that exists, got {path}")
    try:
        given = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"backbone.weights must be a .safetensors file, got {path}: {_line(error)}") from error
    overlay = {"pretrained_cfg_overlay": {"file": str(path)}}
    try:
        # features_only loads without looking at missing keys, so the whole network is loaded first
        with seeded(0):
            _timm().create_model(backbone.name, pretrained=True, **overlay, **backbone.extra)
        return _created(backbone, usual, 0, pretrained=True, **overlay)
    except (RuntimeError, KeyError, ValueError) as error:
        with seeded(0):
            wanted = _timm().create_model(backbone.name, pretrained=False, **backbone.extra).state_dict()
        wrong = first_mismatch(wanted, given) or _line(error)
        raise DataError(f"the weights file {path} does not fit the backbone {backbone.name}: {wrong}") from error


def first_mismatch(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the first key of `given` that does not fit `wanted`; None when all do."""
    for key, tensor in wanted.items():
        if key not in given:
            return f"{key} is missing"
        if given[key].shape != tensor.shape:
            return f"{key} must have shape {tuple(tensor.shape)}, got {tuple(given[key].shape)}"
    return next((f"{key} is not a weight of it" for key in given if key not in wanted), None)


class Tokens(nn.Module):
    """A ViT cut behind the last of the blocks that are looked at."""

    def __init__(self, net: nn.Module, levels: tuple[int, ...]) -> None:
        super().__init__()
        if levels[-1] >= len(net.blocks):
            raise ValueError(f"it has the blocks 0 to {len(net.blocks) - 1}")
        net.prune_intermediate_layers(list(levels), prune_norm=True, prune_head=True)
        self.net, self.levels = net, list(levels)
        self.patch = tuple(net.patch_embed.patch_size)
        self.prefix = net.num_prefix_tokens if getattr(net, "cls_token", None) is not None else 0  # class token first
        self.fixed = None if getattr(net, "dynamic_img_size", False) else tuple(net.patch_embed.img_size)

    def forward(self, x: Tensor, output_fmt: str = "NCHW", **options: Any) -> list[Any]:
        return self.net.forward_intermediates(
            x, self.levels, norm=False, stop_early=True, output_fmt=output_fmt, intermediates_only=True, **options
        )

    def refusal(self, size: tuple[int, int]) -> str | None:
        """Why images of `size` (h, w) cannot be taken, and what could be."""
        if self.fixed is not None and size != self.fixed:
            return f"must be {self.fixed[0]} x {self.fixed[1]} pixels, the only size that it takes"
        near = [max(p, round(side / p) * p) for side, p in zip(size, self.patch, strict=True)]
        if tuple(near) != size:
            return (
                f"must be multiples of its patches of {self.patch[0]} x {self.patch[1]}, such as {near[0]} x {near[1]}"
            )
        return None


class Maps(nn.Module):
    """A network of timm's features_only, its maps in the order `(n, c, h, w)` whatever its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, x: Tensor) -> list[Tensor]:
        found = self.net(x)
        return [m.permute(0, 3, 1, 2) for m in found] if self.last else found


def _created(backbone: Backbone, usual: tuple[int, ...] | None, seed: int, **options: Any) -> nn.Module:
    """The model at its levels: a ViT's tokens, or the maps of features_only for all others."""
    levels = tuple(sorted(set(backbone.levels))) if backbone.levels else usual
    with seeded(seed):
        create, given = _timm().create_model, {**options, **backbone.extra}
        with torch.device("meta"):
            whole = create(backbone.name, pretrained=False, **backbone.extra)
        if not (hasattr(whole, "num_prefix_tokens") and hasattr(whole, "prune_intermediate_layers")):
            return Maps(
                create(backbone.name, features_only=True, **({"out_indices": levels} if levels else {}), **given)
            )
        if hasattr(whole, "dynamic_img_size"):
            given = {"dynamic_img_size": True, **given}
        depth = len(whole.blocks)
        blocks = tuple(backbone.levels or (max(0, int(depth * share) - 1) for share in DEPTHS))
        return Tokens(create(backbone.name, **given), tuple(sorted(set(blocks))))


def at_depths(backbone: Backbone, shares: Sequence[float]) -> Backbone:
    """`backbone` with the blocks that end at these shares of its depth for levels, where it is a ViT and none are
    named; any other as it is."""
    if backbone.levels or backbone.name == FILTERBANK or not _timm().is_model(backbone.name):
        return backbone
    try:
        with torch.device("meta"), seeded(0):
            whole = _timm().create_model(backbone.name, pretrained=False, **backbone.extra)
    except (TypeError, ValueError, IndexError, AssertionError, RuntimeError, AttributeError):
        return backbone  # `architecture` says why
    if not (hasattr(whole, "num_prefix_tokens") and hasattr(whole, "prune_intermediate_layers")):
        return backbone
    depth = len(whole.blocks)
    return replace(backbone, levels=sorted({max(0, round(depth * share) - 1) for share in shares}))


def folded(net: nn.Module, probe: Tensor) -> nn.Module:
    """`net` with each batch norm folded into the convolution before it, where that changes nothing but rounding.

    Fewer passes over memory (`python -m benchmarks.parts folding` measures what that saves). Pairs are taken in the
    order of registration; on `probe` `(1, 3, h, w)` the result must equal the network's, else it stays as it was."""
    from copy import deepcopy

    with torch.inference_mode(False), torch.no_grad():
        changed, before = deepcopy(net), None
        for name, module in list(changed.named_modules()):
            follows = isinstance(module, nn.BatchNorm2d) and isinstance(before, nn.Conv2d)
            if follows and before.out_channels == module.num_features:
                fused = fuse_conv_bn_eval(before, module)
                before.weight, before.bias = fused.weight, fused.bias
                after = [getattr(module, part) for part in ("drop", "act") if hasattr(module, part)]
                parent, _, own = name.rpartition(".")
                setattr(changed.get_submodule(parent), own, nn.Sequential(*after))
            if not list(module.children()):
                before = module
        for one, other in zip(net(probe), changed(probe), strict=True):
            if (one - other).abs().max() > 1e-3 * one.abs().max().clamp(min=1e-6):
                return net
    return changed


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _timm() -> Any:
    """timm, which takes seconds to import and so waits until a model of its is asked for."""
    import timm

    logging.getLogger("timm").setLevel(logging.ERROR)
    return timm
