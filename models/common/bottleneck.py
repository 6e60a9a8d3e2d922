"""Parts of all residual networks of this package: normed convolution, stem, bottleneck.

Sources: He et al. 2016 (arXiv 1512.03385) for the bottleneck; Parker et al. 2020 (arXiv 2004.08708) for the
stride as a pool behind the last norm.
"""

from timm.layers.drop import DropPath
from torch import Tensor, nn

from models.common.merging import normed_conv

__all__ = ["EXPANSION", "Bottleneck", "ConvNorm", "Stem"]

EXPANSION = 4  # output channels of a bottleneck per channel of its spatial operator


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm and, unless switched off, ReLU.

    Shape: x (B, in_chs, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride)).

    Args:
        in_chs: Channels of the input.
        out_chs: Channels of the output.
        kernel_size: Side of the convolution; odd.
        stride: Reduction of the side.
        groups: Groups of the convolution.
        dilation: Distance in pixels between the taps of the convolution.
        act: False for no ReLU.
    """

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(in_chs, out_chs, kernel_size, stride, padding, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(out_chs)
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, activate."""
        y: Tensor = self.act(normed_conv(self.conv, self.bn, x))
        return y


class Stem(ConvNorm):
    """First layer: 3x3 at full resolution for small images, 7x7 with stride 2 and a max-pool for large ones.

    Shape: x (B, in_chans, H, W) -> (B, width, H, W), or a quarter of the side with `large_image`.
    """

    def __init__(self, in_chans: int, width: int, *, large_image: bool) -> None:
        super().__init__(in_chans, width, kernel_size=7 if large_image else 3, stride=2 if large_image else 1)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if large_image else nn.Identity()
        self.reduction = 4 if large_image else 1

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and, for large images, pool."""
        y: Tensor = self.pool(super().forward(x))
        return y


class Bottleneck(nn.Module):
    """1x1 convolution, spatial operator, 1x1 convolution, around a shortcut.

    Shape: x (B, in_chs, H, W) -> (B, 4 * width, ceil(H / stride), ceil(W / stride)).

    Args:
        in_chs: Channels of the input.
        width: Input channels of the spatial operator.
        spatial: Operator, width -> `spatial.out_chs` channels. It strides itself, unless `pool_stride`. A subclass
            may add `spatial.late_chs` channels behind the norm of its output.
        stride: Reduction of the side, done by the operator and by the shortcut.
        pool_stride: True for the stride as an average pool behind the last norm, instead of the operator. An
            odd map keeps its last row and column in a smaller cell.
        drop_path_rate: Chance to drop the branch, per image.
    """

    def __init__(
        self,
        in_chs: int,
        width: int,
        *,
        spatial: nn.Module,
        stride: int,
        pool_stride: bool,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        out_chs = self.out_chs = width * EXPANSION
        spatial_chs = int(getattr(spatial, "out_chs", width))
        self.reduce = ConvNorm(in_chs, width)
        self.spatial = spatial
        self.bn = nn.BatchNorm2d(spatial_chs)
        self.act = nn.ReLU(inplace=True)
        self.expand = ConvNorm(spatial_chs + int(getattr(spatial, "late_chs", 0)), out_chs, act=False)
        pools = pool_stride and stride > 1
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if pools else nn.Identity()
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        is_same = stride == 1 and in_chs == out_chs
        self.shortcut = nn.Identity() if is_same else ConvNorm(in_chs, out_chs, stride=stride, act=False)
        self.act_out = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the shortcut."""
        shortcut = self.shortcut(x)
        x = self.act(self.normed_spatial(self.reduce(x)))
        x = self.drop_path(self.pool(self.expand(x)))
        x += shortcut  # in place: nothing else holds the output of the branch
        y: Tensor = self.act_out(x)
        return y

    def normed_spatial(self, x: Tensor) -> Tensor:
        """Apply the operator and its norm."""
        if isinstance(self.spatial, nn.Conv2d):
            return normed_conv(self.spatial, self.bn, x)
        y: Tensor = self.bn(self.spatial(x))
        return y
