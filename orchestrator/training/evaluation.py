"""Accuracy and loss of a network on a split: counts are summed over all ranks and divided once."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.images.device_images import DeviceSplit
from orchestrator.training.workers import Workers


class Predictor(Protocol):
    """Network to evaluate, with its method of prediction."""

    @property
    def evaluated(self) -> nn.Module:
        """Network in use."""

    def predict(self, images: Tensor) -> Tensor:
        """Return logits, (B, num_classes), in float32."""


@torch.no_grad()
def evaluate(predictor: Predictor, split: DeviceSplit | DecodedSplit, workers: Workers) -> dict[str, float]:
    """Measure `loss`, `top1` and `top5` on a whole split, of which each rank reads its share.

    A collective operation: every rank must call, and all return the same. The loss is plain cross-entropy for every
    training loss, so that trials compare. With fewer than five classes `top5` is 1. Test-time augmentation is that of
    the split.

    Args:
        predictor: Network to evaluate, equal on all ranks; it is left in evaluation mode.
        split: Images and labels.
        workers: This rank and its process group.
    """
    predictor.evaluated.eval()
    sums = torch.zeros(3, device=workers.device, dtype=torch.float64)
    for images, labels in split.share(workers):
        logits = _mirror_averaged(predictor, images) if split.tta == "hflip" else predictor.predict(images)
        loss = cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([loss.double(), *_correct(logits, labels)])
    loss_sum, top1, top5 = (workers.sum(sums) / len(split)).tolist()
    return {"loss": loss_sum, "top1": top1, "top5": top5}


def _mirror_averaged(predictor: Predictor, images: Tensor) -> Tensor:
    """Return the logarithm of the class probabilities averaged over images and their mirror images."""
    views = [predictor.predict(view).log_softmax(1) for view in (images, images.flip(3))]
    return torch.logaddexp(*views) - math.log(2)


def _correct(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Count the images whose label comes first and among the first five; of equal logits the lower class wins."""
    nearest = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = nearest == labels[:, None]
    first = logits.argmax(dim=1) == labels
    return first.sum().double(), hits.any(dim=1).sum().double()
