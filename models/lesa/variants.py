"""Registered LESA networks, and controls of the same layout with self-attention alone.

With `stages` all false each of them is the convolutional network of the same layout.
Source: Yang et al. 2021 (arXiv 2107.05637), with the layout of the authors' code.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import PretrainedCfg, generate_default_cfgs
from torch import nn

from models.common.image_size import image_size_option, matches_images
from models.common.options import ImageShape, JointRule, ModelOption, OptionProblem, OptionValue
from models.lesa.attention import FUSIONS, UNARIES
from models.lesa.network import LesaResNet
from models.lesa.positions import POSITIONS
from models.registry.architectures import build, default_cfg, register_architecture

__all__ = ["SHAPES"]

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "resnet50": {
        "depths": (3, 4, 6, 3),
        "widths": (64, 128, 256, 512),
        "strides": (1, 2, 2, 1),
        "large_image": True,
        "stem_width": 64,
    },
    "wrn50": {
        "depths": (3, 4, 6, 3),
        "widths": (128, 256, 512, 1024),
        "out_widths": (256, 512, 1024, 2048),
        "strides": (1, 2, 2, 1),
        "large_image": True,
        "stem_width": 64,
    },
    "resnet26_cifar": {
        "depths": (2, 2, 2, 2),
        "widths": (32, 64, 128, 256),
        "strides": (1, 2, 2, 1),
        "large_image": False,
        "stem_width": 32,
    },
}
LATE_STAGES = (False, False, True, True)

ATTENTION_OPTIONS = (
    ModelOption(
        name="position_embedding",
        type=str,
        default="classification",
        choices=POSITIONS,
        description="Positions on the flattened map for query, key and value, or rows and columns for the query.",
    ),
    ModelOption(
        name="groups",
        type=int,
        default=8,
        low=1,
        high=64,
        description="Heads of the attention, and groups of the 3x3 convolution beside it.",
    ),
    ModelOption(
        name="stages",
        type=tuple,
        default=LATE_STAGES,
        length=4,
        description="Which stages carry the layer; none is the convolutional network of the same layout.",
    ),
)
LESA_OPTIONS = (
    *ATTENTION_OPTIONS,
    ModelOption(
        name="unary",
        type=str,
        default="grouped",
        choices=UNARIES,
        description="Convolution of the local term; none leaves self-attention alone, with nothing to fuse.",
    ),
    ModelOption(
        name="fusion",
        type=str,
        default="full",
        choices=FUSIONS,
        description="Gate of the binary term: none, one per position, or one per channel and position.",
    ),
    ModelOption(
        name="fusion_shrink",
        type=int,
        default=2,
        low=1,
        high=64,
        description="Channels of both terms over those inside the gate.",
    ),
)


def _fits_channels(
    values: Mapping[str, OptionValue], image: ImageShape | None, *, widths: Sequence[int]
) -> Sequence[OptionProblem]:
    """Heads and gates share the channels of the stages that carry the layer, all of them powers of 2."""
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


def _rule(shape: str) -> JointRule:
    return functools.partial(_fits_channels, widths=SHAPES[shape]["widths"])


def _cfg(name: str) -> PretrainedCfg:
    small = name.endswith("cifar")
    return default_cfg(
        small_image=small,
        num_classes=100 if small else 1000,
        reduction=4 if small else 16,
        fixed_input_size=True,
        paper_ids="arXiv:2107.05637",
        origin_url="https://github.com/Chenglin-Yang/LESA_classification",
    )


default_cfgs = generate_default_cfgs(
    {name: _cfg(name) for shape in SHAPES for name in (f"lesa_{shape}", f"sa_{shape}")}
)

LARGE = image_size_option(224, "Images the network is built for: its position tables grow with the map.")
SMALL = image_size_option(32, "Images the network is built for: its position tables grow with the map.")
register_lesa = register_architecture(family="lesa", options=(*LESA_OPTIONS, LARGE), joint_rule=_rule("resnet50"))
register_sa = register_architecture(family="lesa", options=(*ATTENTION_OPTIONS, LARGE), joint_rule=_rule("resnet50"))
register_wide_lesa = register_architecture(family="lesa", options=(*LESA_OPTIONS, LARGE), joint_rule=_rule("wrn50"))
register_wide_sa = register_architecture(family="lesa", options=(*ATTENTION_OPTIONS, LARGE), joint_rule=_rule("wrn50"))
register_small_lesa = register_architecture(
    family="lesa", options=(*LESA_OPTIONS, SMALL), joint_rule=_rule("resnet26_cifar")
)
register_small_sa = register_architecture(
    family="lesa", options=(*ATTENTION_OPTIONS, SMALL), joint_rule=_rule("resnet26_cifar")
)


def _lesa(shape: str, *, pretrained: bool, **given: Any) -> nn.Module:
    return build(f"lesa_{shape}", LesaResNet, pretrained=pretrained, given=given, **SHAPES[shape])


def _sa(shape: str, *, pretrained: bool, **given: Any) -> nn.Module:
    return build(f"sa_{shape}", LesaResNet, pretrained=pretrained, given=given, unary="none", **SHAPES[shape])


@register_lesa
def lesa_resnet50(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet50 with LESA in its last two stages."""
    return _lesa("resnet50", pretrained=pretrained, **given)


@register_wide_lesa
def lesa_wrn50(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet50 of twice the width in its bottlenecks, with LESA in its last two stages."""
    return _lesa("wrn50", pretrained=pretrained, **given)


@register_small_lesa
def lesa_resnet26_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet26 with LESA in its last two stages."""
    return _lesa("resnet26_cifar", pretrained=pretrained, **given)


@register_sa
def sa_resnet50(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet50 with self-attention alone where `lesa_resnet50` has LESA."""
    return _sa("resnet50", pretrained=pretrained, **given)


@register_wide_sa
def sa_wrn50(pretrained: bool = False, **given: Any) -> nn.Module:
    """The wide ResNet50 with self-attention alone where `lesa_wrn50` has LESA."""
    return _sa("wrn50", pretrained=pretrained, **given)


@register_small_sa
def sa_resnet26_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet26 with self-attention alone where `lesa_resnet26_cifar` has LESA."""
    return _sa("resnet26_cifar", pretrained=pretrained, **given)
