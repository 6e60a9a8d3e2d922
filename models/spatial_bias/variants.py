"""Registered names of the spatial-bias paper: bottleneck ResNets for large and for small images.

Source: Go & Ryu 2022 (arXiv 2302.12505), with the shapes of the authors' code.
"""

from collections.abc import Callable
from typing import Any

from timm.models import PretrainedCfg, generate_default_cfgs
from torch import nn

from models.registry.architectures import build, default_cfg, register_architecture
from models.spatial_bias.network import SpatialBiasResNet
from models.spatial_bias.options import bias_options, nonlocal_fits, nonlocal_options

__all__ = ["default_cfgs"]


def _cfg(*, small_image: bool) -> PretrainedCfg:
    return default_cfg(
        small_image=small_image,
        num_classes=100 if small_image else 1000,
        reduction=4 if small_image else 32,
        paper_ids="arXiv:2302.12505",
        origin_url="https://github.com/GoJunHyeong/SpatialBias",
    )


default_cfgs = generate_default_cfgs(
    {
        f"sb_resnet{size}": _cfg(small_image=size.endswith("cifar"))
        for size in ("50", "101", "152", "29_cifar", "56_cifar", "110_cifar", "164_cifar")
    }
)


def _register(*depths: int) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Registers a network of three (small images) or four stages."""
    biased, plain = (True, True, True, False)[: len(depths)], (False,) * len(depths)
    return register_architecture(
        family="spatial_bias",
        options=(*bias_options(biased), *nonlocal_options(plain, prefix="nonlocal_")),
        joint_rule=nonlocal_fits(depths, prefix="nonlocal_"),
    )


def _sb_resnet(name: str, depths: tuple[int, ...], *, pretrained: bool, **given: Any) -> nn.Module:
    shape = {"depths": depths, "widths": (64, 128, 256, 512), "large_image": True, "stem_width": 64}
    return build(name, SpatialBiasResNet, pretrained=pretrained, given=given, **shape)


def _sb_resnet_cifar(depth: int, *, pretrained: bool, **given: Any) -> nn.Module:
    blocks = (depth - 2) // 9
    shape = {"depths": (blocks,) * 3, "widths": (16, 32, 64), "large_image": False, "stem_width": 16}
    return build(f"sb_resnet{depth}_cifar", SpatialBiasResNet, pretrained=pretrained, given=given, **shape)


@_register(3, 4, 6, 3)
def sb_resnet50(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet50 with spatial bias in all stages but the last."""
    return _sb_resnet("sb_resnet50", (3, 4, 6, 3), pretrained=pretrained, **given)


@_register(3, 4, 23, 3)
def sb_resnet101(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet101 with spatial bias in all stages but the last."""
    return _sb_resnet("sb_resnet101", (3, 4, 23, 3), pretrained=pretrained, **given)


@_register(3, 8, 36, 3)
def sb_resnet152(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet152 with spatial bias in all stages but the last."""
    return _sb_resnet("sb_resnet152", (3, 8, 36, 3), pretrained=pretrained, **given)


@_register(3, 3, 3)
def sb_resnet29_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet29 with spatial bias in all stages."""
    return _sb_resnet_cifar(29, pretrained=pretrained, **given)


@_register(6, 6, 6)
def sb_resnet56_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet56 with spatial bias in all stages."""
    return _sb_resnet_cifar(56, pretrained=pretrained, **given)


@_register(12, 12, 12)
def sb_resnet110_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet110 with spatial bias in all stages."""
    return _sb_resnet_cifar(110, pretrained=pretrained, **given)


@_register(18, 18, 18)
def sb_resnet164_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet164 with spatial bias in all stages."""
    return _sb_resnet_cifar(164, pretrained=pretrained, **given)
