"""Options of the networks of the adaptive-span paper, and the rules between them.

Source: Parker et al. 2020 (arXiv 2004.08708).
"""

from collections.abc import Mapping, Sequence

from models.common.options import ImageShape, ModelOption, OptionProblem, OptionValue, nearest_divisor

__all__ = [
    "ADAPTIVE_OPTIONS",
    "AUGMENTED_OPTIONS",
    "CONV_OPTIONS",
    "LOCAL_OPTIONS",
    "heads_divide_channels",
    "heads_divide_keys_and_values",
]

NARROWEST = 32  # channels of the first stage of every layout

STEM = ModelOption(
    name="stem",
    type=str,
    default="3x3",
    choices=("3x3", "7x7"),
    description="First layer: 3x3 at full resolution, or 7x7 with stride 2 and a max-pool.",
)
NUM_HEADS = ModelOption(
    name="num_heads",
    type=int,
    default=4,
    low=1,
    high=NARROWEST,
    description="Attention heads, which share the channels of a layer.",
)
KERNEL_SIZE = ModelOption(
    name="kernel_size",
    type=int,
    default=5,
    low=3,
    high=33,
    odd=True,
    description="Side of the attention window in pixels.",
)
MAX_SPAN = ModelOption(
    name="max_span",
    type=int,
    default=5,
    low=1,
    high=32,
    description="Radius of the largest window in pixels (S).",
)
RAMP = ModelOption(
    name="ramp",
    type=float,
    default=2.0,
    above=0.0,
    high=32.0,
    description="Width in pixels of the soft edge of the window (R).",
)
SPAN_INIT = ModelOption(
    name="span_init",
    type=float,
    default=0.1,
    low=0.0,
    high=1.0,
    description="First value of every span (z), as a fraction of max_span.",
)
SPAN_PENALTY = ModelOption(
    name="span_penalty",
    type=float,
    default=1e-3,
    low=0.0,
    description="Weight of the sum of the spans in the loss (lambda).",
)

DK = ModelOption(
    name="dk",
    type=int,
    default=40,
    low=1,
    high=512,
    description="Channels of the queries, and of the keys, of all heads together.",
)
DV = ModelOption(
    name="dv",
    type=int,
    default=4,
    low=1,
    high=NARROWEST - 1,
    description="Channels of a layer that come from its attention, all heads together.",
)
RELATIVE = ModelOption(
    name="relative",
    type=bool,
    default=False,
    description="Relative positions of query and key in the logits.",
)

CONV_OPTIONS = (STEM,)
LOCAL_OPTIONS = (STEM, NUM_HEADS, KERNEL_SIZE)
AUGMENTED_OPTIONS = (STEM, DK, DV, NUM_HEADS, RELATIVE)
ADAPTIVE_OPTIONS = (STEM, NUM_HEADS, MAX_SPAN, RAMP, SPAN_INIT, SPAN_PENALTY)


def heads_divide_channels(values: Mapping[str, OptionValue], image: ImageShape | None) -> Sequence[OptionProblem]:
    """Check that the heads divide the narrowest width, of which every other width is a multiple."""
    del image
    heads = values["num_heads"]
    assert isinstance(heads, int)
    if NARROWEST % heads == 0:
        return ()
    nearest = nearest_divisor(NARROWEST, heads)
    rule = f"num_heads divides the {NARROWEST} channels of the narrowest stage"
    return [OptionProblem("num_heads", heads, rule, f"Use {nearest}.")]


def heads_divide_keys_and_values(
    values: Mapping[str, OptionValue], image: ImageShape | None
) -> Sequence[OptionProblem]:
    """Check that the heads divide the channels of keys and values of augmented convolutions."""
    del image
    heads = values["num_heads"]
    assert isinstance(heads, int)
    problems = []
    for name in ("dk", "dv"):
        channels = values[name]
        assert isinstance(channels, int)
        if channels % heads:
            below = channels - channels % heads
            fitting = below if below else heads
            remedy = f"Use {fitting}, or a num_heads that divides {channels}."
            problems.append(OptionProblem(name, channels, f"num_heads ({heads}) divides it", remedy))
    return problems
