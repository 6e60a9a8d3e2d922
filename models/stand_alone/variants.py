"""Registered networks of stand-alone self-attention: ResNet26, 38 and 50 for images of 224 px.

Source: Ramachandran et al. 2019 (arXiv 1906.05909): windows of 7 x 7 pixels, 8 heads.
"""

from collections.abc import Mapping

from models.registry.architectures import Variant, default_cfg, register_variants
from models.stand_alone.network import StandAloneResNet
from models.stand_alone.options import OPTIONS, heads_divide_channels

__all__ = ["DEPTHS", "VARIANTS"]

DEPTHS: Mapping[int, tuple[int, ...]] = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3)}
"""Blocks of each stage, by depth."""

VARIANTS = [
    Variant(
        name=f"sasa_resnet{depth}",
        summary=f"Local attention in {sum(blocks)} blocks of 64 to 512 channels, for large images.",
        network=StandAloneResNet,
        fixed={"depths": blocks},
        options=OPTIONS,
        joint_rule=heads_divide_channels,
        cfg=default_cfg(
            small_image=False,
            reduction=32,
            paper_ids="arXiv:1906.05909",
            origin_url="https://github.com/google-research/google-research",
            description=f"ResNet{depth}",
        ),
    )
    for depth, blocks in DEPTHS.items()
]

register_variants("stand_alone", VARIANTS, module=__name__)
