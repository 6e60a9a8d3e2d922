"""Options of the networks of the LESA paper, and the rule between them.

Source: Yang et al. 2021 (arXiv 2107.05637).
"""

import functools
from collections.abc import Mapping, Sequence

from models.common.image_size import matches_images
from models.common.options import ImageShape, JointRule, ModelOption, OptionProblem, OptionValue, stages_option
from models.lesa.attention import FUSIONS, UNARIES
from models.lesa.positions import POSITIONS

__all__ = ["ATTENTION_OPTIONS", "LESA_OPTIONS", "groups_and_shrink_divide"]

POSITION_EMBEDDING = ModelOption(
    name="position_embedding",
    type=str,
    default="classification",
    choices=POSITIONS,
    description="Positions on the flattened map for query, key and value, or rows and columns for the query.",
)
GROUPS = ModelOption(
    name="groups",
    type=int,
    default=8,
    low=1,
    high=64,
    description="Heads of the attention, and groups of the 3x3 convolution beside it.",
)
STAGES = stages_option(
    (False, False, True, True),
    "Which stages carry the layer; none is the convolutional network of the same layout.",
)
UNARY = ModelOption(
    name="unary",
    type=str,
    default="grouped",
    choices=UNARIES,
    description="Convolution of the local term; none leaves self-attention alone, with nothing to fuse.",
)
FUSION = ModelOption(
    name="fusion",
    type=str,
    default="full",
    choices=FUSIONS,
    description="Gate of the binary term: none, one per position, or one per channel and position.",
)
FUSION_SHRINK = ModelOption(
    name="fusion_shrink",
    type=int,
    default=2,
    low=1,
    high=64,
    description="Channels of both terms over those inside the gate.",
)

ATTENTION_OPTIONS = (POSITION_EMBEDDING, GROUPS, STAGES)
LESA_OPTIONS = (*ATTENTION_OPTIONS, UNARY, FUSION, FUSION_SHRINK)


def groups_and_shrink_divide(widths: Sequence[int]) -> JointRule:
    """Make the rule that heads and gates share the channels of the stages with the layer, all of them powers of 2.

    Args:
        widths: Channels of the spatial operators of each stage.
    """
    return functools.partial(_problems, widths=widths)


def _problems(
    values: Mapping[str, OptionValue], image: ImageShape | None, *, widths: Sequence[int]
) -> Sequence[OptionProblem]:
    stages = values["stages"]
    assert isinstance(stages, tuple)
    narrowest = min((width for width, carries in zip(widths, stages, strict=True) if carries), default=None)
    problems = []
    if narrowest is not None:
        limits = {"groups": narrowest // 2, "fusion_shrink": 2 * narrowest}
        for option, limit in limits.items():
            given = values.get(option, 1)
            assert isinstance(given, int)
            if limit % given:
                nearest = max(power for power in (1, 2, 4, 8, 16, 32, 64) if power <= given and limit % power == 0)
                rule = f"{option} divides {limit}, from the {narrowest} channels of the narrowest stage that has it"
                problems.append(OptionProblem(option, given, rule, f"Use {nearest}."))
    return [*problems, *matches_images(values, image)]
