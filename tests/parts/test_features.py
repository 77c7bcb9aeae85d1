"""Backbones. The timm ones are built without weights or from files written here; nothing is downloaded."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import DataError, ModelError, ParamsError
from pipeline.params import build
from pipeline.parts import backbones, features
from pipeline.parts.device import seeded
from pipeline.parts.features import Backbone, BackboneField

SMALL = "test_resnet.r160_in1k"  # timm's own tiny model for tests
WEIGHTS = Path(__file__).parents[2] / "../shared/weights"


def pictures(n: int = 2, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8)


@dataclass
class Looking:
    backbone: BackboneField = field(default_factory=Backbone)


def test_params_take_a_word_or_a_mapping() -> None:
    assert build(Looking, {"backbone": "resnet18"}, "x").backbone == Backbone(name="resnet18")
    given = {"name": "resnet18", "levels": [1, 2], "extra": {"pad_type": "same", "bn_eps": 1e-5, "drop": 1, "on": True}}
    backbone = build(Looking, {"backbone": given}, "x").backbone
    assert backbone == Backbone(name="resnet18", levels=[1, 2], extra=given["extra"])
    assert [type(v) for v in backbone.extra.values()] == [str, float, int, bool]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "x", "levls": [1]}, r"x\.backbone\.levls is not a known key"),
        ({"name": "x", "levels": [-1]}, r"x\.backbone\.levels\.0 must be greater than or equal to 0, got -1"),
        ({"name": "x", "mean": [0.5]}, r"x\.backbone\.mean List must have at least 3 items .* got \[0\.5\]"),
        (3, r"x\.backbone must be an object, got 3"),
    ],
)
def test_params_name_the_wrong_key(given: object, says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        build(Looking, {"backbone": given}, "x")


@pytest.mark.parametrize(
    ("backbone", "error", "says"),
    [
        (Backbone(name="resnet81"), ParamsError, r"or a timm model, got 'resnet81'; did you mean .*resnet"),
        (Backbone(name="filterbank", levels=[4]), ParamsError, r"levels of filterbank must be from 0 to 3, got \[4\]"),
        (Backbone(name="filterbank", weights="pretrained"), ParamsError, r"backbone\.weights has no meaning"),
        (Backbone(name=SMALL, levels=[9]), ParamsError, rf"timm cannot build the backbone {SMALL}"),
        (Backbone(name=SMALL, extra={"no_such": 1}), ParamsError, r"no_such"),
        (Backbone(name=SMALL, weights="absent.safetensors"), DataError, r"a file that exists, got absent\.safetensors"),
    ],
)
def test_what_cannot_be_built_is_named(backbone: Backbone, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        features.load(backbone)


def written(path: Path) -> Backbone:
    """Random weights of the small model in half precision on disk, and the backbone that reads them."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(7)
        weights = timm.create_model(SMALL).state_dict()
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, path)
    return Backbone(name=SMALL, weights=str(path), levels=[1, 2])


def test_a_weights_file_is_used_and_kept_without_the_file(tmp_path: Path) -> None:
    backbone = written(tmp_path / "small.safetensors")
    before = torch.get_rng_state()
    loaded = features.load(backbone)
    assert torch.equal(torch.get_rng_state(), before)
    arrays = loaded.arrays()
    assert all(name.startswith("backbone.") for name in arrays)
    assert arrays["backbone.net.conv1.0.weight"].dtype == np.float16  # nothing is lost, half is saved
    (tmp_path / "small.safetensors").unlink()
    again = features.restore(backbone, arrays)
    random = features.load(Backbone(name=SMALL, levels=[1, 2]))
    for one, two, other in zip(*(f.maps(pictures()) for f in (loaded, again, random)), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, two)
        assert not torch.allclose(one, other)
    assert [m.shape[2] for m in loaded.maps(pictures())] == [16, 8]


def test_weights_none_are_the_same_every_time() -> None:
    one, two = (features.load(Backbone(name=SMALL, levels=[0])).maps(pictures())[0] for _ in range(2))
    assert torch.equal(one, two)


