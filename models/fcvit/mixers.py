"""Halves of an FCViT block: mixing of positions by large windows, mixing of channels.

Source: Ma et al. 2022, "A Close Look at Spatial Modeling: From Attention to Convolution" (arXiv 2212.12552).
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from models.common.depthwise import DepthwiseConv
from models.fcvit.layers import ActLayer
from models.padding import WholeMapLayer

__all__ = ["ChannelMixer", "PoolMixer", "SelfAttentionMixer", "TokenMixer"]


class TokenMixingStep(nn.Module):
    """Context, a depth-wise convolution over a large window, a 1x1 convolution, a nonlinearity.

    Shape: x (B, dim, H, W) -> the same.

    Args:
        dim: Channels.
        kernel_size: Side of the window; odd.
        context: Global context ahead of the step; None for none.
        fc_factor: Channels over those inside the 1x1 convolution; 1 for a full one.
        fc_min_chs: Fewest channels it passes through.
        act_layer: Function that makes the nonlinearity.
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel_size: int,
        context: nn.Module | None,
        fc_factor: int,
        fc_min_chs: int,
        act_layer: ActLayer,
    ) -> None:
        super().__init__()
        narrow = max(dim // fc_factor, fc_min_chs)
        self.context = context or nn.Identity()
        self.depthwise = DepthwiseConv(dim, kernel_size)
        self.act = act_layer()
        self.pointwise = (
            nn.Sequential(nn.Conv2d(dim, narrow, 1), act_layer(), nn.Conv2d(narrow, dim, 1))
            if fc_factor > 1
            else nn.Conv2d(dim, dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the step."""
        y: Tensor = self.act(self.pointwise(self.depthwise(self.context(x))))
        return y


class TokenMixer(nn.Module):
    """One or two mixing steps and an optional spatial gate.

    Shape: x (B, dim, H, W) -> the same.

    Args:
        dim: Channels.
        kernel_sizes: Window side of each step, one per step; odd.
        make_context: Function that makes the global context of a step; None for none.
        fc_factor: Channels over those inside the 1x1 convolutions; 1 for full ones.
        fc_min_chs: Fewest channels inside the 1x1 convolutions.
        act_layer: Function that makes the nonlinearities.
        spatial_attention: Gate behind the steps; None for none.
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel_sizes: tuple[int, ...],
        make_context: Callable[[int], nn.Module] | None,
        fc_factor: int = 8,
        fc_min_chs: int = 16,
        act_layer: ActLayer = nn.GELU,
        spatial_attention: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.steps = nn.Sequential(
            *(
                TokenMixingStep(
                    dim,
                    kernel_size=kernel_size,
                    context=make_context(dim) if make_context else None,
                    fc_factor=fc_factor,
                    fc_min_chs=fc_min_chs,
                    act_layer=act_layer,
                )
                for kernel_size in kernel_sizes
            )
        )
        self.spatial_attention = spatial_attention or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions."""
        y: Tensor = self.spatial_attention(self.steps(x))
        return y


class PoolMixer(nn.Module):
    """Mean of the 3x3 neighbours inside the map, less the position itself; without parameters.

    Shape: x (B, dim, H, W) -> the same.

    Source: Yu et al. 2022, "MetaFormer Is Actually What You Need for Vision" (arXiv 2111.11418).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions."""
        return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) - x


class SelfAttentionMixer(WholeMapLayer):
    """Multi-head self-attention of all positions to all, without positions.

    Shape: x (B, dim, H, W) -> the same.

    Args:
        dim: Channels.
        num_heads: Heads; divides `dim`.
    """

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the positions."""
        heads = self.qkv(x).flatten(2).unflatten(1, (3, self.num_heads, -1)).transpose(3, 4)
        q, k, v = heads.unbind(1)
        padding = self.padding_of_batch
        covered = None if padding is None else padding.mask(x).flatten(2)[:, None]
        mixed = functional.scaled_dot_product_attention(q, k, v, covered)
        y: Tensor = self.proj(mixed.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))
        return y


class ChannelMixer(nn.Module):
    """Two 1x1 convolutions with a depth-wise one and a nonlinearity in between.

    Shape: x (B, dim, H, W) -> the same.

    Args:
        dim: Channels.
        hidden_chs: Channels in between.
        kernel_size: Side of the depth-wise convolution, odd; None for none.
        proj_drop_rate: Dropout behind the nonlinearity and at the end.
        channel_attention: Attention at the end; None for none.
        act_layer: Function that makes the nonlinearity.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden_chs: int,
        kernel_size: int | None = 3,
        proj_drop_rate: float = 0.0,
        channel_attention: nn.Module | None = None,
        act_layer: ActLayer = nn.GELU,
    ) -> None:
        super().__init__()
        self.expand = nn.Conv2d(dim, hidden_chs, 1)
        self.depthwise = DepthwiseConv(hidden_chs, kernel_size) if kernel_size else nn.Identity()
        self.act = act_layer()
        self.reduce = nn.Conv2d(hidden_chs, dim, 1)
        self.drop = nn.Dropout(proj_drop_rate)
        self.channel_attention = channel_attention or nn.Identity()

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Mix the channels; `scale` (dim,) multiplies the output."""
        x = self.drop(self.act(self.depthwise(self.expand(x))))
        if scale is None:
            y: Tensor = self.channel_attention(self.drop(self.reduce(x)))
            return y
        if isinstance(self.channel_attention, nn.Identity):
            # scaling the rows of the last convolution costs less than scaling a whole map
            weight, bias = self.reduce.weight * scale[:, None, None, None], self.reduce.bias
            assert bias is not None
            x = functional.conv2d(x, weight, bias * scale)
            return self.drop(x)  # type: ignore[no-any-return]
        y = self.channel_attention(self.drop(self.reduce(x)))
        return y * scale[:, None, None]
