"""FCViT block, the embedding between stages, and the switches that shape all blocks of a network.

Source: Ma et al. 2022, "A Close Look at Spatial Modeling: From Attention to Convolution" (arXiv 2212.12552).
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from models.common.merging import normed_conv
from models.common.options import ModelOptionError, OptionProblem, nearest_divisor
from models.fcvit.context import ChannelAttention, GlobalContext, SpatialAttention
from models.fcvit.layers import ActLayer, NormLayer, act_by_name, norm_by_name, norm_of_map
from models.fcvit.mixers import ChannelMixer, PoolMixer, SelfAttentionMixer, TokenMixer

__all__ = ["MIXERS", "BlockDesign", "FCViTBlock", "PatchEmbed", "divides"]

MIXERS = ("fcvit", "pool", "attention", "identity")


class PatchEmbed(nn.Module):
    """Strided convolution over overlapping windows, batch norm.

    Shape: x (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_chs: int, out_chs: int, *, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, padding=kernel_size // 2)
        self.bn = nn.BatchNorm2d(out_chs)

    def forward(self, x: Tensor) -> Tensor:
        """Embed."""
        return normed_conv(self.conv, self.bn, x)


class FCViTBlock(nn.Module):
    """Token mixing and channel mixing, each behind a norm, in front of a scale, around a shortcut.

    Shape: x (B, dim, H, W) -> the same.

    Args:
        dim: Channels.
        token_mixer: Mixer of the positions.
        channel_mixer: Mixer of the channels.
        norm_layer: Function that makes a norm.
        layer_scale_init: First value of the scales; None for no scales.
        drop_path_rate: Chance to drop a branch, per image.
    """

    def __init__(
        self,
        dim: int,
        *,
        token_mixer: nn.Module,
        channel_mixer: ChannelMixer,
        norm_layer: NormLayer = norm_of_map,
        layer_scale_init: float | None = 1e-5,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.token_mixer = token_mixer
        self.norm2 = norm_layer(dim)
        self.channel_mixer = channel_mixer
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        first = None if layer_scale_init is None else torch.full((dim,), float(layer_scale_init))
        self.layer_scale_1 = None if first is None else nn.Parameter(first)
        self.layer_scale_2 = None if first is None else nn.Parameter(first.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches, one after the other."""
        y = self.token_mixer(self.norm1(x))
        y = self.drop_path(y)
        if self.layer_scale_1 is not None:
            y = y * self.layer_scale_1[:, None, None]
        x = x + y
        return x + self.drop_path(self.channel_mixer(self.norm2(x), self.layer_scale_2))  # type: ignore[no-any-return]

    def no_weight_decay(self) -> set[str]:
        """Return the scales per channel."""
        return set() if self.layer_scale_1 is None else {"layer_scale_1", "layer_scale_2"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockDesign:
    """Switches and sizes that the blocks of a network share.

    Args:
        mixer: Mixer of the positions: `fcvit`, to which the kernel sizes to `spatial_reduction` belong, or one of
            three controls: `pool`, `attention` with `num_heads`, and `identity`.
        kernel_size_1: Window side of the first mixing step; odd.
        kernel_size_2: Window side of the second; odd.
        mixing_steps: Mixing steps of a block; 1 or 2.
        global_context: True to add the context of the map in each step, see `GlobalContext`.
        similarity: True for positions that weigh the context.
        competition: True for candidates that compete in its bottleneck.
        candidates: Candidates for each channel of the bottleneck.
        gc_reduction: Channels over those of its bottleneck.
        num_heads: Groups of channels that weigh the context.
        fc_factor: Channels over those inside the 1x1 convolutions of a step; 1 for full ones.
        fc_min_chs: Fewest channels inside these 1x1 convolutions.
        spatial_attention: True for token mixers that end in a `SpatialAttention`.
        spatial_kernel_size: Side of the neighbourhood of the spatial attention.
        spatial_reduction: Channels over those inside the spatial attention.
        channel_attention: True for channel mixers that end in a `ChannelAttention`.
        channel_kernel_sizes: Widths of the channel attention.
        mlp_depthwise: True for a depth-wise convolution in the channel mixers.
        mlp_kernel_size: Side of that convolution; odd.
        layer_scale: False for no scales.
        layer_scale_init: First value of the scales of a block; None for no scales.
        proj_drop_rate: Dropout in the channel mixers.
        act_layer: Function that makes the nonlinearities, or its name.
        norm_layer: Function that makes the norms of the blocks and the last one, or its name.
    """

    mixer: str = "fcvit"
    kernel_size_1: int = 11
    kernel_size_2: int = 11
    mixing_steps: int = 2
    global_context: bool = True
    similarity: bool = True
    competition: bool = True
    candidates: int = 2
    gc_reduction: int = 8
    num_heads: int = 8
    fc_factor: int = 8
    fc_min_chs: int = 16
    spatial_attention: bool = False
    spatial_kernel_size: int = 3
    spatial_reduction: int = 8
    channel_attention: bool = False
    channel_kernel_sizes: tuple[int, int] = (3, 5)
    mlp_depthwise: bool = True
    mlp_kernel_size: int = 3
    layer_scale: bool = True
    layer_scale_init: float | None = 1e-5
    proj_drop_rate: float = 0.0
    act_layer: ActLayer | str = nn.GELU
    norm_layer: NormLayer | str = norm_of_map

    def problems(self, embed_dims: Sequence[int]) -> list[OptionProblem]:
        """Return the options that do not fit these channels of the stages."""
        has_context = self.global_context and self.mixer == "fcvit"
        problems = []
        has_heads = (has_context and self.similarity) or self.mixer == "attention"
        if has_heads and any(dim % self.num_heads for dim in embed_dims):
            problems.append(divides("num_heads", self.num_heads, embed_dims))
        if not has_context:
            return problems
        # the candidates for each narrow channel need a multiple of their number
        count, reduction = self.candidates, self.gc_reduction
        broken = any(count * dim // reduction != count * (dim // reduction) for dim in embed_dims)
        if self.gc_reduction > min(embed_dims) or (self.competition and broken):
            problems.append(divides("gc_reduction", self.gc_reduction, embed_dims))
        return problems

    @property
    def first_scale(self) -> float | None:
        """First value of the scales of a block; None for no scales."""
        return self.layer_scale_init if self.layer_scale else None

    @property
    def make_act(self) -> ActLayer:
        """Function that makes the nonlinearities."""
        return act_by_name(self.act_layer) if isinstance(self.act_layer, str) else self.act_layer

    @property
    def make_norm(self) -> NormLayer:
        """Function that makes the norms."""
        return norm_by_name(self.norm_layer) if isinstance(self.norm_layer, str) else self.norm_layer

    def context(self, dim: int) -> nn.Module:
        """Make the global context of a step."""
        return GlobalContext(
            dim,
            num_heads=self.num_heads,
            gc_reduction=self.gc_reduction,
            similarity=self.similarity,
            competition=self.competition,
            candidates=self.candidates,
            act_layer=self.make_act,
        )

    def make_token_mixer(self, dim: int, largest_window: int | None) -> nn.Module:
        """Make the token mixer, with windows no larger than `largest_window`.

        Raises:
            ModelOptionError: There is no such mixer.
        """
        if self.mixer == "identity":
            return nn.Identity()
        if self.mixer == "pool":
            return PoolMixer()
        if self.mixer == "attention":
            return SelfAttentionMixer(dim, num_heads=self.num_heads)
        if self.mixer != "fcvit":
            rule = f"mixer is one of {', '.join(map(repr, MIXERS))}"
            raise ModelOptionError([OptionProblem("mixer", self.mixer, rule, "Use 'fcvit'.")])
        gate = None
        if self.spatial_attention:
            gate = SpatialAttention(
                dim,
                kernel_size=self.spatial_kernel_size,
                reduction=self.spatial_reduction,
                act_layer=self.make_act,
            )
        sizes = (self.kernel_size_1, self.kernel_size_2)[: self.mixing_steps]
        return TokenMixer(
            dim,
            kernel_sizes=tuple(min(size, largest_window or size) for size in sizes),
            make_context=self.context if self.global_context else None,
            fc_factor=self.fc_factor,
            fc_min_chs=self.fc_min_chs,
            act_layer=self.make_act,
            spatial_attention=gate,
        )

    def make_channel_mixer(self, dim: int, mlp_ratio: float) -> ChannelMixer:
        """Make the channel mixer."""
        attention = None
        if self.channel_attention:
            attention = ChannelAttention(kernel_sizes=self.channel_kernel_sizes, act_layer=self.make_act)
        return ChannelMixer(
            dim,
            hidden_chs=int(dim * mlp_ratio),
            kernel_size=self.mlp_kernel_size if self.mlp_depthwise else None,
            proj_drop_rate=self.proj_drop_rate,
            channel_attention=attention,
            act_layer=self.make_act,
        )


def divides(option: str, given: int, embed_dims: Sequence[int]) -> OptionProblem:
    """Return the problem that `given` does not divide the channels of every stage."""
    nearest = nearest_divisor(math.gcd(*embed_dims), given)
    rule = f"{option} divides the channels of every stage, {', '.join(map(str, embed_dims))}"
    return OptionProblem(option, given, rule, f"Use {nearest}.")