def test_mean_and_std_are_applied() -> None:
    plain = features.load(Backbone(name=SMALL, levels=[1], mean=[0.0] * 3, std=[1.0] * 3))
    shifted = features.load(Backbone(name=SMALL, levels=[1], mean=[0.2] * 3, std=[0.5] * 3))
    x = torch.from_numpy(pictures()).float() / 255
    with torch.inference_mode():
        expected = plain.net((x - 0.2) / 0.5)[0]
    torch.testing.assert_close(shifted.maps(pictures())[0], expected, rtol=1e-3, atol=1e-4)


def test_folding_batch_norms_changes_rounding_only() -> None:
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = timm.create_model(SMALL, features_only=True, out_indices=(1, 2))
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    net.eval().requires_grad_(False)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    folded = backbones.folded(net, x)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    for one, two in zip(net(x), folded(x), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_folding_leaves_alone_what_it_would_change() -> None:
    class Crossed(torch.nn.Module):  # the batch norm registered behind the convolution comes before it
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
            self.norm.running_mean.fill_(0.5)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [self.conv(self.norm(x).relu())]

    net = Crossed().eval()
    assert backbones.folded(net, torch.rand(1, 3, 8, 8)) is net


VIT = {"name": "vit_tiny_patch16_224", "levels": [1, 3]}


def test_a_vit_gives_maps_and_tokens_of_its_blocks() -> None:
    import timm

    x = pictures(2, 64)
    loaded = features.load(Backbone(**VIT))
    maps, tokens = loaded.maps(x), loaded.tokens(x)
    assert [tuple(m.shape) for m in maps] == [(2, 192, 4, 4)] * 2
    assert [tuple(t.shape) for t in tokens] == [(2, 17, 192)] * 2  # a class token and 4 x 4 patches
    for m, t in zip(maps, tokens, strict=True):
        assert torch.equal(m.flatten(2).transpose(1, 2), t[:, 1:])
    with seeded(0), torch.inference_mode():  # block by block, independently
        net = timm.create_model(VIT["name"], dynamic_img_size=True).eval()
        seen = net._pos_embed(net.patch_embed((torch.from_numpy(x).float() / 255 - 0.5) / 0.5))
        for block in net.blocks[:4]:
            seen = block(seen)
    torch.testing.assert_close(tokens[1], seen, rtol=1e-3, atol=1e-4)
    again = features.restore(Backbone(**VIT), loaded.arrays())
    assert torch.equal(again.maps(x)[1], maps[1])
    assert sum(name.endswith("mlp.fc1.weight") for name in loaded.arrays()) == 4  # what lies behind is not kept


def test_a_vit_without_levels_is_looked_at_in_the_middle() -> None:
    loaded = features.load(Backbone("vit_tiny_patch16_224"), usual=(2, 3))
    assert loaded.net.levels == [5, 8]


def test_a_vit_may_be_looked_at_in_other_depths() -> None:
    shares = (1 / 4, 1 / 3, 1.0)
    assert backbones.at_depths(Backbone("vit_tiny_patch16_224"), shares).levels == [2, 3, 11]
    for other in (Backbone(**VIT), Backbone(SMALL), Backbone(), Backbone("no_such_model")):
        assert backbones.at_depths(other, shares) == other


def test_a_size_that_a_vit_cannot_take_is_refused_with_one_that_it_can() -> None:
    loaded = features.load(Backbone(**VIT))
    with pytest.raises(DataError, match="multiples of its patches of 16 x 16, such as 64 x 80, got 60 x 76") as error:
        loaded.maps(np.zeros((1, 3, 60, 76), np.uint8))
    assert "vit_tiny_patch16_224" in str(error.value)


def test_blocks_that_a_vit_lacks_are_refused() -> None:
    with pytest.raises(ParamsError, match=r"vit_tiny_patch16_224 with levels \[3, 12\] .*: it has the blocks 0 to 11"):
        features.load(Backbone("vit_tiny_patch16_224", levels=[3, 12]))


def test_positions_of_a_cnn_are_its_tokens() -> None:
    loaded = features.load(Backbone(name=SMALL, levels=[1]))
    (maps,), (tokens,) = loaded.maps(pictures()), loaded.tokens(pictures())
    assert torch.equal(tokens[:, 17], maps[:, :, 1, 1])  # 16 x 16 positions, row by row


def test_maps_in_another_order_are_turned() -> None:
    shapes = [
        m.shape[1:] for m in features.load(Backbone("swin_tiny_patch4_window7_224", levels=[1])).maps(pictures(1, 224))
    ]
    assert shapes == [(192, 28, 28)]


def test_half_precision_stays_near() -> None:
    full, half = (
        features.load(Backbone(name=SMALL, levels=[1], precision=p)).maps(pictures())[0]
        for p in ("float32", "bfloat16")
    )
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.05 * full.abs().max()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("layer2.0.conv1.weight"), r"layer2\.0\.conv1\.weight is missing"),
        (
            lambda w: w.update({"layer2.0.conv1.weight": torch.zeros(3, 3)}),
            r"layer2\.0\.conv1\.weight must have shape .*, got \(3, 3\)",
        ),
        (lambda w: w.update({"stray": torch.zeros(1)}), r"stray is not a weight of it"),
    ],
)
def test_a_weights_file_that_does_not_fit_names_the_first_key(tmp_path: Path, change: object, says: str) -> None:
    from safetensors.torch import load_file

    path = tmp_path / "w.safetensors"
    backbone = written(path)
    weights = load_file(path)
    change(weights)  # type: ignore[operator]
    save_file(weights, path)
    with pytest.raises(DataError, match=says):
        features.load(backbone)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"not weights at all")
    with pytest.raises(DataError, match=r"must be a \.safetensors file, got .*w\.pth"):
        features.load(Backbone(name=SMALL, weights=str(path)))


