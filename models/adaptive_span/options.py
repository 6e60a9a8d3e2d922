"""Options of the networks of the adaptive-span paper, and the rules between them.

Source: Parker et al. 2020 (arXiv 2004.08708).
"""

from collections.abc import Mapping, Sequence

from models.common.options import (
    ImageShape,
    JointRule,
    ModelOption,
    OptionProblem,
    OptionValue,
    nearest_divisor,
    stages_option,
)

__all__ = [
    "AUGMENTED_OPTIONS",
    "CONV_OPTIONS",
    "SCALED",
    "adaptive_options",
    "heads_divide",
    "heads_divide_channels",
    "heads_divide_keys_and_values",
    "local_options",
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

SHARED_SPAN = ModelOption(
    name="shared_span",
    type=bool,
    default=False,
    description="One span for all heads of a layer, instead of one for each.",
)
MASK_BEFORE_SOFTMAX = ModelOption(
    name="mask_before_softmax",
    type=bool,
    default=False,
    description="Logarithm of the mask added to the logits, instead of weights masked after the softmax.",
)
SCALED = ModelOption(
    name="scaled",
    type=bool,
    default=False,
    description="Logits divided by the root of the channels per head.",
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
AUGMENTED_OPTIONS = (STEM, DK, DV, NUM_HEADS, RELATIVE)


def local_options(stages: int) -> Sequence[ModelOption]:
    """Return the options of local attention in a layout of so many stages."""
    return (STEM, NUM_HEADS, KERNEL_SIZE, SCALED, _attending(stages))


def adaptive_options(stages: int) -> Sequence[ModelOption]:
    """Return the options of adaptive attention in a layout of so many stages."""
    spans = (MAX_SPAN, RAMP, SPAN_INIT, SPAN_PENALTY, SHARED_SPAN, MASK_BEFORE_SOFTMAX)
    return (STEM, NUM_HEADS, *spans, SCALED, _attending(stages))


def _attending(stages: int) -> ModelOption:
    return stages_option((True,) * stages, "Stages whose blocks attend; those of the others are 3x3 convolutions.")


def heads_divide(narrowest: int) -> JointRule:
    """Make the rule that the heads divide the narrowest width, of which every other width is a multiple."""

    def check(values: Mapping[str, OptionValue], image: ImageShape | None) -> Sequence[OptionProblem]:
        del image
        heads = values["num_heads"]
        assert isinstance(heads, int)
        if narrowest % heads == 0:
            return ()
        nearest = nearest_divisor(narrowest, heads)
        rule = f"num_heads divides the {narrowest} channels of the narrowest stage"
        return [OptionProblem("num_heads", heads, rule, f"Use {nearest}.")]

    return check


heads_divide_channels = heads_divide(NARROWEST)


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
