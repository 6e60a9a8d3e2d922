"""Options of spatial-bias and non-local networks; either kind takes the blocks of the other as well."""

from collections.abc import Mapping, Sequence

from models.common.options import ImageShape, JointRule, ModelOption, OptionProblem, OptionValue, stages_option

__all__ = ["bias_options", "nonlocal_fits", "nonlocal_options"]


def bias_options(stages: tuple[bool, ...], *, stages_name: str = "stages") -> tuple[ModelOption, ...]:
    """Make the options of a spatial bias, with the stages that carry one by default."""
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
            default=10,
            low=1,
            high=32,
            description="Side in cells of the grid that is mixed (r); parameters grow with its fourth power.",
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


def nonlocal_fits(depths: Sequence[int], *, prefix: str = "") -> JointRule:
    """Make the rule that a stage with non-local blocks has enough residual blocks for one."""

    def rule(values: Mapping[str, OptionValue], image: ImageShape | None) -> Sequence[OptionProblem]:
        del image
        every, stages = values[f"{prefix}every"], values[f"{prefix}stages"]
        assert isinstance(every, int)
        assert isinstance(stages, tuple)
        shortest = min((depth for depth, chosen in zip(depths, stages, strict=True) if chosen), default=every)
        if every <= shortest:
            return ()
        clause = f"the shortest stage that is to have non-local blocks has {shortest} residual blocks"
        return [OptionProblem(f"{prefix}every", every, clause, f"Use {shortest}.")]

    return rule
