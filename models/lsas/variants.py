"""Registered names of the sub-attention paper: LSAS networks, and SENets of the same shapes as controls.

An `lsas_` network has gates with sub-attention in its last stage (small images) or its last two (large ones),
as released; a `senet_` network has plain squeeze-and-excitation in every stage. To tell the effect of
sub-attention from that of the stages, set `order=0` in the former.

Source: Zhong et al. 2023 (arXiv 2305.05200), with the shapes of the authors' code.
"""

from collections.abc import Callable
from typing import Any

from timm.models import PretrainedCfg, generate_default_cfgs
from torch import nn

from models.common.options import ModelOption
from models.lsas.network import LsasResNet
from models.lsas.options import (
    BLOCK,
    CIFAR_DEPTHS,
    LARGE_BLOCKS,
    LSAS_OPTIONS,
    SENET_OPTIONS,
    cifar_blocks,
    depth_fits,
    gated_stages,
)
from models.registry.architectures import build, default_cfg, register_architecture

__all__ = ["default_cfgs"]

LSAS_LARGE, LSAS_CIFAR = (False, False, True, True), (False, False, True)
SENET_LARGE, SENET_CIFAR = (True, True, True, True), (True, True, True)

Register = Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]


def _cfg(name: str, depth: int, *, small_image: bool) -> PretrainedCfg:
    return default_cfg(
        small_image=small_image,
        num_classes=100 if small_image else 1000,
        reduction=4 if small_image else 32,
        paper_ids="arXiv:2305.05200" if name == "lsas" else "arXiv:1709.01507",
        origin_url="https://github.com/Qrange-group/LSAS",
        description=f"ResNet{depth}, {'small images' if small_image else 'large images'}",
    )


SHAPES = [(depth, False) for depth in LARGE_BLOCKS] + [(depth, True) for depth in CIFAR_DEPTHS]

default_cfgs = generate_default_cfgs(
    {
        f"{name}_resnet{depth}{'_cifar' if small_image else ''}": _cfg(name, depth, small_image=small_image)
        for name in ("lsas", "senet")
        for depth, small_image in SHAPES
    }
)


def _register_large(options: tuple[ModelOption, ...], stages: tuple[bool, ...]) -> Register:
    return register_architecture(family="lsas", options=(*options, gated_stages(stages)))


def _register_cifar(depth: int, options: tuple[ModelOption, ...], stages: tuple[bool, ...]) -> Register:
    return register_architecture(
        family="lsas", options=(*options, gated_stages(stages), BLOCK), joint_rule=depth_fits(depth)
    )


def _large(depth: int, *, pretrained: bool, given: dict[str, Any]) -> nn.Module:
    block, depths = LARGE_BLOCKS[depth]
    given = {"stages": LSAS_LARGE, **given}
    shape = {"depths": depths, "block": block, "large_image": True}
    return build(f"lsas_resnet{depth}", LsasResNet, pretrained=pretrained, given=given, **shape)


def _large_control(depth: int, *, pretrained: bool, given: dict[str, Any]) -> nn.Module:
    block, depths = LARGE_BLOCKS[depth]
    given = {"stages": SENET_LARGE, **given}
    shape = {"depths": depths, "block": block, "large_image": True, "order": 0}
    return build(f"senet_resnet{depth}", LsasResNet, pretrained=pretrained, given=given, **shape)


