"""Registered non-local networks.

The large network has five non-local blocks, one behind every other block of its second and third stage, as in the
paper. The small one follows the same rule in its last two stages.

Source: Wang et al. 2018 (arXiv 1711.07971), section 4.
"""

from models.non_local.network import NonLocalResNet
from models.registry.architectures import Variant, default_cfg, register_variants
from models.spatial_bias.options import bias_options, nonlocal_fits, nonlocal_options

__all__ = ["VARIANTS"]


def _variant(name: str, summary: str, *, depths: tuple[int, ...], stages: tuple[bool, ...]) -> Variant:
    small_image = len(depths) == 3
    return Variant(
        name=name,
        summary=summary,
        network=NonLocalResNet,
        fixed={"depths": depths, "large_image": not small_image},
        defaults={"stages": stages},
        options=(*nonlocal_options(stages), *bias_options((False,) * len(depths), stages_name="bias_stages")),
        joint_rule=nonlocal_fits(depths),
        cfg=default_cfg(
            small_image=small_image,
            reduction=4 if small_image else 32,
            paper_ids="arXiv:1711.07971",
            origin_url="https://github.com/facebookresearch/video-nonlocal-net",
        ),
    )


VARIANTS = [
    _variant(
        "nonlocal_resnet50",
        "ResNet50 with five non-local blocks.",
        depths=(3, 4, 6, 3),
        stages=(False, True, True, False),
    ),
    _variant(
        "nonlocal_resnet56_cifar",
        "Small-image ResNet56 with three non-local blocks in each of its last two stages.",
        depths=(6, 6, 6),
        stages=(False, True, True),
    ),
]

register_variants("nonlocal", VARIANTS, module=__name__)
