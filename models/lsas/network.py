"""Residual networks whose blocks end in a gate over channels, with sub-attention behind its logits.

The gate stands between the last norm of a block and its shortcut. The released LSAS networks have one in the
last stage only (small images) or the last two (large ones), and their SENet controls in every stage.

Source: Zhong et al. 2023 (arXiv 2305.05200). Differs: small-image networks of basic blocks have a gate too,
where the authors' code cannot build one; other attentions than squeeze-and-excitation, of which no code was
released, are gated by the same rule.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from models.common.bottleneck import EXPANSION, Bottleneck, ConvNorm
from models.common.merging import may_merge
from models.common.resnet import BlockSite, SpatialResNet, SurfaceOptions, trunk
from models.lsas.sub_attention import AttentionGate

__all__ = ["GatedBasicBlock", "GatedBottleneck", "LsasResNet"]


class GatedBottleneck(Bottleneck):
    """Bottleneck with a gate behind its last norm.

    Shape: x (B, in_chs, H, W) -> (B, 4 * width, ceil(H / stride), ceil(W / stride)).

    Args:
        site: Place of the block.
        gate: Gate over the channels; an identity for none.
    """

    def __init__(self, site: BlockSite, *, gate: nn.Module) -> None:
        conv = nn.Conv2d(site.width, site.width, 3, site.stride, padding=1, bias=False)
        super().__init__(
            site.in_chs,
            site.width,
            spatial=conv,
            stride=site.stride,
            pool_stride=False,
            drop_path_rate=site.drop_path_rate,
        )
        self.gate = gate

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Norm ahead of the gate."""
        return self.expand.bn

    def forward(self, x: Tensor) -> Tensor:
        """Add the gated branch to the shortcut, in place of the branch."""
        shortcut = self.shortcut(x)
        x = self.act(self.normed_spatial(self.reduce(x)))
        return joined(self.expand(x), shortcut, self)


class GatedBasicBlock(nn.Module):
    """Two 3x3 convolutions and a gate behind the last norm, around a shortcut.

    Shape: x (B, in_chs, H, W) -> (B, width, ceil(H / stride), ceil(W / stride)).

    Args:
        site: Place of the block.
        gate: Gate over the channels; an identity for none.
    """

    def __init__(self, site: BlockSite, *, gate: nn.Module) -> None:
        super().__init__()
        self.out_chs = site.width
        self.conv1 = ConvNorm(site.in_chs, site.width, kernel_size=3, stride=site.stride)
        self.conv2 = ConvNorm(site.width, site.width, kernel_size=3, act=False)
        self.gate = gate
        self.drop_path = DropPath(site.drop_path_rate) if site.drop_path_rate else nn.Identity()
        is_same = site.stride == 1 and site.in_chs == site.width
        self.shortcut = nn.Identity() if is_same else ConvNorm(site.in_chs, site.width, stride=site.stride, act=False)
        self.act_out = nn.ReLU(inplace=True)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Norm ahead of the gate."""
        return self.conv2.bn

    def forward(self, x: Tensor) -> Tensor:
        """Add the gated branch to the shortcut, in place of the branch."""
        shortcut = self.shortcut(x)
        return joined(self.conv2(self.conv1(x)), shortcut, self)


def joined(branch: Tensor, shortcut: Tensor, block: GatedBasicBlock | GatedBottleneck) -> Tensor:
    """Gate the branch, drop it by chance, add the shortcut, activate.

    Where nothing is kept for gradients, the gate multiplies in place.
    """
    gate = block.gate
    alone = block.training or torch.is_grad_enabled() or not may_merge(branch, gate, block.last_norm)
    if not alone and isinstance(gate, AttentionGate) and isinstance(gate.spatial, nn.Identity):
        x = branch.mul_(gate.channel_gate(branch))
    else:
        x = block.drop_path(gate(branch))
    x += shortcut
    y: Tensor = block.act_out(x)
    return y


class LsasResNet(SpatialResNet):
    """ResNet with gated blocks in chosen stages.

    Shape: x (B, in_chans, H, W) -> (B, num_classes).

    Args:
        depths: Blocks of each stage.
        large_image: Four stages of 64 to 512 channels behind a 7x7 stem instead of three of 16 to 64 behind a
            3x3 one.
        block: `bottleneck` or `basic`.
        stages: Flag of each stage for gates; none is the plain network.
        attention: Channel attention that gives the logits, see `AttentionGate`.
        reduction: Channels per hidden unit of the attention.
        order: Affine steps of the sub-attention; 0 is the plain attention.
        scale_init: First value of the scales of the sub-attention.
        shift_init: First value of the shifts of the sub-attention.
        zero_init_last: True to start the last norm of every block at zero, so that a block starts as its shortcut.
        surface: timm's keywords, see `SpatialResNet`.

    Source: Zhong et al. 2023, and the stages of the released networks.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        large_image: bool,
        block: str = "bottleneck",
        stages: Sequence[bool],
        attention: str = "se",
        reduction: int = 16,
        order: int = 1,
        scale_init: float = 0.5,
        shift_init: float = -0.5,
        zero_init_last: bool = False,
        **surface: Unpack[SurfaceOptions],
    ) -> None:
        kind: type[GatedBasicBlock | GatedBottleneck]
        expansion, kind = (1, GatedBasicBlock) if block == "basic" else (EXPANSION, GatedBottleneck)

        def make_block(site: BlockSite) -> nn.Module:
            if not stages[site.stage]:
                return kind(site, gate=nn.Identity())
            gate = AttentionGate(
                site.width * expansion,
                attention=attention,
                reduction=reduction,
                order=order,
                scale_init=scale_init,
                shift_init=shift_init,
            )
            return kind(site, gate=gate)

        super().__init__(
            depths=depths,
            **trunk(large_image=large_image),
            strides=(1, 2, 2, 2)[: len(depths)],
            make_block=make_block,
            **surface,
        )
        self.channels_last_on_cpu = True
        self.attention = attention
        self.large_image = large_image
        init_gated_resnet(self, zero_init_last=zero_init_last)


def init_gated_resnet(network: nn.Module, *, zero_init_last: bool) -> None:
    """Initialise the convolutions of the trunk by He's fan-out rule; gates and classifier keep their own."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and ".gate." not in name:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_last and isinstance(module, GatedBottleneck | GatedBasicBlock):
            nn.init.zeros_(module.last_norm.weight)
