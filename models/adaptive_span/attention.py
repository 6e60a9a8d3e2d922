"""Local self-attention with windows of learned size, and the same with fixed windows.

Each head (or layer) holds a span z in [0, 1]. Ring delta of the window (pixels at Chebyshev distance delta) is weighted
by m(delta) = clamp((z * S + 1 - delta) / R + 1, 0, 1): full to about z * S pixels, then a ramp of R pixels,
zero from there on, where nothing is computed. A penalty pulls z to zero and the loss pulls it out where
distance pays.

Sources: Parker, Kumar, Roussy 2020, "Adaptive Attention Span in Computer Vision" (arXiv 2004.08708); the
local attention is that of Ramachandran et al. 2019 (arXiv 1906.05909).
Differs: fixed windows carry no spans, which the authors' do without using them; the position tables grow
beyond 33 entries when `max_span` needs it.
"""

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from models.local_attention.gpu.operator import gpu_serves, gpu_serves_layer
from models.local_attention.operator import in_order_of, local_attention

__all__ = ["AdaptiveAttention", "LocalAttention"]

TABLE_SIDE = 33  # entries of the authors' position tables: one more than the side of their images


@register_notrace_module
class LocalAttention(nn.Module):
    """Multi-head attention of every pixel to a square window of fixed size.

    Shape: x (B, dim, H, W) -> (B, dim, H, W).

    Args:
        dim: Channels; even, and divisible by `num_heads`.
        num_heads: Heads, which share the channels.
        kernel_size: Side of the window in pixels; odd.
        scaled: True to divide the logits by the root of the channels per head.

    Raises:
        ModelOptionError: On the first forward pass, when `dim` does not fit the heads.

    Source: Parker et al. 2020: no scaling of the logits unless `scaled`, no bias, borders are zero keys
    and values.
    """

    def __init__(self, dim: int, *, num_heads: int, kernel_size: int, scaled: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim / num_heads) ** -0.5 if scaled else 1.0
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.rel_h = nn.Parameter(torch.empty(dim // 2, kernel_size))
        self.rel_w = nn.Parameter(torch.empty(dim // 2, kernel_size))
        _init_attention(self.qkv, self.rel_h, self.rel_w)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within the window."""
        q, k, v = self.qkv(x).chunk(3, dim=1)
        q = q if self.scale == 1.0 else q * self.scale
        return in_order_of(x, local_attention(q, k, v, self.rel_h, self.rel_w, num_heads=self.num_heads))

    def macs(self, x: Tensor) -> int:
        """Return the multiply-accumulates for a map: the projections, and each query against its whole window."""
        return window_macs(x, side=self.rel_h.shape[1])


@register_notrace_module
class AdaptiveAttention(nn.Module):
    """Multi-head local attention with a learned span per head, or one for all heads.

    Shape: x (B, dim, H, W) -> (B, dim, H, W).

    Args:
        dim: Channels; even, and divisible by `num_heads`.
        num_heads: Heads, which share the channels.
        max_span: S, the radius of the largest window in pixels.
        ramp: R, width in pixels of the soft edge; above 0.
        span_init: First value of z, a fraction of `max_span`.
        span_penalty: Lambda, weight of the sum of |z| in the loss.
        shared_span: True for one span z that all heads share, which counts once in the penalty; else one per head.
        mask_before_softmax: True to add the logarithm of the mask to the logits, so that attention is a softmax over
            the span; else weights are masked after the softmax and divided by their sum.
        scaled: True to divide the logits by the root of the channels per head.

    Raises:
        ModelOptionError: On the first forward pass, when `dim` does not fit the heads.

    Source: Parker et al. 2020: a span per head, masked after the softmax, no scaling.
    """

    macs_depend_on_values = True  # the spans decide on the windows

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        max_span: int,
        ramp: float,
        span_init: float,
        span_penalty: float,
        shared_span: bool = False,
        mask_before_softmax: bool = False,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.mask_before_softmax = mask_before_softmax
        self.scale = (dim / num_heads) ** -0.5 if scaled else 1.0
        self.max_span = max_span
        self.ramp = ramp
        self.span_penalty = span_penalty
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        table = max(TABLE_SIDE, 2 * max_span + 1)
        self.rel_h = nn.Parameter(torch.empty(dim // 2, table))
        self.rel_w = nn.Parameter(torch.empty(dim // 2, table))
        self.span = nn.Parameter(torch.full((1 if shared_span else num_heads,), float(span_init)))
        self._radius = self._radius_for(span_init)
        _init_attention(self.qkv, self.rel_h, self.rel_w)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within the window that the largest span reaches, which a GPU finds without the CPU waiting for it."""
        q, k, v = self.qkv(x).chunk(3, dim=1)
        q = q if self.scale == 1.0 else q * self.scale
        on_gpu = gpu_serves(q, num_heads=self.num_heads, side=2 * self.max_span + 1)
        radius = self.max_span if on_gpu else self.window_radius()
        rel_h, rel_w = self.position_tables(radius)
        attended = local_attention(
            q,
            k,
            v,
            rel_h,
            rel_w,
            num_heads=self.num_heads,
            ring_mask=self.ring_mask(radius),
            mask_before_softmax=self.mask_before_softmax,
            window_follows_mask=on_gpu,
        )
        return in_order_of(x, attended)

    def macs(self, x: Tensor) -> int:
        """Return the multiply-accumulates for a map, with the windows that the spans leave now."""
        return window_macs(x, side=2 * self.window_radius() + 1)

    def window_radius(self) -> int:
        """Return L: the last ring, in pixels, that the mask of any head leaves above zero; at most `max_span`.

        Compiled and exported programs cannot read the spans: they use the window of the last eager pass, projection,
        loading or, on a GPU, change of mode, and are compiled again when it changes. The kernels for GPUs read the
        spans themselves.
        """
        if not torch.compiler.is_compiling() and not self.span.is_meta:
            self._radius = self._radius_for(float(self.span.detach().max()))
        return self._radius

    def head_radii(self) -> list[int]:
        """Return the last ring, in pixels, that the mask of each head leaves above zero."""
        return [self._radius_for(z) for z in self._span_by_head().detach().tolist()]

    def spans_px(self) -> list[float]:
        """Return the learned z * S of each head, in pixels."""
        return [z * self.max_span for z in self._span_by_head().detach().tolist()]

    def position_tables(self, radius: int) -> tuple[Tensor, Tensor]:
        """Return the embeddings of the offsets -radius..radius: two of (dim / 2, 2 * radius + 1).

        The first one is that of the row offsets, the second that of the column offsets.
        """
        start = self.rel_h.shape[1] // 2 - radius
        window = slice(start, start + 2 * radius + 1)
        return self.rel_h[:, window], self.rel_w[:, window]

    def _radius_for(self, longest: float) -> int:
        return max(1, min(self.max_span, math.ceil(longest * self.max_span + self.ramp)))

    def ring_mask(self, radius: int) -> Tensor:
        """Compute the mask m of every head for the rings 0..radius: (num_heads, radius + 1)."""
        ring = torch.arange(1, radius + 1, device=self.span.device, dtype=self.span.dtype)
        reach = self._span_by_head()[:, None] * self.max_span + 1 - ring
        rings = (reach / self.ramp + 1).clamp(0, 1)
        return torch.cat([torch.ones_like(rings[:, :1]), rings], dim=1)

    def _span_by_head(self) -> Tensor:
        """Return the span z of every head."""
        return self.span if len(self.span) == self.num_heads else self.span.expand(self.num_heads)

    def training_penalty(self) -> Tensor:
        """Return lambda times the sum of |z| over the spans."""
        return self.span_penalty * self.span.abs().sum()

    def project_parameters_(self) -> None:
        """Clamp the spans to [0, 1]."""
        self.span.clamp_(0.0, 1.0)
        if not self._spans_read_by_kernels():
            self.window_radius()

    def train(self, mode: bool = True) -> Self:
        """Set the mode, and read the window that an exported program will have, where no pass on a GPU does."""
        super().train(mode)
        sharded = type(self.span) is not nn.Parameter  # whose ranks would have to read together
        if self._spans_read_by_kernels() and not sharded:
            self.window_radius()
        return self

    @property
    def compiles_its_window(self) -> bool:
        """True where a compiled program is that of one window, and spans in training change the window."""
        return self.span.requires_grad and not self._spans_read_by_kernels()

    def _spans_read_by_kernels(self) -> bool:
        """Return whether passes leave the spans on the device."""
        dim, side = self.qkv.in_channels // self.num_heads, 2 * self.max_span + 1
        return gpu_serves_layer(self.span, dim=dim, side=side)

    def training_diagnostics(self) -> Mapping[str, list[float]]:
        """Return z * S of every head, or of the layer where its heads share it, in pixels."""
        return {"span_px": (self.span.float() * self.max_span).tolist()}

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self.window_radius()

    def no_weight_decay(self) -> set[str]:
        """Return the spans, which have a penalty of their own."""
        return {"span"}


def window_macs(x: Tensor, *, side: int) -> int:
    """Return the multiply-accumulates of attention to windows: projections, logits and weighted sums.

    Args:
        x: Map (B, dim, H, W), of which only the shape matters.
        side: Side of the window in pixels; every query meets every pixel of it.
    """
    projections, logits_and_sums = 3, 2
    return x.numel() * (projections * x.shape[1] + logits_and_sums * side**2)


@torch.no_grad()
def _init_attention(qkv: nn.Conv2d, rel_h: Tensor, rel_w: Tensor) -> None:
    """Initialise as the authors do: projections by He's fan-out rule, tables from a standard normal."""
    for projection in qkv.weight.chunk(3):
        nn.init.kaiming_normal_(projection, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(rel_h)
    nn.init.normal_(rel_w)
