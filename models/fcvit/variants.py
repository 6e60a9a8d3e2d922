"""Registered FCViT networks: the four of the paper and one for small images.

Source: Ma et al. 2022 (arXiv 2212.12552), with the depths and widths of the authors' code.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from timm.models import PretrainedCfg, generate_default_cfgs
from torch import nn

from models.common.image_size import image_size_option, matches_images
from models.common.options import ImageShape, ModelOption, OptionProblem, OptionValue
from models.fcvit.block import BlockDesign
from models.fcvit.network import FCViT
from models.registry.architectures import EntryPoint, build, default_cfg, register_architecture

__all__ = ["SHAPES"]

LARGE_DIMS = (64, 128, 320, 512)
SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "fcvit_tiny": {"depths": (3, 3, 5, 2), "embed_dims": (32, 64, 160, 320), "mlp_ratios": (8, 8, 4, 4)},
    "fcvit_b12": {"depths": (2, 2, 6, 2), "embed_dims": LARGE_DIMS, "mlp_ratios": (8, 8, 4, 4)},
    "fcvit_b24": {"depths": (4, 4, 12, 4), "embed_dims": LARGE_DIMS, "mlp_ratios": (8, 8, 4, 4)},
    "fcvit_b48": {"depths": (8, 8, 24, 8), "embed_dims": LARGE_DIMS, "mlp_ratios": (8, 8, 4, 4)},
    "fcvit_micro_cifar": {"depths": (2, 2, 2), "embed_dims": (32, 64, 128), "mlp_ratios": (4, 4, 4)},
}
CROP_PCT = {"fcvit_tiny": 0.9, "fcvit_b12": 0.9, "fcvit_b24": 0.95, "fcvit_b48": 0.95, "fcvit_micro_cifar": 1.0}
CONTEXT_OPTIONS = ("global_context", "similarity", "competition", "gc_reduction", "num_heads")

_window = functools.partial(ModelOption, type=int, low=1, high=63, odd=True)
_switch = functools.partial(ModelOption, type=bool)


def _options(*, kernel_size: int, layer_scale_init: float) -> tuple[ModelOption, ...]:
    return (*_token_options(kernel_size), *_channel_options(layer_scale_init))


def _token_options(kernel_size: int) -> tuple[ModelOption, ...]:
    return (
        _window(name="kernel_size_1", default=kernel_size, description="Window side of the first mixing step."),
        _window(
            name="kernel_size_2", default=kernel_size, description="Window side of the second mixing step, if any."
        ),
        ModelOption(
            name="mixing_steps", type=int, default=2, low=1, high=2, description="Token-mixing steps of a block."
        ),
        _switch(name="global_context", default=True, description="Adds the context of the map ahead of each step."),
        _switch(
            name="similarity",
            default=True,
            description="Positions weigh the context by their likeness to the mean of the map.",
        ),
        _switch(
            name="competition",
            default=True,
            description="In the bottleneck of the context the larger of two candidates passes.",
        ),
        ModelOption(
            name="gc_reduction",
            type=int,
            default=8,
            low=1,
            high=64,
            description="Channels over those of the bottleneck of the context (rho).",
        ),
        ModelOption(
            name="num_heads",
            type=int,
            default=8,
            low=1,
            high=64,
            description="Groups of channels that weigh the context each in their own way (h).",
        ),
        ModelOption(
            name="fc_factor",
            type=int,
            default=8,
            low=1,
            high=64,
            description="Channels over those inside the 1x1 convolution of a step, at least 16; 1 for a full one.",
        ),
        _switch(name="spatial_attention", default=False, description="A spatial gate behind the token mixing."),
    )


def _channel_options(layer_scale_init: float) -> tuple[ModelOption, ...]:
    return (
        _switch(name="channel_attention", default=False, description="An additive gate behind the channel mixing."),
        _switch(name="mlp_depthwise", default=True, description="A depth-wise convolution in the channel mixing."),
        ModelOption(
            name="mlp_kernel_size",
            type=int,
            default=3,
            low=1,
            high=15,
            odd=True,
            description="Side of the depth-wise convolution in the channel mixing.",
        ),
        ModelOption(
            name="layer_scale_init",
            type=float,
            default=layer_scale_init,
            above=0.0,
            high=1.0,
            description="First value of the scale per channel at the end of each branch.",
        ),
        ModelOption(
            name="proj_drop_rate",
            type=float,
            default=0.0,
            low=0.0,
            high=0.99,
            description="Dropout inside the channel mixing.",
        ),
    )


OPTIONS = _options(kernel_size=11, layer_scale_init=1e-5)
MICRO_OPTIONS = (
    *_options(kernel_size=7, layer_scale_init=1e-2),
    ModelOption(name="stem_stride", type=int, default=2, low=1, high=2, description="Stride of the 3x3 stem: 1 or 2."),
    image_size_option(32, "Images the windows are fitted to: no window of a token mixer is larger than its map."),
)


def _context_fits(
    values: Mapping[str, OptionValue], image: ImageShape | None, *, embed_dims: Sequence[int]
) -> Sequence[OptionProblem]:
    """Heads and reduction divide the channels of every stage, where there is a context."""
    given: dict[str, Any] = {key: values[key] for key in CONTEXT_OPTIONS}
    problems = BlockDesign(**given).problems(embed_dims)
    return [*problems, *matches_images(values, image)]


def _cfg(name: str) -> PretrainedCfg:
    small = name.endswith("cifar")
    cfg = default_cfg(
        small_image=small,
        num_classes=100 if small else 1000,
        reduction=8 if small else 32,
        paper_ids="arXiv:2212.12552",
        origin_url="https://github.com/ma-xu/FCViT",
    )
    cfg.crop_pct = CROP_PCT[name]
    return cfg


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in SHAPES})


def _registering(name: str, options: Sequence[ModelOption]) -> Callable[[EntryPoint], EntryPoint]:
    """Registers networks of the widths of the named one."""
    rule = functools.partial(_context_fits, embed_dims=SHAPES[name]["embed_dims"])
    return register_architecture(family="fcvit", options=options, joint_rule=rule)


def _fcvit(name: str, *, pretrained: bool, stem_kernel_size: int = 7, **given: Any) -> nn.Module:
    shape = {**SHAPES[name], "stem_kernel_size": stem_kernel_size}
    return build(name, FCViT, pretrained=pretrained, given=given, **shape)


@_registering("fcvit_tiny", OPTIONS)
def fcvit_tiny(pretrained: bool = False, **given: Any) -> nn.Module:
    """13 blocks of 32 to 320 channels."""
    return _fcvit("fcvit_tiny", pretrained=pretrained, **given)


@_registering("fcvit_b12", OPTIONS)
def fcvit_b12(pretrained: bool = False, **given: Any) -> nn.Module:
    """12 blocks of 64 to 512 channels."""
    return _fcvit("fcvit_b12", pretrained=pretrained, **given)


@_registering("fcvit_b24", OPTIONS)
def fcvit_b24(pretrained: bool = False, **given: Any) -> nn.Module:
    """24 blocks of 64 to 512 channels."""
    return _fcvit("fcvit_b24", pretrained=pretrained, **given)


@_registering("fcvit_b48", OPTIONS)
def fcvit_b48(pretrained: bool = False, **given: Any) -> nn.Module:
    """48 blocks of 64 to 512 channels."""
    return _fcvit("fcvit_b48", pretrained=pretrained, **given)


@_registering("fcvit_micro_cifar", MICRO_OPTIONS)
def fcvit_micro_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """6 blocks of 32 to 128 channels for small images."""
    given = {"img_size": (32, 32), "stem_stride": 2, "layer_scale_init": 1e-2, **given}
    given = {"kernel_size_1": 7, "kernel_size_2": 7, **given}
    return _fcvit("fcvit_micro_cifar", pretrained=pretrained, stem_kernel_size=3, **given)
