"""Options of the networks of stand-alone self-attention."""

from models.adaptive_span.options import SCALED, heads_divide
from models.common.options import ModelOption, stages_option

__all__ = ["OPTIONS", "heads_divide_channels"]

NARROWEST = 64  # channels of the first stage, and of the stem

OPTIONS = (
    ModelOption(
        name="stem",
        type=str,
        default="7x7",
        choices=("7x7", "attention"),
        description="First layer: 7x7 convolution with stride 2 and max-pool, or attention in blocks of 4 x 4 pixels.",
    ),
    ModelOption(
        name="num_heads",
        type=int,
        default=8,
        low=1,
        high=NARROWEST,
        description="Attention heads, which share the channels of a layer.",
    ),
    ModelOption(
        name="kernel_size",
        type=int,
        default=7,
        low=3,
        high=33,
        odd=True,
        description="Side of the attention window in pixels.",
    ),
    SCALED,
    stages_option((True,) * 4, "Stages whose blocks attend; those of the others have 3x3 convolutions."),
)

heads_divide_channels = heads_divide(NARROWEST)