def test_stored_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    arrays = features.load(Backbone(name=SMALL, levels=[1])).arrays()
    with pytest.raises(ModelError, match=r"do not fit the backbone .*: net\.layer2\.\S+ is missing"):
        features.restore(Backbone(name=SMALL, levels=[1, 2]), arrays)


def test_a_hub_out_of_reach_ends_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="cannot be had from timm's cache or hub") as error:
        features.load(Backbone(name="resnet18", weights="pretrained"))
    assert "name a local .safetensors file in backbone.weights" in str(error.value)
    assert "\n" not in str(error.value)


def test_timm_waits_until_it_is_asked_for() -> None:
    program = "import sys; from pipeline.parts import features; features.load(features.Backbone()); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"timm", "torchvision", "sklearn"} & set(done.stdout.split())


def test_merging_keeps_the_finest_and_stretches_the_rest() -> None:
    fine, coarse = torch.rand(1, 2, 8, 8), torch.full((1, 3, 2, 2), 5.0)
    merged = features.merge([fine, coarse])
    assert merged.shape == (1, 5, 8, 8)
    assert torch.equal(merged[:, :2], fine)
    assert (merged[:, 2:] == 5).all()


def test_local_means_by_hand() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    means = features.local_mean(x)[0, 0]
    assert means[1, 1] == 4
    assert means[0, 0].item() == pytest.approx((0 + 1 + 3 + 4) / 9)  # zeros beyond the edges


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="../shared/weights is absent")
def test_the_shared_weights_load() -> None:
    path = str(WEIGHTS / "mobilenetv2_100.safetensors")
    extra: dict[str, bool | int | float | str] = {"pad_type": "same", "bn_eps": 1e-5}
    loaded = features.load(Backbone("mobilenetv2_100", path, [2, 3], [0.5] * 3, [0.5] * 3, extra))
    assert [tuple(m.shape) for m in loaded.maps(pictures())] == [(2, 32, 8, 8), (2, 96, 4, 4)]
    assert loaded.hash is not None


def test_a_class_token_looks_where_it_is_told() -> None:
    loaded, x = features.load(Backbone(**VIT)), pictures(2, 64)
    maps, token = loaded.maps_and_class(x)
    assert all(torch.equal(one, other) for one, other in zip(maps, loaded.maps(x), strict=True))
    assert torch.equal(token, loaded.tokens(x)[-1][:, 0])
    inside = torch.ones(2, 64, 64, dtype=torch.bool)
    inside[0, :32] = False
    guided = loaded.guided(x, inside)
    torch.testing.assert_close(guided[1], token[1], rtol=1e-4, atol=1e-5)
    assert (guided[0] - token[0]).abs().max() > 1e-3
    filters = features.load(Backbone())
    assert filters.maps_and_class(x)[1] is None
    assert filters.guided(x, inside) is None
