"""Registered names of the adaptive-span paper: three operators in three sizes.

The adaptive network, and its controls of the same shape with fixed local attention and with convolution.
Source: Parker et al. 2020 (arXiv 2004.08708), appendix A.3, with the widths and depths of the authors' code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import PretrainedCfg, generate_default_cfgs
from torch import nn

from models.adaptive_resnet import AdaptiveSpanResNet, ConvResNet, LocalAttentionResNet
from models.options import ModelOption, OptionProblem, OptionValue
from models.registration import ImageShape, build, default_cfg, register_architecture

__all__ = ["SIZES"]

SIZES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "small": {"depths": (1, 1, 1), "widths": (32, 64, 128), "strides": (2, 2, 2)},
    "medium": {"depths": (1, 1, 1, 1), "widths": (32, 64, 128, 256), "strides": (1, 2, 2, 2)},
    "large": {"depths": (1, 3, 4, 1), "widths": (32, 64, 128, 256), "strides": (1, 2, 2, 2)},
}
NARROWEST = 32

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

CONV_OPTIONS = (STEM,)
LOCAL_OPTIONS = (STEM, NUM_HEADS, KERNEL_SIZE)
ADAPTIVE_OPTIONS = (STEM, NUM_HEADS, MAX_SPAN, RAMP, SPAN_INIT, SPAN_PENALTY)


def heads_divide_channels(values: Mapping[str, OptionValue], image: ImageShape | None) -> Sequence[OptionProblem]:
    """Every width is a multiple of the narrowest, so heads that divide that one divide all."""
    del image
    heads = values["num_heads"]
    assert isinstance(heads, int)
    if NARROWEST % heads == 0:
        return ()
    fitting = [divisor for divisor in range(1, NARROWEST + 1) if NARROWEST % divisor == 0]
    nearest = min(fitting, key=lambda divisor: abs(divisor - heads))
    rule = f"num_heads divides the {NARROWEST} channels of the narrowest stage"
    return [OptionProblem("num_heads", heads, rule, f"Use {nearest}.")]


def _cfg(size: str) -> PretrainedCfg:
    return default_cfg(
        small_image=True,
        num_classes=100,
        reduction=8,
        paper_ids="arXiv:2004.08708",
        origin_url="https://github.com/JoeRoussy/adaptive-attention-in-cv",
        description=f"ResNet26, {size}",
    )


default_cfgs = generate_default_cfgs(
    {f"{operator}_resnet26_{size}": _cfg(size) for operator in ("adaptive", "local", "conv") for size in SIZES}
)


def _adaptive(size: str, *, pretrained: bool, **given: Any) -> nn.Module:
    name = f"adaptive_resnet26_{size}"
    return build(name, AdaptiveSpanResNet, pretrained=pretrained, given=given, **SIZES[size])


def _local(size: str, *, pretrained: bool, **given: Any) -> nn.Module:
    name = f"local_resnet26_{size}"
    return build(name, LocalAttentionResNet, pretrained=pretrained, given=given, **SIZES[size])


def _conv(size: str, *, pretrained: bool, **given: Any) -> nn.Module:
    name = f"conv_resnet26_{size}"
    return build(name, ConvResNet, pretrained=pretrained, given=given, **SIZES[size])


register_adaptive = register_architecture(
    family="adaptive_span", options=ADAPTIVE_OPTIONS, joint_rule=heads_divide_channels
)
register_local = register_architecture(family="adaptive_span", options=LOCAL_OPTIONS, joint_rule=heads_divide_channels)
register_conv = register_architecture(family="adaptive_span", options=CONV_OPTIONS)


@register_adaptive
def adaptive_resnet26_small(pretrained: bool = False, **given: Any) -> nn.Module:
    """Adaptive attention in 3 blocks of 32, 64 and 128 channels."""
    return _adaptive("small", pretrained=pretrained, **given)


@register_adaptive
def adaptive_resnet26_medium(pretrained: bool = False, **given: Any) -> nn.Module:
    """Adaptive attention in 4 blocks of 32 to 256 channels."""
    return _adaptive("medium", pretrained=pretrained, **given)


@register_adaptive
def adaptive_resnet26_large(pretrained: bool = False, **given: Any) -> nn.Module:
    """Adaptive attention in 9 blocks of 32 to 256 channels."""
    return _adaptive("large", pretrained=pretrained, **given)


@register_local
def local_resnet26_small(pretrained: bool = False, **given: Any) -> nn.Module:
    """Local attention in 3 blocks of 32, 64 and 128 channels."""
    return _local("small", pretrained=pretrained, **given)


@register_local
def local_resnet26_medium(pretrained: bool = False, **given: Any) -> nn.Module:
    """Local attention in 4 blocks of 32 to 256 channels."""
    return _local("medium", pretrained=pretrained, **given)


@register_local
def local_resnet26_large(pretrained: bool = False, **given: Any) -> nn.Module:
    """Local attention in 9 blocks of 32 to 256 channels."""
    return _local("large", pretrained=pretrained, **given)


@register_conv
def conv_resnet26_small(pretrained: bool = False, **given: Any) -> nn.Module:
    """3x3 convolutions in 3 blocks of 32, 64 and 128 channels."""
    return _conv("small", pretrained=pretrained, **given)


@register_conv
def conv_resnet26_medium(pretrained: bool = False, **given: Any) -> nn.Module:
    """3x3 convolutions in 4 blocks of 32 to 256 channels."""
    return _conv("medium", pretrained=pretrained, **given)


@register_conv
def conv_resnet26_large(pretrained: bool = False, **given: Any) -> nn.Module:
    """3x3 convolutions in 9 blocks of 32 to 256 channels."""
    return _conv("large", pretrained=pretrained, **given)
