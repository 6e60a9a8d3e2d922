"""Registered names of the adaptive-span paper: four operators in five layouts.

The adaptive network, and its controls of the same shape with fixed local attention, with attention-augmented
convolution and with convolution. All are made of bottlenecks behind a 3x3 stem of 32 channels: ResNet26 small has
stages of 1, 1, 1 blocks with 32, 64, 128 channels that halve the map each; the others have stages of 32, 64, 128, 256
channels, of which all but the first halve the map, with 1, 1, 1, 1 (ResNet26 medium), 1, 3, 4, 1 (large), 2, 3, 5, 2
(ResNet38) and 3, 4, 6, 3 blocks (ResNet50).

Source: Parker et al. 2020 (arXiv 2004.08708), appendix A.3, with the widths and depths of the authors' code.
"""

from typing import Any

from timm.models import PretrainedCfg, generate_default_cfgs
from torch import nn

from models.adaptive_span.network import AdaptiveSpanResNet, AugmentedResNet, ConvResNet, LocalAttentionResNet
from models.adaptive_span.options import (
    ADAPTIVE_OPTIONS,
    AUGMENTED_OPTIONS,
    CONV_OPTIONS,
    LOCAL_OPTIONS,
    SHAPES,
    heads_divide_channels,
    heads_divide_keys_and_values,
)
from models.registry.architectures import build, default_cfg, register_architecture

OPERATORS = {
    "adaptive": AdaptiveSpanResNet,
    "local": LocalAttentionResNet,
    "augmented": AugmentedResNet,
    "conv": ConvResNet,
}


def _cfg(shape: str) -> PretrainedCfg:
    return default_cfg(
        small_image=True,
        num_classes=100,
        reduction=8,
        paper_ids="arXiv:2004.08708",
        origin_url="https://github.com/JoeRoussy/adaptive-attention-in-cv",
        description=shape.replace("resnet", "ResNet").replace("_", ", "),
    )


default_cfgs = generate_default_cfgs({f"{operator}_{shape}": _cfg(shape) for operator in OPERATORS for shape in SHAPES})


def _build(operator: str, shape: str, *, pretrained: bool, **given: Any) -> nn.Module:
    network = OPERATORS[operator]
    return build(f"{operator}_{shape}", network, pretrained=pretrained, given=given, **SHAPES[shape])


register_adaptive = register_architecture(
    family="adaptive_span", options=ADAPTIVE_OPTIONS, joint_rule=heads_divide_channels
)
register_local = register_architecture(family="adaptive_span", options=LOCAL_OPTIONS, joint_rule=heads_divide_channels)
register_augmented = register_architecture(
    family="adaptive_span", options=AUGMENTED_OPTIONS, joint_rule=heads_divide_keys_and_values
)
register_conv = register_architecture(family="adaptive_span", options=CONV_OPTIONS)


@register_adaptive
def adaptive_resnet26_small(pretrained: bool = False, **given: Any) -> nn.Module:
    """Adaptive attention in 3 blocks of 32, 64 and 128 channels."""
    return _build("adaptive", "resnet26_small", pretrained=pretrained, **given)


@register_adaptive
def adaptive_resnet26_medium(pretrained: bool = False, **given: Any) -> nn.Module:
    """Adaptive attention in 4 blocks of 32 to 256 channels."""
    return _build("adaptive", "resnet26_medium", pretrained=pretrained, **given)


@register_adaptive
def adaptive_resnet26_large(pretrained: bool = False, **given: Any) -> nn.Module:
    """Adaptive attention in 9 blocks of 32 to 256 channels."""
    return _build("adaptive", "resnet26_large", pretrained=pretrained, **given)


@register_adaptive
def adaptive_resnet38(pretrained: bool = False, **given: Any) -> nn.Module:
    """Adaptive attention in 12 blocks of 32 to 256 channels."""
    return _build("adaptive", "resnet38", pretrained=pretrained, **given)


