"""Registered names of non-local networks, the baseline that spatial bias is measured against.

The large network has five non-local blocks, one behind every other block of its second and third stage, as in
the paper. The small one follows the same rule in its last two stages.

Source: Wang et al. 2018 (arXiv 1711.07971), section 4. Differs: 2-D, on images.
"""

from collections.abc import Sequence
from typing import Any, Unpack

from timm.models import PretrainedCfg, generate_default_cfgs
from torch import nn

from models.common.resnet import SurfaceOptions
from models.registry.architectures import build, default_cfg, register_architecture
from models.spatial_bias.network import SpatialBiasResNet
from models.spatial_bias.options import bias_options, nonlocal_fits, nonlocal_options

__all__ = ["NonLocalResNet"]


class NonLocalResNet(SpatialBiasResNet):
    """Bottleneck ResNet with non-local blocks in chosen stages, and spatial bias beside them.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each stage.
        large_image: Four stages of 64 to 512 channels behind a 7x7 stem instead of three of 16 to 64 behind a
            3x3 one.
        stages: As for `NonLocalPlan`, like the next four; none is the plain network.
        every: Blocks from one non-local block to the next.
        reduction: Channels of the map per channel of the embeddings.
        pool_keys: Whether keys and values are pooled.
        scaled: Whether logits are scaled.
        bias_stages: Which stages carry a spatial bias; none when left out.
        bias_channels: As for `SpatialBias`, like the next two.
        key_size: Width of its 1-D convolution.
        pooled_size: Side of its grid in cells.
        surface: timm's keywords, see `SpatialResNet`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        large_image: bool,
        stages: Sequence[bool],
        every: int = 2,
        reduction: int = 2,
        pool_keys: bool = False,
        scaled: bool = True,
        bias_stages: Sequence[bool] = (False, False, False, False),
        bias_channels: int = 3,
        key_size: int = 3,
        pooled_size: int = 10,
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        super().__init__(
            depths=depths,
            widths=(64, 128, 256, 512) if large_image else (16, 32, 64),
            large_image=large_image,
            stem_width=64 if large_image else 16,
            bias_channels=bias_channels,
            key_size=key_size,
            pooled_size=pooled_size,
            stages=bias_stages,
            nonlocal_stages=stages,
            nonlocal_every=every,
            nonlocal_reduction=reduction,
            nonlocal_pool_keys=pool_keys,
            nonlocal_scaled=scaled,
            **surface,
        )


def _cfg(*, small_image: bool) -> PretrainedCfg:
    return default_cfg(
        small_image=small_image,
        num_classes=100 if small_image else 1000,
        reduction=4 if small_image else 32,
        paper_ids="arXiv:1711.07971",
        origin_url="https://github.com/facebookresearch/video-nonlocal-net",
    )


default_cfgs = generate_default_cfgs(
    {"nonlocal_resnet50": _cfg(small_image=False), "nonlocal_resnet56_cifar": _cfg(small_image=True)}
)

LARGE_DEPTHS, LARGE_STAGES = (3, 4, 6, 3), (False, True, True, False)
CIFAR_DEPTHS, CIFAR_STAGES = (6, 6, 6), (False, True, True)


@register_architecture(
    family="nonlocal",
    options=(*nonlocal_options(LARGE_STAGES), *bias_options((False,) * 4, stages_name="bias_stages")),
    joint_rule=nonlocal_fits(LARGE_DEPTHS),
)
def nonlocal_resnet50(pretrained: bool = False, **given: Any) -> nn.Module:
    """ResNet50 with five non-local blocks."""
    given = {"stages": LARGE_STAGES, **given}
    shape = {"depths": LARGE_DEPTHS, "large_image": True}
    return build("nonlocal_resnet50", NonLocalResNet, pretrained=pretrained, given=given, **shape)


@register_architecture(
    family="nonlocal",
    options=(*nonlocal_options(CIFAR_STAGES), *bias_options((False,) * 3, stages_name="bias_stages")),
    joint_rule=nonlocal_fits(CIFAR_DEPTHS),
)
def nonlocal_resnet56_cifar(pretrained: bool = False, **given: Any) -> nn.Module:
    """Small-image ResNet56 with three non-local blocks in each of its last two stages."""
    given = {"stages": CIFAR_STAGES, **given}
    shape = {"depths": CIFAR_DEPTHS, "large_image": False}
    return build("nonlocal_resnet56_cifar", NonLocalResNet, pretrained=pretrained, given=given, **shape)
