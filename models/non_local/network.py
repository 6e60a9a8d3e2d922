"""Bottleneck ResNets with non-local blocks, the baseline that spatial bias is measured against.

Source: Wang et al. 2018, "Non-local Neural Networks" (arXiv 1711.07971). Differs: 2-D, on images; spatial
bias can be added, with the options of that family.
"""

from collections.abc import Sequence
from typing import Unpack

from models.common.resnet import SurfaceOptions, trunk
from models.spatial_bias.network import SpatialBiasResNet

__all__ = ["NonLocalResNet"]


class NonLocalResNet(SpatialBiasResNet):
    """Bottleneck ResNet with non-local blocks in chosen stages, and spatial bias beside them.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each stage.
        large_image: Four stages of 64 to 512 channels behind a 7x7 stem instead of three of 16 to 64 behind a
            3x3 one.
        stages: Flag of each stage for non-local blocks; none is the plain network.
        every: Blocks from one non-local block to the next.
        reduction: Channels of the map per channel of the embeddings.
        pool_keys: True to pool keys and values.
        scaled: True to scale the logits.
        bias_stages: Flag of each stage for a spatial bias; none when left out.
        bias_channels: Channels of the spatial bias; at least 1.
        key_size: Width of the 1-D convolution of the bias.
        pooled_size: Side of the grid of the bias, in cells.
        mixing: Mixing of the grid of the bias, see `SpatialBias`.
        read_point: Map that the bias reads, see `BiasPlan`.
        join_point: Place where the bias joins, see `BiasPlan`.
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
        mixing: str = "conv1d",
        read_point: str = "conv1_output",
        join_point: str = "conv2_output",
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        super().__init__(
            depths=depths,
            **trunk(large_image=large_image),
            bias_channels=bias_channels,
            key_size=key_size,
            pooled_size=pooled_size,
            mixing=mixing,
            read_point=read_point,
            join_point=join_point,
            stages=bias_stages,
            nonlocal_stages=stages,
            nonlocal_every=every,
            nonlocal_reduction=reduction,
            nonlocal_pool_keys=pool_keys,
            nonlocal_scaled=scaled,
            **surface,
        )