def _depths(depth: int, block: object) -> tuple[int, ...]:
    """Blocks of each stage; those of a bottleneck for a block that is refused later, with its reason."""
    blocks = cifar_blocks(depth, "basic") if block == "basic" else None
    return (blocks or (depth - 2) // 9,) * 3


def _cifar(depth: int, *, pretrained: bool, given: dict[str, Any]) -> nn.Module:
    given = {"stages": LSAS_CIFAR, **given}
    shape = {"depths": _depths(depth, given.get("block")), "large_image": False}
    return build(f"lsas_resnet{depth}_cifar", LsasResNet, pretrained=pretrained, given=given, **shape)


def _cifar_control(depth: int, *, pretrained: bool, given: dict[str, Any]) -> nn.Module:
    given = {"stages": SENET_CIFAR, **given}
    shape = {"depths": _depths(depth, given.get("block")), "large_image": False, "order": 0}
    return build(f"senet_resnet{depth}_cifar", LsasResNet, pretrained=pretrained, given=given, **shape)


@_register_large(LSAS_OPTIONS, LSAS_LARGE)
def lsas_resnet18(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet18, sub-attention in the last two stages."""
    return _large(18, pretrained=pretrained, given=given)


@_register_large(LSAS_OPTIONS, LSAS_LARGE)
def lsas_resnet34(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet34, sub-attention in the last two stages."""
    return _large(34, pretrained=pretrained, given=given)


@_register_large(LSAS_OPTIONS, LSAS_LARGE)
def lsas_resnet50(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet50, sub-attention in the last two stages."""
    return _large(50, pretrained=pretrained, given=given)


@_register_large(LSAS_OPTIONS, LSAS_LARGE)
def lsas_resnet101(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet101, sub-attention in the last two stages."""
    return _large(101, pretrained=pretrained, given=given)


@_register_large(LSAS_OPTIONS, LSAS_LARGE)
def lsas_resnet152(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet152, sub-attention in the last two stages."""
    return _large(152, pretrained=pretrained, given=given)


@_register_cifar(29, LSAS_OPTIONS, LSAS_CIFAR)
def lsas_resnet29_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet29, sub-attention in the last stage."""
    return _cifar(29, pretrained=pretrained, given=given)


@_register_cifar(47, LSAS_OPTIONS, LSAS_CIFAR)
def lsas_resnet47_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet47, sub-attention in the last stage."""
    return _cifar(47, pretrained=pretrained, given=given)


@_register_cifar(56, LSAS_OPTIONS, LSAS_CIFAR)
def lsas_resnet56_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet56, sub-attention in the last stage."""
    return _cifar(56, pretrained=pretrained, given=given)


@_register_cifar(110, LSAS_OPTIONS, LSAS_CIFAR)
def lsas_resnet110_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet110, sub-attention in the last stage."""
    return _cifar(110, pretrained=pretrained, given=given)


@_register_cifar(164, LSAS_OPTIONS, LSAS_CIFAR)
def lsas_resnet164_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet164, sub-attention in the last stage."""
    return _cifar(164, pretrained=pretrained, given=given)


@_register_large(SENET_OPTIONS, SENET_LARGE)
def senet_resnet18(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet18, squeeze-and-excitation in every stage."""
    return _large_control(18, pretrained=pretrained, given=given)


@_register_large(SENET_OPTIONS, SENET_LARGE)
def senet_resnet34(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet34, squeeze-and-excitation in every stage."""
    return _large_control(34, pretrained=pretrained, given=given)


@_register_large(SENET_OPTIONS, SENET_LARGE)
def senet_resnet50(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet50, squeeze-and-excitation in every stage."""
    return _large_control(50, pretrained=pretrained, given=given)


@_register_large(SENET_OPTIONS, SENET_LARGE)
def senet_resnet101(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet101, squeeze-and-excitation in every stage."""
    return _large_control(101, pretrained=pretrained, given=given)


@_register_large(SENET_OPTIONS, SENET_LARGE)
def senet_resnet152(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet152, squeeze-and-excitation in every stage."""
    return _large_control(152, pretrained=pretrained, given=given)


@_register_cifar(29, SENET_OPTIONS, SENET_CIFAR)
def senet_resnet29_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet29, squeeze-and-excitation in every stage."""
    return _cifar_control(29, pretrained=pretrained, given=given)


@_register_cifar(47, SENET_OPTIONS, SENET_CIFAR)
def senet_resnet47_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet47, squeeze-and-excitation in every stage."""
    return _cifar_control(47, pretrained=pretrained, given=given)


@_register_cifar(56, SENET_OPTIONS, SENET_CIFAR)
def senet_resnet56_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet56, squeeze-and-excitation in every stage."""
    return _cifar_control(56, pretrained=pretrained, given=given)


@_register_cifar(110, SENET_OPTIONS, SENET_CIFAR)
def senet_resnet110_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet110, squeeze-and-excitation in every stage."""
    return _cifar_control(110, pretrained=pretrained, given=given)


@_register_cifar(164, SENET_OPTIONS, SENET_CIFAR)
def senet_resnet164_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet164, squeeze-and-excitation in every stage."""
    return _cifar_control(164, pretrained=pretrained, given=given)
