"""Accuracy and loss of a network on a split, from counts summed over all ranks and divided once."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from orchestrator.training.device_images import DeviceSplit
from orchestrator.training.workers import Workers


@torch.no_grad()
def evaluate(model: nn.Module, split: DeviceSplit, workers: Workers) -> dict[str, float]:
    """`loss` and `top1` over a whole split, of which each rank reads its share.

    Args:
        model: Equal on all ranks; left in evaluation mode.
        split: Of the data.
        workers: This rank among its peers.
    """
    model.eval()
    sums = torch.zeros(2, device=workers.device, dtype=torch.float64)
    for images, labels in split.share(workers):
        logits = model(images)
        correct = (logits.argmax(dim=1) == labels).sum()
        sums += torch.stack([cross_entropy(logits, labels, reduction="sum").double(), correct.double()])
    loss, correct = workers.sum(sums).tolist()
    return {"loss": loss / len(split), "top1": correct / len(split)}
