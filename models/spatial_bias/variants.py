"""Registered networks of the spatial-bias paper: bottleneck ResNets for large and for small images.

Source: Go & Ryu 2022 (arXiv 2302.12505), with the shapes of the authors' code.
"""

from models.common.resnet import BOTTLENECK_DEPTHS, trunk
from models.registry.architectures import Variant, default_cfg, register_variants
from models.spatial_bias.network import SpatialBiasResNet
from models.spatial_bias.options import bias_options, nonlocal_fits, nonlocal_options

__all__ = ["VARIANTS"]

LARGE_DEPTHS = (50, 101, 152)
CIFAR_DEPTHS = (29, 56, 110, 164)


def _variant(name: str, summary: str, depths: tuple[int, ...]) -> Variant:
    stages = len(depths)
    small_image = stages == 3
    return Variant(
        name=name,
        summary=summary,
        network=SpatialBiasResNet,
        fixed={"depths": depths, **trunk(large_image=not small_image)},
        options=(
            *bias_options((True, True, True, False)[:stages]),
            *nonlocal_options((False,) * stages, prefix="nonlocal_"),
        ),
        joint_rule=nonlocal_fits(depths, prefix="nonlocal_"),
        cfg=default_cfg(
            small_image=small_image,
            reduction=4 if small_image else 32,
            paper_ids="arXiv:2302.12505",
            origin_url="https://github.com/GoJunHyeong/SpatialBias",
        ),
    )


VARIANTS = [
    *(
        _variant(
            f"sb_resnet{depth}",
            f"ResNet{depth} with spatial bias in all stages but the last.",
            BOTTLENECK_DEPTHS[depth],
        )
        for depth in LARGE_DEPTHS
    ),
    *(
        _variant(
            f"sb_resnet{depth}_cifar",
            f"Small-image ResNet{depth} with spatial bias in all stages.",
            ((depth - 2) // 9,) * 3,
        )
        for depth in CIFAR_DEPTHS
    ),
]

register_variants("spatial_bias", VARIANTS, module=__name__)
