"""Sub-attention: a gate over channels, corrected by affine copies of its own logits.

The logits of a channel attention pass through a chain of per-channel affine maps; the gate is the product of
the sigmoids of every link. Order 0 is the plain attention. It sits between the logits of any channel
attention and the product with the map.

Source: Zhong et al. 2023, "LSAS: Lightweight Sub-attention Strategy for Alleviating Attention Bias Problem"
(arXiv 2305.05200), section 3. Differs: any order, and the start of scale and shift can be chosen.
"""

import torch
from timm.layers.cbam import SpatialAttn
from timm.models import register_notrace_module
from torch import Tensor, nn

from models.common.options import ModelOptionError, OptionProblem
from models.lsas.channel_attention import CHANNEL_ATTENTIONS, make_channel_attention

__all__ = ["AttentionGate", "SubAttention"]

MAX_ORDER = 5


@register_notrace_module
class SubAttention(nn.Module):
    """Product of the sigmoids of the logits and of each affine step away from them.

    Shape: logits (B, channels) -> gate (B, channels), each value in (0, 1).

    Args:
        channels: Channels of the logits.
        order: Affine steps (n); 0 leaves the plain sigmoid.
        scale_init: First value of every scale (w).
        shift_init: First value of every shift (b).

    Raises:
        ModelOptionError: The order is not within 0 to 5.

    Source: Zhong et al. 2023, section 3: v_i = w_i v_{i-1} + b_i, gate = product of sigmoid(v_i), i from 0.
    """

    def __init__(self, channels: int, *, order: int, scale_init: float = 0.5, shift_init: float = -0.5) -> None:
        super().__init__()
        if not 0 <= order <= MAX_ORDER:
            problem = OptionProblem("order", order, f"order is an int from 0 to {MAX_ORDER}", "Use 1.")
            raise ModelOptionError([problem])
        self.order = order
        self.scale: nn.Parameter | None = None
        self.shift: nn.Parameter | None = None
        if order:
            self.scale = nn.Parameter(torch.full((order, channels), float(scale_init)))
            self.shift = nn.Parameter(torch.full((order, channels), float(shift_init)))

    def no_weight_decay(self) -> set[str]:
        """Return scale and shift, which are affine like those of a norm."""
        return {"scale", "shift"} if self.order else set()

    def forward(self, logits: Tensor) -> Tensor:
        """Multiply the sigmoids along the chain."""
        first, *others = self.factors(logits)
        gate = first
        for factor in others:
            gate = gate * factor
        return gate

    def factors(self, logits: Tensor) -> list[Tensor]:
        """Return the factors of the gate, by order from 0: logits (B, channels) -> order + 1 of the same shape."""
        factors = [logits.sigmoid()]
        if self.scale is not None and self.shift is not None:
            for scale, shift in zip(self.scale.unbind(), self.shift.unbind(), strict=True):
                logits = torch.addcmul(shift, logits, scale)
                factors.append(logits.sigmoid())
        return factors


class AttentionGate(nn.Module):
    """Channel attention with sub-attention behind its logits, applied to a map.

    Shape: x (B, channels, H, W) -> (B, channels, H, W).

    Args:
        channels: Channels of the map.
        attention: Channel attention that gives the logits: `se`, `cbam`, `eca`, `srm` or `spa`.
        reduction: Channels of the map per hidden unit of the attention; `eca` and `srm` have none.
        order: Affine steps (n) of the sub-attention; 0 leaves the plain attention.
        scale_init: First value of the scales (w).
        shift_init: First value of the shifts (b).

    Raises:
        ModelOptionError: The attention is unknown, or the order impossible.

    Source: Zhong et al. 2023, section 3. Differs: of CBAM, only the channel half has sub-attention, as the
    paper defines it over channels; the spatial half follows unchanged.
    """

    def __init__(
        self, channels: int, *, attention: str, reduction: int, order: int, scale_init: float, shift_init: float
    ) -> None:
        super().__init__()
        if attention not in CHANNEL_ATTENTIONS:
            rule = "attention is one of " + ", ".join(map(repr, CHANNEL_ATTENTIONS))
            raise ModelOptionError([OptionProblem("attention", attention, rule, "Use 'se'.")])
        self.attention = attention
        self.host = make_channel_attention(attention, channels, reduction=reduction)
        self.sub = SubAttention(channels, order=order, scale_init=scale_init, shift_init=shift_init)
        self.spatial = SpatialAttn() if attention == "cbam" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Gate every channel, and with CBAM every position."""
        y: Tensor = self.spatial(x * self.channel_gate(x))
        return y

    def channel_gate(self, x: Tensor) -> Tensor:
        """Compute the gate of every channel: (B, channels, H, W) -> (B, channels, 1, 1)."""
        gate: Tensor = self.sub(self.host(x))
        return gate[:, :, None, None]