@register_adaptive
def adaptive_resnet50(pretrained: bool = False, **given: Any) -> nn.Module:
    """Adaptive attention in 16 blocks of 32 to 256 channels."""
    return _build("adaptive", "resnet50", pretrained=pretrained, **given)


@register_local
def local_resnet26_small(pretrained: bool = False, **given: Any) -> nn.Module:
    """Local attention in 3 blocks of 32, 64 and 128 channels."""
    return _build("local", "resnet26_small", pretrained=pretrained, **given)


@register_local
def local_resnet26_medium(pretrained: bool = False, **given: Any) -> nn.Module:
    """Local attention in 4 blocks of 32 to 256 channels."""
    return _build("local", "resnet26_medium", pretrained=pretrained, **given)


@register_local
def local_resnet26_large(pretrained: bool = False, **given: Any) -> nn.Module:
    """Local attention in 9 blocks of 32 to 256 channels."""
    return _build("local", "resnet26_large", pretrained=pretrained, **given)


@register_local
def local_resnet38(pretrained: bool = False, **given: Any) -> nn.Module:
    """Local attention in 12 blocks of 32 to 256 channels."""
    return _build("local", "resnet38", pretrained=pretrained, **given)


@register_local
def local_resnet50(pretrained: bool = False, **given: Any) -> nn.Module:
    """Local attention in 16 blocks of 32 to 256 channels."""
    return _build("local", "resnet50", pretrained=pretrained, **given)


@register_augmented
def augmented_resnet26_small(pretrained: bool = False, **given: Any) -> nn.Module:
    """Attention-augmented convolutions in 3 blocks of 32, 64 and 128 channels."""
    return _build("augmented", "resnet26_small", pretrained=pretrained, **given)


@register_augmented
def augmented_resnet26_medium(pretrained: bool = False, **given: Any) -> nn.Module:
    """Attention-augmented convolutions in 4 blocks of 32 to 256 channels."""
    return _build("augmented", "resnet26_medium", pretrained=pretrained, **given)


@register_augmented
def augmented_resnet26_large(pretrained: bool = False, **given: Any) -> nn.Module:
    """Attention-augmented convolutions in 9 blocks of 32 to 256 channels."""
    return _build("augmented", "resnet26_large", pretrained=pretrained, **given)


@register_augmented
def augmented_resnet38(pretrained: bool = False, **given: Any) -> nn.Module:
    """Attention-augmented convolutions in 12 blocks of 32 to 256 channels."""
    return _build("augmented", "resnet38", pretrained=pretrained, **given)


@register_augmented
def augmented_resnet50(pretrained: bool = False, **given: Any) -> nn.Module:
    """Attention-augmented convolutions in 16 blocks of 32 to 256 channels."""
    return _build("augmented", "resnet50", pretrained=pretrained, **given)


@register_conv
def conv_resnet26_small(pretrained: bool = False, **given: Any) -> nn.Module:
    """3x3 convolutions in 3 blocks of 32, 64 and 128 channels."""
    return _build("conv", "resnet26_small", pretrained=pretrained, **given)


@register_conv
def conv_resnet26_medium(pretrained: bool = False, **given: Any) -> nn.Module:
    """3x3 convolutions in 4 blocks of 32 to 256 channels."""
    return _build("conv", "resnet26_medium", pretrained=pretrained, **given)


@register_conv
def conv_resnet26_large(pretrained: bool = False, **given: Any) -> nn.Module:
    """3x3 convolutions in 9 blocks of 32 to 256 channels."""
    return _build("conv", "resnet26_large", pretrained=pretrained, **given)


@register_conv
def conv_resnet38(pretrained: bool = False, **given: Any) -> nn.Module:
    """3x3 convolutions in 12 blocks of 32 to 256 channels."""
    return _build("conv", "resnet38", pretrained=pretrained, **given)


@register_conv
def conv_resnet50(pretrained: bool = False, **given: Any) -> nn.Module:
    """3x3 convolutions in 16 blocks of 32 to 256 channels."""
    return _build("conv", "resnet50", pretrained=pretrained, **given)
