"""Bottleneck with a spatial bias, whose places of reading and joining can be chosen, and a channel attention beside it.

The convolutions of a bottleneck are counted as in the paper's code: conv1 is the first 1x1, conv2 the 3x3, conv3 the
last 1x1. The authors' network reads the output of conv1, behind norm and activation, and joins the output of conv2,
ahead of its norm.

Source: Go & Ryu 2023 (arXiv 2302.12505), with the code of its authors. Other places and attentions are ours.
"""

import dataclasses

from torch import Tensor, nn

from models.common.merging import convolved
from models.common.non_local import NonLocalBottleneck, NonLocalPlan
from models.common.options import ModelOptionError, OptionProblem
from models.common.resnet import BlockSite
from models.spatial_bias.bias import SpatialBias, append_bias

__all__ = ["JOIN_POINTS", "READ_POINTS", "BiasPlan", "BiasedBottleneck", "SpatialBiasConv", "point_problem"]

READ_POINTS = ("block_input", "conv1_output", "conv2_output")
JOIN_POINTS = ("conv2_input", "conv2_output", "conv3_input")


def point_problem(read_point: str, join_point: str) -> OptionProblem | None:
    """Return the problem with a bias that joins ahead of what it reads, or None."""
    if (read_point, join_point) != ("conv2_output", "conv2_input"):
        return None
    clause = "a bias that reads the output of conv2 joins behind conv2"
    return OptionProblem("join_point", join_point, clause, "Use 'conv2_output'.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BiasPlan:
    """Places and form of the spatial biases of a network.

    Args:
        stages: Flag of each stage for biases.
        bias_channels: Channels of the context (n); at least 1.
        key_size: Width of the 1-D convolution (k); at least 1.
        pooled_size: Side of the grid in cells (r); at least 1.
        mixing: Mixing of the grid, see `SpatialBias`.
        read_point: Map that the bias reads: `block_input`, `conv1_output` behind norm and activation, or
            `conv2_output` ahead of its norm.
        join_point: Place where its channels join: `conv2_input`, `conv2_output` ahead of its norm, or `conv3_input`
            behind norm and activation, which equals a projection of the bias added to the output of conv3.

    Raises:
        ModelOptionError: The bias would join ahead of what it reads.
    """

    stages: tuple[bool, ...]
    bias_channels: int
    key_size: int
    pooled_size: int
    mixing: str
    read_point: str
    join_point: str

    def __post_init__(self) -> None:
        if problem := point_problem(self.read_point, self.join_point):
            raise ModelOptionError([problem])

    def operator(self, site: BlockSite) -> nn.Module:
        """Make the 3x3 convolution of a block, with a bias where the plan has one."""
        if not self.stages[site.stage]:
            return nn.Conv2d(site.width, site.width, 3, site.stride, padding=1, bias=False)
        return SpatialBiasConv(site, plan=self)


class SpatialBiasConv(nn.Module):
    """3x3 convolution and the spatial bias beside it.

    Shape: x (B, width, H, W) -> (B, out_chs, ceil(H / stride), ceil(W / stride)), and the bias (B, bias_channels, r, r)
    where it joins later, None elsewhere.

    Args:
        site: Place of the block.
        plan: Form and places of the bias.
    """

    def __init__(self, site: BlockSite, *, plan: BiasPlan) -> None:
        super().__init__()
        self.read_point, self.join_point = plan.read_point, plan.join_point
        added = {point: plan.bias_channels if point == plan.join_point else 0 for point in JOIN_POINTS}
        self.out_chs = site.width + added["conv2_output"]
        self.late_chs = added["conv3_input"]
        in_chs = site.width + added["conv2_input"]
        self.conv = nn.Conv2d(in_chs, site.width, 3, site.stride, padding=1, bias=False)
        self.bias = SpatialBias(
            site.in_chs if plan.read_point == "block_input" else site.width,
            bias_channels=plan.bias_channels,
            key_size=plan.key_size,
            pooled_size=plan.pooled_size,
            mixing=plan.mixing,
        )

    def forward(self, x: Tensor, block_input: Tensor) -> tuple[Tensor, Tensor | None]:
        """Convolve; append the bias here, or return it beside the map."""
        padding = self.bias.padding_of_batch
        if self.read_point == "conv2_output":
            y = convolved(self.conv, x)
            bias = self.bias(y)
        else:
            bias = self.bias(block_input if self.read_point == "block_input" else x)
            y = convolved(self.conv, append_bias(x, bias, padding) if self.join_point == "conv2_input" else x)
        if self.join_point == "conv2_output":
            return append_bias(y, bias, padding), None
        return y, (bias if self.join_point == "conv3_input" else None)


class BiasedBottleneck(NonLocalBottleneck):
    """Bottleneck with a spatial bias and a gate behind its last norm, followed by a non-local block where there is one.

    Shape: x (B, in_chs, H, W) -> (B, 4 * width, ceil(H / stride), ceil(W / stride)).

    Args:
        site: Place of the block.
        spatial: Operator of the bottleneck: a convolution, or one with a bias.
        plan: Places of the non-local blocks.
        gate: Channel attention over the output of the branch; an identity for none.
    """

    def __init__(self, site: BlockSite, *, spatial: nn.Module, plan: NonLocalPlan, gate: nn.Module) -> None:
        super().__init__(site, spatial=spatial, plan=plan)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Add the gated branch with its bias to the shortcut, then apply the non-local block."""
        shortcut = self.shortcut(x)
        inner = self.reduce(x)
        late = padding = None
        if isinstance(self.spatial, SpatialBiasConv):
            inner, late = self.spatial(inner, x)
            padding = self.spatial.bias.padding_of_batch
            inner = self.act(self.bn(inner))
        else:
            inner = self.act(self.normed_spatial(inner))
        if late is not None:
            inner = append_bias(inner, late, padding)
        branch = self.drop_path(self.gate(self.expand(inner)))
        branch += shortcut  # in place: nothing else holds the output of the branch
        y: Tensor = self.non_local(self.act_out(branch))
        return y
