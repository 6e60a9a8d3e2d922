"""Bottleneck ResNets that carry global context in a few extra channels, without attention.

Beside the 3x3 convolution of a block, the map is reduced to a few channels and averaged to a small grid; a
1-D convolution that takes the cells of the grid as its channels mixes all of them, and its output, resized to
the map, joins the channels of the convolution ahead of their norm.

Source: Go & Ryu 2023, "Spatial Bias for Attention-free Non-local Neural Networks" (arXiv 2302.12505).
Differs: drop path takes part; non-local blocks can be added, which the paper combines too, and channel attention; the
places where the bias reads and joins can be chosen.
"""

from collections.abc import Sequence
from typing import Unpack

from torch import nn

from models.common.bottleneck import EXPANSION
from models.common.channel_attention import ChannelGate
from models.common.non_local import NonLocal, NonLocalPlan
from models.common.resnet import BlockSite, SpatialResNet, SurfaceOptions
from models.spatial_bias.block import BiasedBottleneck, BiasPlan

__all__ = ["SpatialBiasResNet"]


class SpatialBiasResNet(SpatialResNet):
    """Bottleneck ResNet with spatial bias in the blocks of chosen stages, and non-local blocks beside it.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each stage.
        widths: Channels of the 3x3 convolutions of each stage.
        large_image: 7x7 stem with pooling instead of a 3x3 one.
        stem_width: Channels of the stem.
        bias_channels: Channels of the context; at least 1.
        key_size: Width of the 1-D convolution; at least 1.
        pooled_size: Side of the grid in cells; at least 1.
        stages: Flag of each stage for a bias; none is the plain network. All but the fourth when left out.
        mixing: Mixing of the grid, `conv1d` or `linear`, see `SpatialBias`.
        read_point: Map that the bias reads, see `BiasPlan`.
        join_point: Place where the bias joins, see `BiasPlan`.
        attention: Channel attention behind the last norm of every block, such as `se`; `none` for none.
        attention_reduction: Channels of the map per hidden unit of the attention.
        nonlocal_stages: Flag of each stage for non-local blocks; none when left out.
        nonlocal_every: Blocks from one non-local block to the next.
        nonlocal_reduction: Channels of the map per channel of their embeddings.
        nonlocal_pool_keys: True to pool their keys and values.
        nonlocal_scaled: True to scale their logits.
        surface: timm's keywords, see `SpatialResNet`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        large_image: bool,
        stem_width: int,
        bias_channels: int = 3,
        key_size: int = 3,
        pooled_size: int = 10,
        stages: Sequence[bool] = (True, True, True, False),
        mixing: str = "conv1d",
        read_point: str = "conv1_output",
        join_point: str = "conv2_output",
        attention: str = "none",
        attention_reduction: int = 16,
        nonlocal_stages: Sequence[bool] = (False, False, False, False),
        nonlocal_every: int = 2,
        nonlocal_reduction: int = 2,
        nonlocal_pool_keys: bool = False,
        nonlocal_scaled: bool = True,
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        plan = NonLocalPlan(
            stages=tuple(nonlocal_stages),
            every=nonlocal_every,
            reduction=nonlocal_reduction,
            pool_keys=nonlocal_pool_keys,
            scaled=nonlocal_scaled,
        )
        biases = BiasPlan(
            stages=tuple(stages),
            bias_channels=bias_channels,
            key_size=key_size,
            pooled_size=pooled_size,
            mixing=mixing,
            read_point=read_point,
            join_point=join_point,
        )

        def make_block(site: BlockSite) -> nn.Module:
            gate: nn.Module = nn.Identity()
            if attention != "none":
                gate = ChannelGate(site.width * EXPANSION, attention=attention, reduction=attention_reduction)
            return BiasedBottleneck(site, spatial=biases.operator(site), plan=plan, gate=gate)

        super().__init__(
            depths=depths,
            widths=widths,
            strides=(1, 2, 2, 2)[: len(depths)],
            make_block=make_block,
            large_image=large_image,
            stem_width=stem_width,
            **surface,
        )
        self.channels_last_on_cpu = True
        self.has_nonlocal = any(isinstance(module, NonLocal) for module in self.modules())
        self.additions = {"mixing": mixing, "read_point": read_point, "join_point": join_point, "attention": attention}
        gates = {inner for gate in self.modules() if isinstance(gate, ChannelGate) for inner in gate.modules()}
        self.apply(lambda module: None if module in gates else init_spatial_bias(module))


def init_spatial_bias(module: nn.Module) -> None:
    """Initialise 2-D convolutions by He's fan-out rule, as the authors' code; non-local blocks have their own."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, NonLocal):
        module.reset_parameters()
