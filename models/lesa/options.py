"""Options of the networks of the LESA paper, and the rule between them.

Source: Yang et al. 2021 (arXiv 2107.05637).
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.common.image_size import matches_images
from models.common.number_lists import NumbersOption, per_part
from models.common.options import ImageShape, JointRule, ModelOption, OptionProblem, OptionValue, stages_option
from models.lesa.attention import FUSIONS, UNARIES, one_term_is_left
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
KEEP_FIRST_CONV = stages_option(
    (True, True, True, False),
    "Which stages keep the 3x3 convolution in their first block; a block that strides keeps it in any case.",
    name="keep_first_conv",
)
LAST_STRIDE = ModelOption(
    name="last_stride",
    type=int,
    default=1,
    low=1,
    high=2,
    description="Stride of the last stage: 1 keeps the map of the stage before it, 2 halves it as in a ResNet.",
)
LESA_BEFORE_STRIDE = ModelOption(
    name="lesa_before_stride",
    type=bool,
    default=False,
    description="The layer, not a convolution, in a first block that strides, on the map ahead of an average pooling.",
)
DEFORMABLE_STAGES = stages_option(
    (False, False, False, False),
    "Which stages deform their 3x3 convolutions, those kept and those of the local term of the form grouped.",
    name="deformable_stages",
)
RECOMPUTE_TERMS = ModelOption(
    name="recompute_terms",
    type=bool,
    default=False,
    description="Local term and self-attention are computed again in the backward pass, to save memory.",
)
UNARY = ModelOption(
    name="unary",
    type=str,
    default="grouped",
    choices=UNARIES,
    description="Convolution of the local term; none leaves self-attention alone, with nothing to fuse.",
)
BINARY = ModelOption(
    name="binary",
    type=bool,
    default=True,
    description="Self-attention beside the local term; without it the local term is alone, with nothing to fuse.",
)
FUSION = ModelOption(
    name="fusion",
    type=str,
    default="full",
    choices=FUSIONS,
    description="Gate of the binary term: none, one per position, or one per channel and position.",
)
FUSION_SHRINK = NumbersOption(
    name="fusion_shrink",
    type=int,
    default=2,
    low=1,
    high=64,
    part="layer",
    description="Channels of both terms over those inside the gate, or the divisor of each of its layers.",
)
FUSION_KERNEL_SIZES = NumbersOption(
    name="fusion_kernel_sizes",
    type=int,
    default=1,
    low=1,
    high=7,
    odd=True,
    part="layer",
    description="Sides of the convolutions of the layers of the gate; that to the gate itself is 1x1.",
)
FUSION_GROUPS = NumbersOption(
    name="fusion_groups",
    type=int,
    default=1,
    low=1,
    high=64,
    part="convolution",
    longest=5,
    description="Groups of the convolutions of the gate, the last one to the gate itself.",
)

ATTENTION_OPTIONS = (
    POSITION_EMBEDDING,
    GROUPS,
    STAGES,
    KEEP_FIRST_CONV,
    LAST_STRIDE,
    LESA_BEFORE_STRIDE,
    DEFORMABLE_STAGES,
    RECOMPUTE_TERMS,
)
LESA_OPTIONS = (
    *ATTENTION_OPTIONS,
    UNARY,
    BINARY,
    FUSION,
    FUSION_SHRINK,
    FUSION_KERNEL_SIZES,
    FUSION_GROUPS,
)


def groups_and_shrink_divide(widths: Sequence[int]) -> JointRule:
    """Make the rule that heads and gates share the channels of the stages with the layer, all of them powers of 2.

    Args:
        widths: Channels of the spatial operators of each stage.
    """
    return functools.partial(_problems, widths=widths)


def _problems(
    values: Mapping[str, OptionValue], image: ImageShape | None, *, widths: Sequence[int]
) -> Sequence[OptionProblem]:
    given: dict[str, Any] = dict(values)
    narrowest = min((width for width, carries in zip(widths, given["stages"], strict=True) if carries), default=None)
    if narrowest is None:
        return matches_images(values, image)
    problems = [one_term_is_left()] if given.get("unary") == "none" and not given["binary"] else []
    if narrowest // 2 % given["groups"]:
        nearest = _largest_power(given["groups"], narrowest // 2)
        problems.append(_divides("groups", given["groups"], narrowest // 2, narrowest, str(nearest)))
    if "fusion" in given:
        problems += _gate_problems(given, narrowest)
    return [*problems, *matches_images(values, image)]


def _gate_problems(given: Mapping[str, Any], narrowest: int) -> Iterator[OptionProblem]:
    """Yield the problems of the layers of a gate with each other and with the channels."""
    option, shrinks = "fusion_shrink", per_part(given["fusion_shrink"], 1)
    chs, fitting = [2 * narrowest], []
    for shrink in shrinks:
        fitting.append(_largest_power(shrink, chs[-1]))
        chs.append(chs[-1] // fitting[-1])
    if fitting != shrinks:
        yield _divides(option, given[option], chs[0], narrowest, "-".join(map(str, fitting)))
        return
    for option, parts in (("fusion_kernel_sizes", len(shrinks)), ("fusion_groups", len(shrinks) + 1)):
        if len(per_part(given[option], parts)) != parts:
            rule = f"fusion_shrink is {given['fusion_shrink']!r}, and with it {option} is one number or {parts} of them"
            yield OptionProblem(option, given[option], rule, f"Use {'-'.join('1' * parts)!r}.")
            return
    chs.append(1 if given["fusion"] == "scalar" else narrowest)
    for layer, groups in enumerate(per_part(given["fusion_groups"], len(shrinks) + 1)):
        limit = math.gcd(chs[layer], chs[layer + 1])
        if limit % groups:
            rule = f"{option} divides {chs[layer]} and {chs[layer + 1]}, the channels around convolution {layer + 1}"
            yield OptionProblem(option, given[option], rule, f"Use {_largest_power(groups, limit)} there.")
            return


def _largest_power(given: int, limit: int) -> int:
    """Return the largest power of 2 that divides `limit` and is at most `given`; `given` where it divides itself."""
    if limit % given == 0:
        return given
    return max(power for power in (1, 2, 4, 8, 16, 32, 64) if power <= given and limit % power == 0)


def _divides(option: str, given: object, limit: int, narrowest: int, nearest: str) -> OptionProblem:
    rule = f"{option} divides {limit}, from the {narrowest} channels of the narrowest stage that has it"
    return OptionProblem(option, given, rule, f"Use {nearest}.")
