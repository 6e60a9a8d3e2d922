"""Residual network that the families of this package share, behind timm's uniform surface.

A bottleneck is 1x1, a spatial operator, 1x1; most families differ only in the operator and in the place where a stage
halves its map. A family passes its widths and a function that makes a block for each place in the network;
`bottlenecks_around` turns a function that makes operators into such a function.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict, cast

from torch import nn

from models.common.bottleneck import Bottleneck, Stem
from models.common.options import ImageShape, ModelOption, OptionProblem, OptionValue
from models.common.staged import StagedNetwork, SurfaceOptions

__all__ = [
    "BOTTLENECK_DEPTHS",
    "BlockSite",
    "MakeBlock",
    "MakeSpatial",
    "SpatialResNet",
    "SurfaceOptions",
    "bottlenecks_around",
    "depth_option",
    "depth_rule",
    "small_image_blocks",
    "small_image_depths",
    "trunk",
]

MakeSpatial = Callable[[int, int, int], nn.Module]
"""Makes the operator of a block from (width, stride, stage); its `out_chs` are the channels of the output."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSite:
    """Place and channels of a block in a network.

    Args:
        in_chs: Channels of the input.
        width: Channels of its spatial operator.
        stride: Reduction of the side.
        stage: Index of its stage.
        index: Index within the stage.
        drop_path_rate: Chance to drop its branch, per image.
    """

    in_chs: int
    width: int
    stride: int
    stage: int
    index: int
    drop_path_rate: float


MakeBlock = Callable[[BlockSite], nn.Module]
"""Makes a residual block; its `out_chs` are the channels of the output."""


def bottlenecks_around(make_spatial: MakeSpatial, *, pool_stride: bool) -> MakeBlock:
    """Return a function that makes bottlenecks around the operators of a family; see `Bottleneck`."""

    def make_block(site: BlockSite) -> nn.Module:
        return Bottleneck(
            site.in_chs,
            site.width,
            spatial=make_spatial(site.width, 1 if pool_stride else site.stride, site.stage),
            stride=site.stride,
            pool_stride=pool_stride,
            drop_path_rate=site.drop_path_rate,
        )

    return make_block


class Trunk(TypedDict):
    """Keywords of `SpatialResNet` that follow from the size of the images."""

    widths: tuple[int, ...]
    large_image: bool
    stem_width: int


def trunk(*, large_image: bool) -> Trunk:
    """Return the channels of He et al. 2016: four stages for large images, three for those of CIFAR."""
    if large_image:
        return {"widths": (64, 128, 256, 512), "large_image": True, "stem_width": 64}
    return {"widths": (16, 32, 64), "large_image": False, "stem_width": 16}


BOTTLENECK_DEPTHS: Mapping[int, tuple[int, ...]] = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""Blocks of each stage of a large-image network of bottlenecks, by depth."""

LAYERS_PER_STEP: Mapping[str, int] = {"bottleneck": 9, "basic": 6}
"""Layers that one more block in each of the three stages of a small-image network adds, by kind of block."""


def depth_option(default: int) -> ModelOption:
    """Make the option of the depth of a small-image network whose name leaves it open."""
    return ModelOption(
        name="depth",
        type=int,
        default=default,
        low=8,
        high=1001,
        description="Layers of the network: 9 m + 2 for m bottlenecks in each stage, 6 m + 2 for m basic blocks.",
    )


def small_image_blocks(depth: int, block: str = "bottleneck") -> int | None:
    """Return the blocks of each of three stages; None where no whole number of blocks makes the depth."""
    blocks, rest = divmod(depth - 2, LAYERS_PER_STEP[block])
    return None if rest or blocks < 1 else blocks


def small_image_depths(given: Mapping[str, object], *, default: int) -> tuple[int, ...]:
    """Return the blocks of each stage for a caller's keywords; `depth_rule` reports a depth that makes none."""
    depth = given.get("depth", default)
    is_basic = given.get("block") == "basic"
    blocks = small_image_blocks(depth, "basic" if is_basic else "bottleneck") if isinstance(depth, int) else None
    return (blocks or 1,) * 3


def depth_rule(values: Mapping[str, OptionValue], image: ImageShape | None) -> Sequence[OptionProblem]:
    """Check that blocks of the chosen kind make the chosen depth."""
    del image
    depth, block = values["depth"], str(values.get("block", "bottleneck"))
    assert isinstance(depth, int)
    if small_image_blocks(depth, block) is not None:
        return ()
    step = LAYERS_PER_STEP[block]
    nearest = 2 + step * max(1, round((depth - 2) / step))
    clause = f"the depth of a network of {block} blocks is 2 more than a multiple of {step}"
    return [OptionProblem("depth", depth, clause, f"Use {nearest}.")]


class SpatialResNet(StagedNetwork):
    """Stem, stages of residual blocks, pooled linear head.

    Shape: x (B, in_chans, H, W) -> (B, num_classes), or the pooled features with `num_classes=0`.

    Args:
        depths: Blocks of each stage.
        widths: Channels of the spatial operators of each stage.
        strides: Stride of the first block of each stage.
        make_block: Function that makes the block for a place in the network.
        large_image: 7x7 stem with pooling instead of a 3x3 one.
        stem_width: Channels of the stem.
        in_chans: Channels of the images.
        num_classes: Outputs; 0 drops the classifier.
        global_pool: timm's name of the pooling before the classifier; empty for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; the first has none, those between rise linearly.
        stem: First layer, with the `reduction` of the side as an attribute; None makes a `Stem`.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        make_block: MakeBlock,
        large_image: bool,
        stem_width: int,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        stem: nn.Module | None = None,
    ) -> None:
        stem = stem or Stem(in_chans, stem_width, large_image=large_image)
        super().__init__(stem, in_chans=in_chans, num_classes=num_classes, drop_rate=drop_rate)
        last_block = max(1, sum(depths) - 1)
        built = 0
        chs, reduction = stem_width, cast(int, stem.reduction)
        for stage, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True)):
            blocks = nn.Sequential()
            for index in range(depth):
                site = BlockSite(
                    in_chs=chs,
                    width=width,
                    stride=stride if index == 0 else 1,
                    stage=stage,
                    index=index,
                    drop_path_rate=drop_path_rate * built / last_block,
                )
                block = make_block(site)
                blocks.append(block)
                chs, built = cast(int, block.out_chs), built + 1
            reduction *= stride
            self.add_stage(blocks, num_chs=chs, reduction=reduction)
        self.add_head(global_pool=global_pool)
