"""Registered LESA networks, and controls of the same layout with self-attention alone.

With `stages` all false each of them is the convolutional network of the same layout.
Source: Yang et al. 2021 (arXiv 2107.05637), with the layout of the authors' code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from models.common.image_size import image_size_option
from models.common.options import ModelOption
from models.lesa.network import LesaResNet
from models.lesa.options import ATTENTION_OPTIONS, LESA_OPTIONS, groups_and_shrink_divide
from models.registry.architectures import Variant, default_cfg, register_variants

__all__ = ["VARIANTS"]

LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "resnet50": {
        "depths": (3, 4, 6, 3),
        "widths": (64, 128, 256, 512),
        "strides": (1, 2, 2, 1),
        "large_image": True,
        "stem_width": 64,
    },
    "wrn50": {
        "depths": (3, 4, 6, 3),
        "widths": (128, 256, 512, 1024),
        "out_widths": (256, 512, 1024, 2048),
        "strides": (1, 2, 2, 1),
        "large_image": True,
        "stem_width": 64,
    },
    "resnet26_cifar": {
        "depths": (2, 2, 2, 2),
        "widths": (32, 64, 128, 256),
        "strides": (1, 2, 2, 1),
        "large_image": False,
        "stem_width": 32,
    },
}
"""Every layout by name; the wide one has twice the channels in its bottlenecks."""


def _variant(
    prefix: str, layout: str, summary: str, options: Sequence[ModelOption], fixed: Mapping[str, Any]
) -> Variant:
    shape = LAYOUTS[layout]
    small_image = not shape["large_image"]
    size = image_size_option(
        32 if small_image else 224, "Images the network is built for: its position tables grow with the map."
    )
    return Variant(
        name=f"{prefix}_{layout}",
        summary=summary,
        network=LesaResNet,
        fixed={**shape, **fixed},
        options=(*options, size),
        joint_rule=groups_and_shrink_divide(shape["widths"]),
        cfg=default_cfg(
            small_image=small_image,
            reduction=4 if small_image else 16,
            crop_pct=None if small_image else 0.875,
            interpolation="bicubic" if small_image else "bilinear",
            fixed_input_size=True,
            paper_ids="arXiv:2107.05637",
            origin_url="https://github.com/Chenglin-Yang/LESA_classification",
        ),
    )


def _lesa(layout: str, words: str) -> Variant:
    return _variant("lesa", layout, f"{words} with LESA in its last two stages.", LESA_OPTIONS, {})


def _control(layout: str, words: str) -> Variant:
    summary = f"{words} with self-attention alone where `lesa_{layout}` has LESA."
    return _variant("sa", layout, summary, ATTENTION_OPTIONS, {"unary": "none"})


WORDS = {
    "resnet50": "ResNet50",
    "wrn50": "ResNet50 of twice the width in its bottlenecks,",
    "resnet26_cifar": "Small-image ResNet26",
}
VARIANTS = [make(layout, words) for make in (_lesa, _control) for layout, words in WORDS.items()]

register_variants("lesa", VARIANTS, module=__name__)
