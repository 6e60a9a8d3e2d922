"""Non-local block: every position of a map reads every other one, weighted by the likeness of their embeddings.

Source: Wang et al. 2018, "Non-local Neural Networks" (arXiv 1711.07971), embedded Gaussian.
Differs: the projection back has no bias, as a norm follows it; weights and their product with the values
are one fused operator, which does not keep the weights, except for small maps in training on a CPU.
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.common.bottleneck import Bottleneck
from models.common.merging import convolved, normed_conv
from models.common.options import ModelOptionError, OptionProblem
from models.common.resnet import BlockSite
from models.compiled.eager import is_eager
from models.padding import Padding, WholeMapLayer

__all__ = ["NonLocal", "NonLocalBottleneck", "NonLocalPlan"]

KEPT_WEIGHTS = 1 << 22  # elements of the attention of a batch, 17 MB in single precision
WIDE = 256  # channels of an embedding from which on computing the weights again costs more than reading them
EMBED_STD = 0.01  # standard deviation of the first embeddings, as in the authors' code


class NonLocal(WholeMapLayer):
    """Residual attention of all positions of a map to all.

    Shape: x (B, dim, H, W) -> (B, dim, H, W). Starts as an identity.

    Args:
        dim: Channels of the map.
        reduction: Channels of the map per channel of the embeddings; at least 1.
        pool_keys: True to max-pool keys and values to half the side first, a quarter of the work.
        scaled: True to divide the logits by the root of the width of the embeddings.

    Raises:
        ModelOptionError: The reduction is below 1.

    Source: Wang et al. 2018.
    """

    def __init__(self, dim: int, *, reduction: int = 2, pool_keys: bool = False, scaled: bool = True) -> None:
        super().__init__()
        if reduction < 1:
            raise ModelOptionError([OptionProblem("reduction", reduction, "reduction is at least 1", "Use 2.")])
        width = max(1, dim // reduction)
        self.scale = width**-0.5 if scaled else 1.0
        self.embed = nn.Conv2d(dim, 3 * width, 1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if pool_keys else nn.Identity()
        self.expand = nn.Conv2d(width, dim, 1, bias=False)
        self.bn = nn.BatchNorm2d(dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw small embeddings, and set the last norm to zero, which makes the block an identity."""
        for conv in (self.embed, self.expand):
            nn.init.normal_(conv.weight, std=EMBED_STD)
        if self.embed.bias is not None:
            nn.init.zeros_(self.embed.bias)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Embed, attend, project back, add."""
        # rows of channels, as attention reads
        embedded = convolved(self.embed, x).contiguous(memory_format=torch.channels_last)
        q, k, v = embedded.chunk(3, dim=1)
        padding, covered = self.padding_of_batch, None
        if padding is None:
            k, v = self.pool(k), self.pool(v)
        else:
            covered, k, v = self._pooled_within(padding, k, v)
        queries, keys, values = (y.flatten(2).transpose(1, 2)[:, None] for y in (q, k, v))
        if covered is None and _is_small(queries, keys):
            read = torch.matmul(torch.softmax(torch.matmul(queries * self.scale, keys.mT), -1), values)
        else:
            read = functional.scaled_dot_product_attention(queries, keys, values, covered, scale=self.scale)
        y: Tensor = normed_conv(self.expand, self.bn, read[:, 0].transpose(1, 2).unflatten(2, q.shape[2:]))
        return x + y

    def _pooled_within(self, padding: Padding, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pool keys and values of the covered part; return the mask of the cells (B, 1, 1, cells), keys, values."""
        outside = ~padding.mask(k)
        covered = self.pool((~outside).to(k.dtype)) > 0
        lowest = torch.finfo(k.dtype).min
        k, v = (self.pool(y.masked_fill(outside, lowest)).masked_fill(~covered, 0.0) for y in (k, v))
        return covered.flatten(2)[:, None], k, v


def _is_small(queries: Tensor, keys: Tensor) -> bool:
    """Return whether the weights (B, 1, N, N) may be kept for the backward pass, which then takes less time.

    The fused operator computes them again; without a backward pass, and on other devices, it is the faster one.
    """
    if not is_eager(queries) or queries.device.type != "cpu" or not queries.requires_grad or queries.shape[3] < WIDE:
        return False
    return len(queries) * queries.shape[2] * keys.shape[2] <= KEPT_WEIGHTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class NonLocalPlan:
    """Places and form of the non-local blocks of a network.

    Args:
        stages: Flag of each stage for non-local blocks.
        every: Residual blocks from one non-local block to the next; it divides the number, from 1, of the residual
            blocks that one follows.
        reduction: Channels of the map per channel of the embeddings.
        pool_keys: True to pool keys and values.
        scaled: True to scale the logits.
    """

    stages: tuple[bool, ...]
    every: int
    reduction: int
    pool_keys: bool
    scaled: bool

    def block(self, site: BlockSite, dim: int) -> nn.Module:
        """Make the module that follows a residual block: a non-local block, or an identity."""
        if not self.stages[site.stage] or (site.index + 1) % self.every:
            return nn.Identity()
        return NonLocal(dim, reduction=self.reduction, pool_keys=self.pool_keys, scaled=self.scaled)


class NonLocalBottleneck(Bottleneck):
    """Bottleneck followed by a non-local block where the plan has one.

    Shape: x (B, in_chs, H, W) -> (B, 4 * width, ceil(H / stride), ceil(W / stride)).

    Args:
        site: Place of the block.
        spatial: Operator of the bottleneck.
        plan: Places of the non-local blocks.
    """

    def __init__(self, site: BlockSite, *, spatial: nn.Module, plan: NonLocalPlan) -> None:
        super().__init__(
            site.in_chs,
            site.width,
            spatial=spatial,
            stride=site.stride,
            pool_stride=False,
            drop_path_rate=site.drop_path_rate,
        )
        self.non_local = plan.block(site, self.out_chs)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the bottleneck, then the non-local block."""
        y: Tensor = self.non_local(super().forward(x))
        return y
