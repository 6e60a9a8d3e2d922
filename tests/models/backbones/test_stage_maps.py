"""Backbones: maps, norms, freezing, settings of the authors, impossible settings."""

from typing import Any

import pytest
import torch
from torch import nn

from models.backbones import BackboneSettings, backbone_settings, create_backbone
from models.common.options import ModelOptionError


def test_the_last_four_maps_are_returned_or_those_that_are_chosen() -> None:
    x = torch.rand(1, 3, 64, 96)
    maps = create_backbone("test_resnet")
    assert maps.reductions == [4, 8, 16, 32]
    assert [tuple(y.shape) for y in maps(x)] == [
        (1, chs, 64 // side, 96 // side) for chs, side in zip(maps.channels, maps.reductions, strict=True)
    ]
    assert create_backbone("test_resnet", out_indices=(1, 3)).reductions == [4, 16]
    small = create_backbone("lsas_resnet29_cifar", in_chans=1)
    assert [tuple(y.shape[1:]) for y in small(x[:, :1])] == [(64, 64, 96), (128, 32, 48), (256, 16, 24)]


@pytest.mark.parametrize("size", [(33, 47), (64, 40)])
@pytest.mark.parametrize(
    "name", ["lsas_resnet29_cifar", "sb_resnet29_cifar", "adaptive_resnet26_small", "augmented_resnet26_small"]
)
def test_maps_of_any_size(name: str, size: tuple[int, int]) -> None:
    maps = create_backbone(name).eval()
    with torch.no_grad():
        found = maps(torch.rand(1, 3, *size))
    for y, reduction in zip(found, maps.reductions, strict=True):
        assert y.shape[2:] == (-(-size[0] // reduction), -(-size[1] // reduction))
        assert bool(torch.isfinite(y).all())


def test_stages_and_norms_are_frozen() -> None:
    maps = create_backbone("lsas_resnet29_cifar", frozen_stages=1, norm="eval").train()
    frozen = [name for name, parameter in maps.named_parameters() if not parameter.requires_grad]
    assert frozen and all(name.startswith(("body.model.stem", "body.model.stages.0")) for name in frozen)
    moving = [name for name, parameter in maps.named_parameters() if parameter.requires_grad]
    assert moving and not any(name.startswith(("body.model.stem", "body.model.stages.0")) for name in moving)
    norms = [module for module in maps.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms) and maps.body.model.stages[1].training
    assert not maps.body.model.stages[0].training
    before = {name: buffer.clone() for name, buffer in maps.named_buffers()}
    sum(y.sum() for y in maps(torch.rand(2, 3, 32, 32))).backward()
    for name, buffer in maps.named_buffers():
        assert torch.equal(buffer, before[name])
    fixed = create_backbone("test_resnet", norm="frozen", frozen_stages=2)
    norms = [module for module in fixed.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not any(parameter.requires_grad for norm in norms for parameter in norm.parameters())
    trained = [name for name, parameter in fixed.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[1] for name in trained} == {"layer3", "layer4"}


def test_fcvit_has_a_norm_on_each_map_as_its_authors_use_it() -> None:
    maps = create_backbone("fcvit_micro_cifar")
    assert [type(norm).__mro__[1] for norm in maps.norms] == [nn.GroupNorm] * 3
    blocks = [module for module in maps.modules() if hasattr(module, "layer_scale_1")]
    assert blocks and all(bool((block.layer_scale_1 == 1e-6).all()) for block in blocks)
    assert all(parameter.requires_grad for parameter in maps.parameters())
    x = torch.rand(2, 3, 32, 32)
    for norm, plain, y in zip(maps.norms, maps.body(x), maps(x), strict=True):
        expected = nn.functional.group_norm(plain, 1, norm.weight, norm.bias)
        torch.testing.assert_close(y, expected)


def test_lesa_is_set_up_as_its_authors_use_it() -> None:
    settings = backbone_settings("lesa_resnet50", img_size=1024)
    assert (settings.frozen_stages, settings.norm) == (1, "eval")
    with torch.device("meta"):
        model = create_backbone(settings).body.model
    sizes = {name: module.map_size for name, module in model.named_modules() if type(module).__name__ == "BinaryTerm"}
    assert sizes.pop("stages.3.0.spatial.binary") == (64, 64)  # ahead of the stride
    assert {name.split(".")[1]: size for name, size in sizes.items()} == {"2": (64, 64), "3": (32, 32)}
    deformed = [name for name, module in model.named_modules() if type(module).__name__ == "DeformableConv"]
    assert {name.split(".")[1] for name in deformed} == {"1", "2", "3"} and len(deformed) == 4 + 6 + 3
    changed = backbone_settings("lesa_resnet26_cifar", img_size=(32, 64), norm="train", options={"groups": 4})
    assert changed.options["groups"] == 4 and changed.options["img_size"] == (32, 64) and changed.norm == "train"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "lsas_resnet_29"}, "no network has this name"),
        ({"name": "test_resnet", "norm": "evaluation"}, "Use 'eval'"),
        ({"name": "test_resnet", "output_norm": "batch"}, "groupnorm1"),
        ({"name": "test_resnet", "frozen_stages": -1}, "Use 0 for none"),
        ({"name": "test_resnet", "frozen_stages": 5}, "4 maps"),
        ({"name": "test_resnet", "out_indices": (3, 1)}, "ascending"),
        ({"name": "test_resnet", "out_indices": (9,)}, "5 maps"),
        ({"name": "sb_resnet29_cifar", "options": {"bias_channel": 2}}, "bias_channels"),
        ({"name": "lesa_resnet26_cifar", "options": {"lesa_before_stride": 2}}, "true or false"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelOptionError, match=words):
        create_backbone(BackboneSettings(**settings))


def test_blocks_are_computed_again_with_the_same_gradients() -> None:
    x = torch.rand(2, 3, 32, 32)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        maps = create_backbone("lsas_resnet29_cifar", recompute=recompute).train()
        sum(y.square().mean() for y in maps(x)).backward()
        gradients.append([parameter.grad for parameter in maps.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
