"""Options of FCViT networks, and the rule between them.

Source: Ma et al. 2022 (arXiv 2212.12552), with the switches of the authors' code.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from models.common.image_size import image_size_option, matches_images
from models.common.options import ImageShape, JointRule, ModelOption, OptionProblem, OptionValue
from models.fcvit.block import BlockDesign

__all__ = ["LARGE_OPTIONS", "MICRO_OPTIONS", "context_fits"]

CONTEXT_OPTIONS = ("global_context", "similarity", "competition", "gc_reduction", "num_heads")

_window = functools.partial(ModelOption, type=int, low=1, high=63, odd=True)
_switch = functools.partial(ModelOption, type=bool)


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


LARGE_OPTIONS = (*_token_options(kernel_size=11), *_channel_options(layer_scale_init=1e-5))
MICRO_OPTIONS = (
    *_token_options(kernel_size=7),
    *_channel_options(layer_scale_init=1e-2),
    ModelOption(name="stem_stride", type=int, default=2, low=1, high=2, description="Stride of the 3x3 stem: 1 or 2."),
    image_size_option(32, "Images the windows are fitted to: no window of a token mixer is larger than its map."),
)


def context_fits(embed_dims: Sequence[int]) -> JointRule:
    """Make the rule that heads and reduction divide the channels of every stage, where there is a context.

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
