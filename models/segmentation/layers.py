"""Convolution, norm and ReLU of the heads, with the norm by name."""

from torch import Tensor, nn
from torch.nn import functional

from models.common.options import ModelOptionError, OptionProblem, nearest_name

__all__ = ["HEAD_NORMS", "NormedConv", "resized_to"]

HEAD_NORMS = ("groupnorm", "batchnorm")
MOST_GROUPS, FEWEST_IN_GROUP = 32, 4


class NormedConv(nn.Sequential):
    """Convolution without bias, norm, ReLU.

    Shape: x (B, in_chs, H, W) -> (B, out_chs, H, W).

    Args:
        in_chs: Channels of the input.
        out_chs: Channels of the output.
        kernel_size: Side of the convolution; odd.
        norm: `groupnorm`, of as many groups as divide the channels, at most 32 and of at least 4 channels each, or
            `batchnorm`.

    Raises:
        ModelOptionError: There is no such norm.
    """

    def __init__(self, in_chs: int, out_chs: int, kernel_size: int, *, norm: str) -> None:
        if norm not in HEAD_NORMS:
            rule = f"norm is one of {', '.join(map(repr, HEAD_NORMS))}"
            remedy = f"Use {nearest_name(str(norm), HEAD_NORMS) or HEAD_NORMS[0]!r}."
            raise ModelOptionError([OptionProblem("norm", norm, rule, remedy)])
        most = max(1, min(MOST_GROUPS, out_chs // FEWEST_IN_GROUP))
        groups = max(count for count in range(1, most + 1) if out_chs % count == 0)
        layer = nn.GroupNorm(groups, out_chs) if norm == "groupnorm" else nn.BatchNorm2d(out_chs)
        conv = nn.Conv2d(in_chs, out_chs, kernel_size, padding=kernel_size // 2, bias=False)
        super().__init__(conv, layer, nn.ReLU(inplace=True))


def resized_to(x: Tensor, like: Tensor) -> Tensor:
    """Resize a map to height and width of another one, bilinearly: (B, C, h, w), (B, any, H, W) -> (B, C, H, W)."""
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
