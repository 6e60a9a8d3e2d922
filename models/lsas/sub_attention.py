"""Sub-attention: a gate over channels, corrected by affine copies of its own logits.

The logits of a channel attention pass through a chain of per-channel affine maps; the gate is the product of
the sigmoids of every link. Order 0 is the plain attention. It sits between the logits of any channel
attention and the product with the map.

Source: Zhong et al. 2023, "LSAS: Lightweight Sub-attention Strategy for Alleviating Attention Bias Problem"
(arXiv 2305.05200). Differs: any order, and the start of scale and shift can be chosen.
"""

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from models.common.channel_attention import ChannelGate
from models.common.options import ModelOptionError, OptionProblem

__all__ = ["AttentionGate", "SubAttention"]

MAX_ORDER = 5


@register_notrace_module
class SubAttention(nn.Module):
    """Product of the sigmoids of the logits and of each affine step away from them.

    Shape: logits (..., channels) -> gate (..., channels), each value in (0, 1).

    Args:
        channels: Channels of the logits.
        order: Affine steps (n); 0 leaves the plain sigmoid.
        scale_init: First value of every scale (w).
        shift_init: First value of every shift (b).

    Raises:
        ModelOptionError: The order is not within 0 to 5.

    Source: Zhong et al. 2023: v_i = w_i v_{i-1} + b_i, gate = product of sigmoid(v_i), i from 0.
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
        """Return the factors of the gate, by order from 0: order + 1 of the shape of the logits."""
        factors = [logits.sigmoid()]
        if self.scale is not None and self.shift is not None:
            for scale, shift in zip(self.scale.unbind(), self.shift.unbind(), strict=True):
                logits = torch.addcmul(shift, logits, scale)
                factors.append(logits.sigmoid())
        return factors


class AttentionGate(ChannelGate):
    """Channel attention with sub-attention behind its logits, applied to a map.

    Shape: x (B, channels, H, W) -> (B, channels, H, W).

    Args:
        channels: Channels of the map.
        attention: Channel attention that gives the logits, one of `CHANNEL_ATTENTIONS`.
        reduction: Channels of the map per hidden unit of the attention; `eca` and `srm` have none.
        order: Affine steps (n) of the sub-attention; 0 leaves the plain attention.
        scale_init: First value of the scales (w).
        shift_init: First value of the shifts (b).

    Raises:
        ModelOptionError: The attention is unknown, or the order impossible.

    Source: Zhong et al. 2023. Differs: of CBAM, only the channel half has sub-attention, as the
    paper defines it over channels; the spatial half follows unchanged.
    """

    def __init__(
        self, channels: int, *, attention: str, reduction: int, order: int, scale_init: float, shift_init: float
    ) -> None:
        sub = SubAttention(channels, order=order, scale_init=scale_init, shift_init=shift_init)
        super().__init__(channels, attention=attention, reduction=reduction, activation=sub)
