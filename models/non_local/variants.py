"""Registered non-local networks.

The large network has five non-local blocks, one behind every other block of its second and third stage, as in the
paper. The small ones follow the same rule in their last two stages; `nonlocal_resnet_cifar` takes its depth as an
option.

Source: Wang et al. 2018 (arXiv 1711.07971).
"""

from collections.abc import Mapping
from typing import Any

from models.common.resnet import depth_option, small_image_depths
from models.non_local.network import NonLocalResNet
from models.registry.architectures import Variant, default_cfg, register_variants
from models.spatial_bias.options import CIFAR_POOLED_SIZE, bias_options, context_rule, nonlocal_options

__all__ = ["VARIANTS"]

LARGE_DEPTHS = (3, 4, 6, 3)
LARGE_STAGES = (False, True, True, False)
CIFAR_DEPTH = 56
CIFAR_STAGES = (False, True, True)
SOURCE: Mapping[str, Any] = {
    "paper_ids": "arXiv:1711.07971",
    "origin_url": "https://github.com/facebookresearch/video-nonlocal-net",
}


def _cifar(name: str, summary: str, *, is_open: bool) -> Variant:
    blocks = (CIFAR_DEPTH - 2) // 9
    return Variant(
        name=name,
        summary=summary,
        network=NonLocalResNet,
        fixed=_cifar_shape,
        defaults={"stages": CIFAR_STAGES, "pooled_size": CIFAR_POOLED_SIZE},
        options=(
            *((depth_option(CIFAR_DEPTH),) if is_open else ()),
            *nonlocal_options(CIFAR_STAGES),
            *bias_options((False,) * 3, stages_name="bias_stages"),
        ),
        consumed=("depth",) if is_open else (),
        joint_rule=context_rule(None if is_open else (blocks,) * 3),
        cfg=default_cfg(small_image=True, reduction=4, **SOURCE),
    )


def _cifar_shape(given: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"depths": small_image_depths(given, default=CIFAR_DEPTH), "large_image": False}


VARIANTS = [
    Variant(
        name="nonlocal_resnet50",
        summary="ResNet50 with five non-local blocks.",
        network=NonLocalResNet,
        fixed={"depths": LARGE_DEPTHS, "large_image": True},
        defaults={"stages": LARGE_STAGES},
        options=(*nonlocal_options(LARGE_STAGES), *bias_options((False,) * 4, stages_name="bias_stages")),
        joint_rule=context_rule(LARGE_DEPTHS),
        cfg=default_cfg(small_image=False, reduction=32, **SOURCE),
    ),
    _cifar(
        "nonlocal_resnet56_cifar",
        "Small-image ResNet56 with three non-local blocks in each of its last two stages.",
        is_open=False,
    ),
    _cifar(
        "nonlocal_resnet_cifar",
        "Small-image ResNet of any depth with non-local blocks in its last two stages.",
        is_open=True,
    ),
]

register_variants("nonlocal", VARIANTS, module=__name__)
