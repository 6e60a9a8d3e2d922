"""Registered networks of the adaptive-span paper: four operators in five layouts.

The adaptive network, and its controls of the same shape with fixed local attention, with attention-augmented
convolution and with convolution. All are made of bottlenecks behind a 3x3 stem of 32 channels.

Source: Parker et al. 2020 (arXiv 2004.08708), with the widths and depths of the authors' code.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from models.adaptive_span.network import AdaptiveSpanResNet, AugmentedResNet, ConvResNet, LocalAttentionResNet
from models.adaptive_span.options import (
    AUGMENTED_OPTIONS,
    CONV_OPTIONS,
    adaptive_options,
    heads_divide_channels,
    heads_divide_keys_and_values,
    local_options,
)
from models.common.options import JointRule, ModelOption, no_joint_rule
from models.registry.architectures import Variant, default_cfg, register_variants

__all__ = ["SIZES", "VARIANTS"]

SIZES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "small": {"depths": (1, 1, 1), "widths": (32, 64, 128), "strides": (2, 2, 2)},
    "medium": {"depths": (1, 1, 1, 1), "widths": (32, 64, 128, 256), "strides": (1, 2, 2, 2)},
    "large": {"depths": (1, 3, 4, 1), "widths": (32, 64, 128, 256), "strides": (1, 2, 2, 2)},
}
"""The three sizes of ResNet26."""

LAYOUTS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    **{f"resnet26_{size}": shape for size, shape in SIZES.items()},
    "resnet38": {**SIZES["large"], "depths": (2, 3, 5, 2)},
    "resnet50": {**SIZES["large"], "depths": (3, 4, 6, 3)},
}
"""Every layout by name; the deeper two keep the widths and strides of the large ResNet26."""

SOURCES: Mapping[str, str] = {"local": "arXiv:1906.05909", "augmented": "arXiv:1904.09925"}
"""Papers of the controls, where it is another one: Ramachandran et al. 2019 and Bello et al. 2019."""


@dataclasses.dataclass(frozen=True)
class Operator:
    """Spatial operator of the paper: its words, network, options by number of stages, and the rule between them."""

    words: str
    network: type[nn.Module]
    options: Callable[[int], Sequence[ModelOption]]
    joint_rule: JointRule = no_joint_rule


OPERATORS = {
    "adaptive": Operator("Adaptive attention", AdaptiveSpanResNet, adaptive_options, heads_divide_channels),
    "local": Operator("Local attention", LocalAttentionResNet, local_options, heads_divide_channels),
    "augmented": Operator(
        "Attention-augmented convolutions", AugmentedResNet, lambda _: AUGMENTED_OPTIONS, heads_divide_keys_and_values
    ),
    "conv": Operator("3x3 convolutions", ConvResNet, lambda _: CONV_OPTIONS),
}


def _variant(prefix: str, operator: Operator, layout: str) -> Variant:
    shape = LAYOUTS[layout]
    widths = shape["widths"]
    return Variant(
        name=f"{prefix}_{layout}",
        summary=f"{operator.words} in {sum(shape['depths'])} blocks of {widths[0]} to {widths[-1]} channels.",
        network=operator.network,
        fixed=shape,
        options=operator.options(len(widths)),
        joint_rule=operator.joint_rule,
        cfg=default_cfg(
            small_image=True,
            reduction=8,
            paper_ids=SOURCES.get(prefix, "arXiv:2004.08708"),
            origin_url="https://github.com/JoeRoussy/adaptive-attention-in-cv",
            description=layout.replace("resnet", "ResNet").replace("_", ", "),
        ),
    )


VARIANTS = [_variant(prefix, operator, layout) for prefix, operator in OPERATORS.items() for layout in LAYOUTS]

register_variants("adaptive_span", VARIANTS, module=__name__)
