"""Surface of every network of this package towards timm: stem, stages that end in maps, pooled linear head.

A family fills in the parts through `add_stage` and `add_head`; features, intermediates, parameter groups, checkpointing
and the classifier then work alike for all of them.
"""

from typing import Any, Literal, TypedDict

import torch
from timm.layers.classifier import ClassifierHead
from timm.models import checkpoint_seq, register_notrace_function
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from models.common.weight_decay import declared_without_decay

__all__ = ["StagedNetwork", "SurfaceOptions"]


def in_cpu_order(x: Tensor) -> Tensor:
    """Return the map in channels-last order on a CPU; unchanged elsewhere, and in `torch.func`, which lacks this order.

    A public name, since `torch.fx` only keeps functions with public names in one step.
    """
    is_transformed = not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None
    if x.device.type != "cpu" or is_transformed:
        return x
    return x.contiguous(memory_format=torch.channels_last)


register_notrace_function(in_cpu_order)


class SurfaceOptions(TypedDict, total=False):
    """Keywords that timm gives every network; `StagedNetwork` explains them, the families hold their defaults."""

    in_chans: int
    num_classes: int
    global_pool: str
    drop_rate: float
    drop_path_rate: float


class StagedNetwork(nn.Module):
    """Stem, stages, norm of the last map, pooled linear head.

    Shape: x (B, in_chans, H, W) -> (B, num_classes), or the pooled features with `num_classes=0`.

    Args:
        stem: First layer, from images to the map that the first stage reads.
        in_chans: Channels of the images.
        num_classes: Outputs; 0 drops the classifier.
        drop_rate: Dropout before the classifier.
    """

    channels_last_on_cpu = False
    """True for families whose layers run faster on a CPU with maps in channels-last order."""

    def __init__(self, stem: nn.Module, *, in_chans: int, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.stem = stem
        self.stages = nn.Sequential()
        self.feature_info: list[dict[str, Any]] = []

    def add_stage(self, blocks: nn.Sequential, *, num_chs: int, reduction: int) -> None:
        """Append a stage with `num_chs` output channels at 1 / `reduction` of the side of the images."""
        name = f"stages.{len(self.stages)}"
        self.stages.append(blocks)
        self.feature_info.append({"num_chs": num_chs, "reduction": reduction, "module": name})

    def add_head(self, *, global_pool: str, norm: nn.Module | None = None) -> None:
        """Add the norm of the last map, where there is one, the pooling by timm's name, and the classifier."""
        self.num_features: int = self.feature_info[-1]["num_chs"]
        self.norm = norm or nn.Identity()
        self.head = ClassifierHead(self.num_features, self.num_classes, pool_type=global_pool, drop_rate=self.drop_rate)
        self.head_hidden_size = self.head.num_features

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay, as the layers declare them."""
        return declared_without_decay(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that sort parameters into stem and stages, or stem and blocks unless `coarse`."""
        stages = r"^stages\.(\d+)" if coarse else [(r"^stages\.(\d+)\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^stem", "blocks": stages}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the inside of each block in the backward pass instead of keeping it."""
        self.grad_checkpointing = enable

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """Return the classifier, an identity without classes; its name with `name_only`."""
        classifier: nn.Module = self.head.fc
        return "head.fc" if name_only else classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and the pooling when one is named."""
        like = next(self.parameters())
        self.num_classes = num_classes
        self.head.in_features = self.num_features
        self.head.reset(num_classes, global_pool)
        self.head.to(device=like.device, dtype=like.dtype).train(self.training)
        self.head_hidden_size = self.head.num_features

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute the map that the first stage reads."""
        if not self.channels_last_on_cpu:
            y: Tensor = self.stem(x)
            return y
        # images of one channel are in both orders at once, and their map may come out in the other one
        y = self.stem(in_cpu_order(x))
        return in_cpu_order(y)

    def forward_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        """Apply one stage, checkpointed block by block when that is on."""
        checkpoints = self.grad_checkpointing and self.training
        y: Tensor = checkpoint_seq(stage, x) if checkpoints else stage(x)
        return y

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the normed map of the last stage: (B, in_chans, H, W) -> (B, num_features, H', W')."""
        x = self.forward_stem(x)
        for stage in self.stages:
            x = self.forward_stage(stage, x)
        y: Tensor = self.norm(x)
        return y

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify; with `pre_logits` only pool."""
        logits: Tensor = self.head(x, pre_logits=pre_logits)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of a batch of images."""
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
        """Compute the maps of chosen stages, and the last map unless `intermediates_only`.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Stages: the last n for an int, those listed for a list, all for None.
            norm: True to list the map of the last stage normed, as `forward_features` returns it; the families whose
                stages end in a norm have no other.
            stop_early: True to leave out the stages behind the last chosen one.
            output_fmt: Layout of the maps; only `NCHW`.
            intermediates_only: True to return the list alone.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt: got {output_fmt!r}; the maps of this network are NCHW. Use 'NCHW'.")
        take, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        x = self.forward_stem(x)
        for index, stage in enumerate(self.stages):
            if stop_early and index > last:
                break
            x = self.forward_stage(stage, x)
            is_end = index == len(self.stages) - 1
            normed = self.norm(x) if is_end and (norm or not intermediates_only) else x
            if index in take:
                intermediates.append(normed if norm else x)
            x = normed
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages behind the last chosen one and, on request, norm, pooling and classifier.

        Norm and classifier are made for the last stage, and go with it in any case.
        """
        take, last = feature_take_indices(len(self.stages), indices)
        is_shorter = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        self.num_features = self.feature_info[last]["num_chs"]
        if prune_norm or is_shorter:
            self.norm = nn.Identity()
        if prune_head or is_shorter:
            self.reset_classifier(0, "")
        return list(take)
