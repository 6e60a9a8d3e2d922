"""Options of the networks of the sub-attention paper, and the rule between block and depth.

Source: Zhong et al. 2023 (arXiv 2305.05200), with the depths of the authors' code.
"""

from collections.abc import Mapping, Sequence

from models.common.channel_attention import CHANNEL_ATTENTIONS
from models.common.options import ImageShape, JointRule, ModelOption, OptionProblem, OptionValue, stages_option
from models.common.resnet import LAYERS_PER_STEP, small_image_blocks
from models.lsas.sub_attention import MAX_ORDER

__all__ = [
    "BLOCK",
    "CIFAR_DEPTHS",
    "LSAS_OPTIONS",
    "SENET_OPTIONS",
    "depth_fits",
    "gated_stages",
]

CIFAR_DEPTHS = (29, 47, 56, 110, 164)
ORDER = ModelOption(
    name="order",
    type=int,
    default=1,
    low=0,
    high=MAX_ORDER,
    description="Affine steps of the sub-attention (n); 0 is the plain attention.",
)
SCALE_INIT = ModelOption(
    name="scale_init",
    type=float,
    default=0.5,
    low=-4.0,
    high=4.0,
    description="First value of the scale of each step (w).",
)
SHIFT_INIT = ModelOption(
    name="shift_init",
    type=float,
    default=-0.5,
    low=-4.0,
    high=4.0,
    description="First value of the shift of each step (b).",
)
ATTENTION = ModelOption(
    name="attention",
    type=str,
    default="se",
    choices=CHANNEL_ATTENTIONS,
    description="The channel attention that gives the logits.",
)
REDUCTION = ModelOption(
    name="reduction",
    type=int,
    default=16,
    low=1,
    high=64,
    description="Channels per hidden unit of the attention; no effect on eca and srm, which have none.",
)
ZERO_INIT_LAST = ModelOption(
    name="zero_init_last",
    type=bool,
    default=False,
    description="Start the last norm of each block at zero, so that a block starts as its shortcut.",
)
BLOCK = ModelOption(
    name="block",
    type=str,
    default="bottleneck",
    choices=tuple(LAYERS_PER_STEP),
    description="Residual block: 1x1, 3x3, 1x1, or two 3x3 convolutions.",
)


def gated_stages(default: tuple[bool, ...]) -> ModelOption:
    """Make the option of the stages with gates, with the released ones as its default."""
    return stages_option(default, "Which stages have gates; none is the plain ResNet.")


def depth_fits(depth: int) -> JointRule:
    """Make the rule that three stages of the chosen block make the depth: a basic block has two layers."""

    def rule(values: Mapping[str, OptionValue], image: ImageShape | None) -> Sequence[OptionProblem]:
        del image
        block = values["block"]
        assert isinstance(block, str)
        if small_image_blocks(depth, block) is not None:
            return ()
        fitting = " or ".join(str(other) for other in CIFAR_DEPTHS if small_image_blocks(other, block))
        clause = f"depth {depth} is not 2 + {LAYERS_PER_STEP[block]} times a whole number"
        return [OptionProblem("block", block, clause, f"Use 'bottleneck', or a network of depth {fitting}.")]

    return rule


LSAS_OPTIONS = (ORDER, SCALE_INIT, SHIFT_INIT, ATTENTION, REDUCTION, ZERO_INIT_LAST)
SENET_OPTIONS = (ATTENTION, REDUCTION, ZERO_INIT_LAST)
