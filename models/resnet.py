"""The residual network that the families of this package share, behind timm's uniform surface.

A bottleneck is 1x1, a spatial operator, 1x1; the families differ in the operator and in where a stage halves
its map. A family names its widths and hands in a function that makes the operator of a block.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict

from timm.layers.classifier import ClassifierHead
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from models.bottleneck import EXPANSION, Bottleneck, Stem

__all__ = ["MakeSpatial", "SpatialResNet", "SurfaceOptions"]

MakeSpatial = Callable[[int, int, int], nn.Module]
"""Makes the operator of a block from (width, stride, stage); its `out_chs` tells what it puts out."""


class SurfaceOptions(TypedDict, total=False):
    """Keywords that timm gives every network; `SpatialResNet` explains them and holds their defaults."""

    in_chans: int
    num_classes: int
    global_pool: str
    drop_rate: float
    drop_path_rate: float


class SpatialResNet(nn.Module):
    """Stem, stages of bottlenecks, pooled linear head.

    Shape: x (B, in_chans, H, W) -> (B, num_classes), or the pooled features with `num_classes=0`.

    Args:
        depths: Blocks of each stage.
        widths: Channels of the spatial operators of each stage; a stage puts out four times as many.
        strides: Stride of the first block of each stage.
        make_spatial: Makes the spatial operator of a block.
        pool_stride: Passed to `Bottleneck`.
        large_image: Passed to `Stem`.
        stem_width: Channels the stem puts out.
        in_chans: Channels of the images.
        num_classes: Outputs; 0 drops the classifier.
        global_pool: timm's name of the pooling before the classifier; empty for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; the first has none, those between rise linearly.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        make_spatial: MakeSpatial,
        pool_stride: bool,
        large_image: bool,
        stem_width: int,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.stem = Stem(in_chans, stem_width, large_image=large_image)
        self.stages = nn.Sequential()
        self.feature_info: list[dict[str, Any]] = []
        last_block = max(1, sum(depths) - 1)
        built = 0
        chs, reduction = stem_width, self.stem.reduction
        for stage, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True)):
            blocks = nn.Sequential()
            for index in range(depth):
                step = stride if index == 0 else 1
                rate = drop_path_rate * built / last_block
                spatial = make_spatial(width, 1 if pool_stride else step, stage)
                block = Bottleneck(
                    chs, width, spatial=spatial, stride=step, pool_stride=pool_stride, drop_path_rate=rate
                )
                blocks.append(block)
                chs, built = width * EXPANSION, built + 1
            reduction *= stride
            self.stages.append(blocks)
            self.feature_info.append({"num_chs": chs, "reduction": reduction, "module": f"stages.{stage}"})
        self.num_features = chs
        self.head = ClassifierHead(chs, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.head_hidden_size = self.head.num_features

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay must leave alone, as the operators declare them."""
        names: set[str] = set()
        for prefix, module in self.named_modules():
            declare = getattr(module, "no_weight_decay", None)
            if module is not self and callable(declare):
                names |= {f"{prefix}.{name}" for name in declare()}
        return names

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns that sort parameters into stem and stages, or stem and blocks unless `coarse`."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Makes the backward pass compute the inside of each block again instead of keeping it."""
        self.grad_checkpointing = enable

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The classifier, an identity without classes; its name with `name_only`."""
        classifier: nn.Module = self.head.fc
        return "head.fc" if name_only else classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier, and the pooling when one is named."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        self.head_hidden_size = self.head.num_features

    def forward_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        """One stage, checkpointed block by block when that is on."""
        checkpoints = self.grad_checkpointing and self.training
        y: Tensor = checkpoint_seq(stage, x) if checkpoints else stage(x)
        return y

    def forward_features(self, x: Tensor) -> Tensor:
        """The map of the last stage: (B, in_chans, H, W) -> (B, num_features, H', W')."""
        x = self.stem(x)
        for stage in self.stages:
            x = self.forward_stage(stage, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pools and classifies; with `pre_logits` only pools."""
        logits: Tensor = self.head(x, pre_logits=pre_logits)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(  # noqa: PLR0917 - the signature is timm's
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW"] = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of chosen stages, and the last map unless `intermediates_only`.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Stages: the last n for an int, those listed for a list, all for None.
            norm: Has no effect: a stage ends behind its norm.
            stop_early: Leaves out the stages behind the last one asked for.
            output_fmt: Only `NCHW`.
            intermediates_only: Returns the list alone.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt: got {output_fmt!r}; the maps of this network are NCHW. Use 'NCHW'.")
        del norm
        take, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            if stop_early and index > last:
                break
            x = self.forward_stage(stage, x)
            if index in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages behind the last one asked for and, with `prune_head`, pooling and classifier."""
        del prune_norm
        take, last = feature_take_indices(len(self.stages), indices)
        self.stages = self.stages[: last + 1]
        if prune_head:
            self.reset_classifier(0, "")
        return list(take)
