"""Options of FCViT networks, and the rule between them.

Source: Ma et al. 2022 (arXiv 2212.12552), with the switches of the authors' code.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from models.common.image_size import image_size_option, matches_images
from models.common.number_lists import NumbersOption
from models.common.options import ImageShape, JointRule, ModelOption, OptionProblem, OptionValue
from models.fcvit.block import MIXERS, BlockDesign
from models.fcvit.layers import ACTS, NORMS

__all__ = ["LARGE_OPTIONS", "MICRO_OPTIONS", "context_fits", "mlp_ratios_option"]

CONTEXT_OPTIONS = (
    "mixer",
    "global_context",
    "similarity",
    "competition",
    "candidates",
    "gc_reduction",
    "num_heads",
)

_window = functools.partial(ModelOption, type=int, low=1, high=63, odd=True)
_switch = functools.partial(ModelOption, type=bool)


def _token_options(kernel_size: int) -> tuple[ModelOption, ...]:
    return (
        ModelOption(
            name="mixer",
            type=str,
            default="fcvit",
            choices=MIXERS,
            description="Mixing of the positions: that of the paper, or pooling, self-attention or none as a control.",
        ),
        _window(name="kernel_size_1", default=kernel_size, description="Window side of the first mixing step."),
        _window(
            name="kernel_size_2", default=kernel_size, description="Window side of the second mixing step, if any."
        ),
        ModelOption(
            name="mixing_steps", type=int, default=2, low=1, high=2, description="Token-mixing steps of a block."
        ),
        *_context_options(),
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


def _context_options() -> tuple[ModelOption, ...]:
    return (
        _switch(name="global_context", default=True, description="Adds the context of the map ahead of each step."),
        _switch(
            name="similarity",
            default=True,
            description="Positions weigh the context by their likeness to the mean of the map.",
        ),
        _switch(
            name="competition",
            default=True,
            description="In the bottleneck of the context the largest of the candidates passes.",
        ),
        ModelOption(
            name="candidates",
            type=int,
            default=2,
            low=2,
            high=8,
            description="Candidates for each channel of the bottleneck of the context, where they compete.",
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
            description="Groups of channels that weigh the context each in their own way (h), or heads of attention.",
        ),
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
            name="norm_layer",
            type=str,
            default="groupnorm1",
            choices=tuple(NORMS),
            description="Norm ahead of each branch and at the end: of the map, a position, the batch, or none.",
        ),
        ModelOption(
            name="act_layer", type=str, default="gelu", choices=tuple(ACTS), description="Nonlinearity of the blocks."
        ),
        _switch(name="layer_scale", default=True, description="A learned scale per channel at the end of each branch."),
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


LARGE_OPTIONS = (*_token_options(kernel_size=11), *_channel_options(layer_scale_init=1e-5))
MICRO_OPTIONS = (
    *_token_options(kernel_size=7),
    *_channel_options(layer_scale_init=1e-2),
    ModelOption(name="stem_stride", type=int, default=2, low=1, high=2, description="Stride of the 3x3 stem: 1 or 2."),
    image_size_option(32, "Images the windows are fitted to: no window of a token mixer is larger than its map."),
)


def mlp_ratios_option(default: tuple[int, ...]) -> NumbersOption:
    """Make the option of the ratios of the channel mixers.

    Args:
        default: Ratio of each stage when the option is left out.
    """
    return NumbersOption(
        name="mlp_ratios",
        type=int,
        default=default,
        low=1,
        high=16,
        part="stage",
        length=len(default),
        description="Channels inside the channel mixing over those of the stage.",
    )


def context_fits(embed_dims: Sequence[int]) -> JointRule:
    """Make the rule that heads and reduction divide the channels of every stage, where there are any.

    Args:
        embed_dims: Channels of each stage.
    """
    return functools.partial(_problems, embed_dims=embed_dims)


def _problems(
    values: Mapping[str, OptionValue], image: ImageShape | None, *, embed_dims: Sequence[int]
) -> Sequence[OptionProblem]:
    given: dict[str, Any] = {key: values[key] for key in CONTEXT_OPTIONS}
    problems = BlockDesign(**given).problems(embed_dims)
    return [*problems, *matches_images(values, image)]
