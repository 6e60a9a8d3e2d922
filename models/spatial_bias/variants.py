"""Registered networks of the spatial-bias paper: bottleneck ResNets for large and for small images.

`sb_resnet_cifar` takes its depth as an option.

Source: Go & Ryu 2023 (arXiv 2302.12505), with the shapes of the authors' code. On small images the grid has 6 x 6
cells, as the paper's numbers of parameters show, where the code has 10 x 10 for every image.
"""

import functools
from collections.abc import Mapping
from typing import Any

from models.common.resnet import BOTTLENECK_DEPTHS, depth_option, small_image_depths, trunk
from models.registry.architectures import Variant, default_cfg, register_variants
from models.spatial_bias.network import SpatialBiasResNet
from models.spatial_bias.options import (
    ATTENTION_OPTIONS,
    CIFAR_POOLED_SIZE,
    bias_options,
    context_rule,
    nonlocal_options,
)

__all__ = ["VARIANTS"]

LARGE_DEPTHS = (50, 101, 152)
CIFAR_DEPTHS = (29, 38, 56, 65, 110, 164)
OPEN_DEPTH = 38
PREFIX = "nonlocal_"
SOURCE: Mapping[str, Any] = {
    "paper_ids": "arXiv:2302.12505",
    "origin_url": "https://github.com/GoJunHyeong/SpatialBias",
}


def _large(depth: int) -> Variant:
    depths = BOTTLENECK_DEPTHS[depth]
    return Variant(
        name=f"sb_resnet{depth}",
        summary=f"ResNet{depth} with spatial bias in all stages but the last.",
        network=SpatialBiasResNet,
        fixed={"depths": depths, **trunk(large_image=True)},
        options=(
            *bias_options((True, True, True, False)),
            *ATTENTION_OPTIONS,
            *nonlocal_options((False,) * 4, prefix=PREFIX),
        ),
        joint_rule=context_rule(depths, prefix=PREFIX),
        cfg=default_cfg(small_image=False, reduction=32, **SOURCE),
    )


def _cifar(depth: int, *, is_open: bool = False) -> Variant:
    """Return the small-image network of a depth, or the one that takes its depth as an option, with a default."""
    words = "ResNet of any depth" if is_open else f"ResNet{depth}"
    return Variant(
        name="sb_resnet_cifar" if is_open else f"sb_resnet{depth}_cifar",
        summary=f"Small-image {words} with spatial bias in all stages.",
        network=SpatialBiasResNet,
        fixed=functools.partial(_cifar_shape, depth),
        defaults={"pooled_size": CIFAR_POOLED_SIZE},
        options=(
            *((depth_option(depth),) if is_open else ()),
            *bias_options((True,) * 3),
            *ATTENTION_OPTIONS,
            *nonlocal_options((False,) * 3, prefix=PREFIX),
        ),
        consumed=("depth",) if is_open else (),
        joint_rule=context_rule(None if is_open else ((depth - 2) // 9,) * 3, prefix=PREFIX),
        cfg=default_cfg(small_image=True, reduction=4, **SOURCE),
    )


def _cifar_shape(depth: int, given: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"depths": small_image_depths(given, default=depth), **trunk(large_image=False)}


VARIANTS = [
    *map(_large, LARGE_DEPTHS),
    *map(_cifar, CIFAR_DEPTHS),
    _cifar(OPEN_DEPTH, is_open=True),
]

register_variants("spatial_bias", VARIANTS, module=__name__)
