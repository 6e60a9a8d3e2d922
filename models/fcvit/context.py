"""Parts of an FCViT block beyond plain convolutions: global context, and two optional gates.

In trained transformers, attention adds to a convolution a context that is nearly the same for every query. Here it is
one vector per image; each position takes as much of it as it resembles the mean of the map.

Source: Ma et al. 2022, "A Close Look at Spatial Modeling: From Attention to Convolution" (arXiv 2212.12552).
Differs: the similarity is one matrix product and the context is added in one pass, without a tensor of the
size of the map in between; a map of one position has similarity 0, where the published code has no number.
"""

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from models.common.depthwise import DepthwiseConv
from models.common.merging import map_mean
from models.fcvit.layers import ActLayer
from models.padding import WholeMapLayer, is_traced_to_file

__all__ = ["ChannelAttention", "GlobalContext", "SpatialAttention"]

SIMILARITY_EPS = 1e-5  # added to the deviation, not to the variance


@register_notrace_module
class GlobalContext(WholeMapLayer):
    """Residual context vector of the whole map, added to every position.

    Shape: x (B, dim, H, W) -> the same.

    Args:
        dim: Channels.
        num_heads: Groups of channels that weigh the context each in their own way; divides `dim`.
        gc_reduction: Channels over those of the bottleneck of the vector.
        similarity: True for positions that weigh the context by their standardised product with the mean of the
            map, per head; else all positions take the same.
        competition: True to pass the largest of several candidates for each channel of the bottleneck; else a
            nonlinearity follows one.
        candidates: Number of these candidates.
        act_layer: Function that makes that nonlinearity.

    Source: Ma et al. 2022. Standardised over heads and positions of an image together, with the
    unbiased deviation.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        gc_reduction: int,
        similarity: bool,
        competition: bool,
        candidates: int = 2,
        act_layer: ActLayer = nn.GELU,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.competition = competition
        self.candidates = candidates
        self.squeeze = nn.Linear(dim, candidates * dim // gc_reduction if competition else dim // gc_reduction)
        self.act = nn.Identity() if competition else act_layer()
        self.expand = nn.Linear(dim // gc_reduction, dim)
        self.scale = nn.Parameter(torch.ones(num_heads)) if similarity else None
        self.shift = nn.Parameter(torch.zeros(num_heads)) if similarity else None

    def forward(self, x: Tensor) -> Tensor:
        """Add the context."""
        mean = map_mean(x, self.padding_of_batch)
        context = self.context(mean)
        if self.scale is None:
            return x + context[:, :, None, None]
        return self.add(x, self.similarity(x, mean), context)

    def macs(self, x: Tensor) -> int:
        """Return the multiply-accumulates for a map: both linear layers, and the similarity as one product."""
        linear = len(x) * (self.squeeze.weight.numel() + self.expand.weight.numel())
        return linear if self.scale is None else linear + x.numel()

    def add(self, x: Tensor, weights: Tensor, context: Tensor) -> Tensor:
        """Add the weighted context: (B, dim, H, W), (B, num_heads, H * W), (B, dim) -> (B, dim, H, W).

        As a product of matrices, it writes one map, and its gradients need none; in the order of memory of `x`.
        """
        rows, flat = self.by_head(context).to(x.dtype), x.flatten(2)
        if flat.stride(1) == 1:
            added = torch.baddbmm(flat.transpose(1, 2), weights.transpose(1, 2), rows).transpose(1, 2)
        else:
            added = torch.baddbmm(flat, rows.transpose(1, 2), weights)
        return added.unflatten(2, x.shape[2:])  # type: ignore[no-any-return]

    def context(self, mean: Tensor) -> Tensor:
        """Compute the vector to be added, from the mean of the map: (B, dim) -> (B, dim)."""
        narrow = self.squeeze(mean)
        if self.competition:
            narrow = narrow.unflatten(1, (self.candidates, -1)).amax(1)
        context: Tensor = self.expand(self.act(narrow))
        return context

    def by_head(self, vector: Tensor) -> Tensor:
        """Make a row per head that is zero outside its channels: (B, dim) -> (B, num_heads, dim)."""
        heads = vector.unflatten(1, (self.num_heads, -1))
        if is_traced_to_file():  # ONNX has no diagonals
            own = torch.eye(self.num_heads, dtype=vector.dtype, device=vector.device)[..., None]
            traced: Tensor = (heads[:, :, None] * own).flatten(2)
            return traced
        rows: Tensor = torch.diag_embed(heads.transpose(1, 2), dim1=1, dim2=2).flatten(2)
        return rows

    def similarity_maps(self, x: Tensor) -> Tensor:
        """Compute the similarity of every head as maps: (B, dim, H, W) -> (B, num_heads, H, W).

        They are all ones without similarity.
        """
        if self.scale is None:
            return x.new_ones(x.shape[0], self.num_heads, *x.shape[2:])
        maps: Tensor = self.similarity(x, map_mean(x, self.padding_of_batch)).unflatten(2, x.shape[2:])
        return maps

    def similarity(self, x: Tensor, mean: Tensor) -> Tensor:
        """Compute the share of the context each position takes: (B, dim, H, W), (B, dim) -> (B, num_heads, H * W)."""
        assert self.scale is not None and self.shift is not None
        head_dim = x.shape[1] // self.num_heads
        products = (self.by_head(mean).to(x.dtype) @ x.flatten(2)) * head_dim**-0.5
        padding = self.padding_of_batch
        if padding is None:
            count = products[0].numel()
            centred = products - products.mean((1, 2), keepdim=True)
            std = torch.linalg.vector_norm(centred, dim=(1, 2), keepdim=True) * max(1, count - 1) ** -0.5
        else:
            inside = padding.mask(x).flatten(2)
            narrow, wide = products.dtype, torch.promote_types(products.dtype, torch.float32)
            # in `wide`, since float16 has no number above 65504, which the positions of a large map exceed
            counts = (inside.sum((1, 2), keepdim=True) * self.num_heads).to(wide)
            mean_product = products.masked_fill(~inside, 0.0).sum((1, 2), keepdim=True, dtype=wide) / counts
            centred = (products - mean_product).masked_fill(~inside, 0.0).to(narrow)
            norm = torch.linalg.vector_norm(centred, dim=(1, 2), keepdim=True, dtype=wide)
            std = (norm * (counts - 1).clamp_min(1) ** -0.5).to(narrow)
        weights: Tensor = centred / (std + SIMILARITY_EPS) * self.scale[:, None] + self.shift[:, None]
        return weights


class SpatialAttention(nn.Module):
    """Gate of every position and channel from the neighbourhood.

    Shape: x (B, dim, H, W) -> the same.

    Args:
        dim: Channels.
        kernel_size: Side of the neighbourhood; odd.
        reduction: Channels over those inside the gate.
        act_layer: Function that makes the nonlinearity in between.
    """

    def __init__(self, dim: int, *, kernel_size: int = 3, reduction: int = 8, act_layer: ActLayer = nn.GELU) -> None:
        super().__init__()
        narrow = dim // reduction
        self.gate = nn.Sequential(
            DepthwiseConv(dim, kernel_size),
            nn.Conv2d(dim, narrow, 1),
            act_layer(),
            nn.Conv2d(narrow, dim, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the gate."""
        y: Tensor = x * self.gate(x)
        return y


class ChannelAttention(WholeMapLayer):
    """Residual attention to channels, by two short convolutions along the pooled channels.

    Shape: x (B, dim, H, W) -> the same.

    Args:
        kernel_sizes: Widths of the two convolutions along the channels; odd.
        act_layer: Function that makes the nonlinearity before the pool and between the convolutions.
    """

    def __init__(self, *, kernel_sizes: tuple[int, int] = (3, 5), act_layer: ActLayer = nn.GELU) -> None:
        super().__init__()
        first, second = kernel_sizes
        self.conv1 = nn.Conv1d(1, 1, first, padding=first // 2)
        self.conv2 = nn.Conv1d(1, 1, second, padding=second // 2)
        self.act = act_layer()

    def forward(self, x: Tensor) -> Tensor:
        """Add the attention of each channel."""
        pooled = map_mean(self.act(x), self.padding_of_batch)[:, None]
        attention: Tensor = self.conv2(self.act(self.conv1(pooled)))
        return x + attention.transpose(1, 2)[..., None]
