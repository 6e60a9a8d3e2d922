"""Options of spatial-bias and non-local networks; either kind takes the blocks of the other as well."""

from collections.abc import Mapping, Sequence

from models.common.channel_attention import CHANNEL_ATTENTIONS
from models.common.options import ImageShape, JointRule, ModelOption, OptionProblem, OptionValue, stages_option
from models.common.resnet import depth_rule, small_image_depths
from models.spatial_bias.bias import MIXINGS
from models.spatial_bias.block import JOIN_POINTS, READ_POINTS, point_problem

__all__ = ["ATTENTION_OPTIONS", "CIFAR_POOLED_SIZE", "bias_options", "context_rule", "nonlocal_options"]

CIFAR_POOLED_SIZE = 6
"""Side of the grid on small images: the published parameters of ResNet-38 and ResNet-65 are those of 6 x 6 cells."""
IMAGENET_POOLED_SIZE = 10

ATTENTION_OPTIONS = (
    ModelOption(
        name="attention",
        type=str,
        default="none",
        choices=("none", *CHANNEL_ATTENTIONS),
        description="Channel attention behind the last norm of every block.",
    ),
    ModelOption(
        name="attention_reduction",
        type=int,
        default=16,
        low=1,
        high=64,
        description="Channels per hidden unit of the attention; no effect on none, eca and srm.",
    ),
)


def bias_options(stages: tuple[bool, ...], *, stages_name: str = "stages") -> tuple[ModelOption, ...]:
    """Make the options of a spatial bias, with the stages that carry one by default; three stages are small images."""
    small_image = len(stages) == 3
    return (
        ModelOption(
            name="bias_channels",
            type=int,
            default=3,
            low=1,
            high=64,
            description="Channels of global context appended in each block (n).",
        ),
        ModelOption(
            name="key_size",
            type=int,
            default=3,
            low=1,
            high=16,
            description="Width of the 1-D convolution along the reduced channels (k).",
        ),
        ModelOption(
            name="pooled_size",
            type=int,
            default=CIFAR_POOLED_SIZE if small_image else IMAGENET_POOLED_SIZE,
            former_default=IMAGENET_POOLED_SIZE if small_image else None,
            low=1,
            high=32,
            description="Side in cells of the grid that is mixed (r); parameters grow with its fourth power.",
        ),
        ModelOption(
            name="mixing",
            type=str,
            default="conv1d",
            choices=MIXINGS,
            description="Mixing of the grid: a 1-D convolution along the reduced channels, or a linear projection.",
        ),
        ModelOption(
            name="read_point",
            type=str,
            default="conv1_output",
            choices=READ_POINTS,
            description="Map of the block that the bias reads.",
        ),
        ModelOption(
            name="join_point",
            type=str,
            default="conv2_output",
            choices=JOIN_POINTS,
            description="Place in the block where the channels of the bias join.",
        ),
        stages_option(stages, "Which stages carry a spatial bias.", name=stages_name),
    )


def nonlocal_options(stages: tuple[bool, ...], *, prefix: str = "") -> tuple[ModelOption, ...]:
    """Make the options of non-local blocks under names with a prefix, with their stages by default."""
    return (
        stages_option(stages, "Which stages have non-local blocks.", name=f"{prefix}stages"),
        ModelOption(
            name=f"{prefix}every",
            type=int,
            default=2,
            low=1,
            high=36,
            description="Residual blocks from one non-local block to the next.",
        ),
        ModelOption(
            name=f"{prefix}reduction",
            type=int,
            default=2,
            low=1,
            high=64,
            description="Channels of the map per channel of the embeddings.",
        ),
        ModelOption(
            name=f"{prefix}pool_keys",
            type=bool,
            default=False,
            description="Max-pool keys and values to half the side first.",
        ),
        ModelOption(
            name=f"{prefix}scaled",
            type=bool,
            default=True,
            description="Divide the logits by the root of the width of the embeddings.",
        ),
    )


def context_rule(depths: Sequence[int] | None, *, prefix: str = "") -> JointRule:
    """Make the rule between the options of both kinds of context.

    A bias joins behind what it reads, and a stage with non-local blocks has enough residual blocks for one.

    Args:
        depths: Residual blocks of each stage; None where the option `depth` decides on them.
        prefix: First part of the names of the options of non-local blocks.
    """

    def rule(values: Mapping[str, OptionValue], image: ImageShape | None) -> Sequence[OptionProblem]:
        problems = [] if depths else list(depth_rule(values, image))
        if problem := point_problem(str(values["read_point"]), str(values["join_point"])):
            problems.append(problem)
        every, stages = values[f"{prefix}every"], values[f"{prefix}stages"]
        assert isinstance(every, int)
        assert isinstance(stages, tuple)
        blocks = depths or small_image_depths(values, default=0)
        shortest = min((depth for depth, chosen in zip(blocks, stages, strict=True) if chosen), default=every)
        if every > shortest and not (problems and depths is None):
            clause = f"the shortest stage that is to have non-local blocks has {shortest} residual blocks"
            problems.append(OptionProblem(f"{prefix}every", every, clause, f"Use {shortest}."))
        return problems

    return rule
