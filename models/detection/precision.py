"""Boxes and scores in float32 where a network computes in a smaller type, as with torch's autocast.

bfloat16 counts pixels beyond 256 in twos, beyond 1024 in eights, and half precision beyond 2048 in twos. torchvision's
anchors have the type of the maps, and its boxes and scores that of the outputs of the heads.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead

__all__ = ["WideAnchors", "widen_outputs"]

_HEADS = (FastRCNNPredictor, MaskRCNNPredictor, RPNHead, RetinaNetHead)


class WideAnchors(AnchorGenerator):  # type: ignore[misc, unused-ignore]
    """torchvision's anchors in float32 at least, whatever the type of the maps."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Set the anchors of a cell."""
        super().set_cell_anchors(torch.promote_types(dtype, torch.float32), device)


def widen_outputs(network: nn.Module, *more: nn.Module) -> None:
    """Let the heads of a detector return float32 at least; the losses and boxes that follow are then computed in it.

    Args:
        network: Detector; the heads of torchvision in it are changed.
        more: Other modules whose outputs are changed.
    """
    for module in (*filter(lambda module: isinstance(module, _HEADS), network.modules()), *more):
        module.register_forward_hook(_in_float32)


def _in_float32(_module: nn.Module, _inputs: Any, outputs: Any) -> Any:
    return _widened(outputs)


def _widened(tree: Any) -> Any:
    """Return a tensor, or a list, tuple or dictionary of such, in float32 at least."""
    if isinstance(tree, Tensor):
        return tree.to(torch.promote_types(tree.dtype, torch.float32))
    if isinstance(tree, dict):
        return {key: _widened(value) for key, value in tree.items()}
    return type(tree)(_widened(value) for value in tree)
