"""Registered FCViT networks: the four of the paper and one for small images.

Source: Ma et al. 2022 (arXiv 2212.12552), with the depths and widths of the authors' code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from models.common.options import ModelOption
from models.fcvit.network import FCViT
from models.fcvit.options import LARGE_OPTIONS, MICRO_OPTIONS, context_fits, mlp_ratios_option
from models.registry.architectures import Variant, default_cfg, register_variants

__all__ = ["LARGE_SHAPES", "VARIANTS"]

LARGE_DIMS = (64, 128, 320, 512)
LARGE_SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "fcvit_tiny": {"depths": (3, 3, 5, 2), "embed_dims": (32, 64, 160, 320), "mlp_ratios": (8, 8, 4, 4)},
    "fcvit_b12": {"depths": (2, 2, 6, 2), "embed_dims": LARGE_DIMS, "mlp_ratios": (8, 8, 4, 4)},
    "fcvit_b24": {"depths": (4, 4, 12, 4), "embed_dims": LARGE_DIMS, "mlp_ratios": (8, 8, 4, 4)},
    "fcvit_b48": {"depths": (8, 8, 24, 8), "embed_dims": LARGE_DIMS, "mlp_ratios": (8, 8, 4, 4)},
}
CROP_PCT = {"fcvit_tiny": 0.9, "fcvit_b12": 0.9, "fcvit_b24": 0.95, "fcvit_b48": 0.95}

MICRO_SHAPE = {"depths": (2, 2, 2), "embed_dims": (32, 64, 128), "mlp_ratios": (4, 4, 4)}
MICRO_DEFAULTS = {
    "img_size": (32, 32),
    "stem_stride": 2,
    "layer_scale_init": 1e-2,
    "kernel_size_1": 7,
    "kernel_size_2": 7,
}
"""First values of options for small images: windows and stem follow the size of the maps."""


def _variant(
    name: str,
    shape: Mapping[str, tuple[int, ...]],
    *,
    stem_kernel_size: int,
    options: Sequence[ModelOption],
    crop_pct: float,
    small_image: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> Variant:
    dims = shape["embed_dims"]
    small = " for small images" if small_image else ""
    return Variant(
        name=name,
        summary=f"{sum(shape['depths'])} blocks of {dims[0]} to {dims[-1]} channels{small}.",
        network=FCViT,
        fixed={"depths": shape["depths"], "embed_dims": dims, "stem_kernel_size": stem_kernel_size},
        defaults={"mlp_ratios": shape["mlp_ratios"], **(defaults or {})},
        options=(*options, mlp_ratios_option(shape["mlp_ratios"])),
        joint_rule=context_fits(dims),
        cfg=default_cfg(
            small_image=small_image,
            reduction=8 if small_image else 32,
            crop_pct=crop_pct,
            paper_ids="arXiv:2212.12552",
            origin_url="https://github.com/ma-xu/FCViT",
        ),
    )


VARIANTS = [
    *(
        _variant(name, shape, stem_kernel_size=7, options=LARGE_OPTIONS, crop_pct=CROP_PCT[name])
        for name, shape in LARGE_SHAPES.items()
    ),
    _variant(
        "fcvit_micro_cifar",
        MICRO_SHAPE,
        stem_kernel_size=3,
        options=MICRO_OPTIONS,
        crop_pct=1.0,
        small_image=True,
        defaults=MICRO_DEFAULTS,
    ),
]

register_variants("fcvit", VARIANTS, module=__name__)
