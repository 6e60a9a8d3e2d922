"""FCViT: a convolutional network of the shape of a vision transformer, with an explicit global context.

Stages of blocks work at a quarter of the side of the images, and each further stage at half the side of the one before.
Each block mixes positions (`TokenMixer`) and channels (`ChannelMixer`), each behind a norm of the whole map and in
front of a learned scale per channel, around a shortcut.

Source: Ma et al. 2022, "A Close Look at Spatial Modeling: From Attention to Convolution" (arXiv 2212.12552).
Differs: `drop_rate` is the dropout before the classifier, as in timm, and `proj_drop_rate` that of the channel
mixers; a form for small images, whose windows are no larger than the map. On a CPU the maps are kept in
channels-last order, in which its depth-wise convolutions run several times faster.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from models.common.number_lists import per_part
from models.common.options import ModelOptionError
from models.common.staged import StagedNetwork
from models.fcvit.block import BlockDesign, FCViTBlock, PatchEmbed

__all__ = ["FCViT"]


class FCViT(StagedNetwork):
    """Stem, stages of FCViT blocks, norm, pooled linear head.

    Shape: x (B, in_chans, H, W) -> (B, num_classes), or the pooled features with `num_classes=0`.

    Args:
        depths: Blocks of each stage.
        embed_dims: Channels of each stage.
        mlp_ratios: Channels inside the channel mixers of each stage over those of the stage; a number for all stages.
        stem_stride: Stride of the stem.
        stem_kernel_size: Side of its windows; odd.
        downsamples: Flags for halving the map behind a stage; it is halved everywhere when left out, and where the
            channels change in any case.
        img_size: Height and width of the images in pixels, where no window of a token mixer is to be larger
            than the map it works on; None for no limit. Images of other sizes work too.
        in_chans: Channels of the images.
        num_classes: Outputs; 0 drops the classifier.
        global_pool: timm's name of the pooling before the classifier; empty for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; the first has none, those between rise linearly.
        design: Keywords of `BlockDesign`.

    Raises:
        ModelOptionError: Heads or reduction do not divide the channels of a stage, or a layer has no such form.
    """

    channels_last_on_cpu = True

    def __init__(
        self,
        *,
        depths: Sequence[int],
        embed_dims: Sequence[int],
        mlp_ratios: float | Sequence[float],
        stem_stride: int = 4,
        stem_kernel_size: int = 7,
        downsamples: Sequence[bool] | None = None,
        img_size: tuple[int, int] | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **design: Any,
    ) -> None:
        stem = PatchEmbed(in_chans, embed_dims[0], kernel_size=stem_kernel_size, stride=stem_stride)
        super().__init__(stem, in_chans=in_chans, num_classes=num_classes, drop_rate=drop_rate)
        self.design = common = BlockDesign(**design)
        problems = common.problems(embed_dims)
        if problems:
            raise ModelOptionError(problems)
        ratios = per_part(mlp_ratios, len(depths))
        step = drop_path_rate / max(1, sum(depths) - 1)
        built, reduction, in_chs = 0, stem_stride, embed_dims[0]
        for stage, (depth, dim, mlp_ratio) in enumerate(zip(depths, embed_dims, ratios, strict=True)):
            blocks = nn.Sequential()
            if stage > 0 and (downsamples is None or downsamples[stage - 1] or in_chs != dim):
                blocks.append(PatchEmbed(in_chs, dim, kernel_size=3, stride=2))
                reduction *= 2
            largest = None if img_size is None else _largest_odd(-(-min(img_size) // reduction))
            for index in range(built, built + depth):
                block = FCViTBlock(
                    dim,
                    token_mixer=common.make_token_mixer(dim, largest),
                    channel_mixer=common.make_channel_mixer(dim, mlp_ratio),
                    norm_layer=common.make_norm,
                    layer_scale_init=common.first_scale,
                    drop_path_rate=step * index,
                )
                blocks.append(block)
            built, in_chs = built + depth, dim
            self.add_stage(blocks, num_chs=dim, reduction=reduction)
        self.add_head(global_pool=global_pool, norm=common.make_norm(in_chs))
        self.apply(init_fcvit)


def _largest_odd(side: int) -> int:
    return side if side % 2 else max(1, side - 1)


def init_fcvit(module: nn.Module) -> None:
    """Initialise linear layers by a narrow truncated normal, 2-D convolutions by He's fan-out rule, biases by zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
