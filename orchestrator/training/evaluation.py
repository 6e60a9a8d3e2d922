"""Accuracy and loss of a network on a split, from counts summed over all ranks and divided once."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from orchestrator.training.images.decoded_images import DecodedSplit
from orchestrator.training.images.device_images import DeviceSplit
from orchestrator.training.workers import Workers


class Predictor(Protocol):
    """A network that is evaluated, and how it predicts."""

    @property
    def evaluated(self) -> nn.Module:
        """The network."""

    def predict(self, images: Tensor) -> Tensor:
        """Logits, (B, num_classes), in float32."""


@torch.no_grad()
def evaluate(predictor: Predictor, split: DeviceSplit | DecodedSplit, workers: Workers) -> dict[str, float]:
    """`loss`, `top1` and `top5` over a whole split, of which each rank reads its share.

    The loss is plain cross-entropy, whatever is trained with, so that trials compare. With fewer than five classes
    `top5` is 1.

    Args:
        learner: Its evaluated network is equal on all ranks; it is left in evaluation mode.
        split: Of the data.
        workers: This rank among its peers.
    """
    predictor.evaluated.eval()
    sums = torch.zeros(3, device=workers.device, dtype=torch.float64)
    for images, labels in split.share(workers):
        logits = predictor.predict(images)
        loss = cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([loss.double(), *_correct(logits, labels)])
    loss_sum, top1, top5 = (workers.sum(sums) / len(split)).tolist()
    return {"loss": loss_sum, "top1": top1, "top5": top5}


def _correct(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images whose label is the first, and is among the first five; of equal logits the lower class comes first."""
    nearest = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = nearest == labels[:, None]
    first = logits.argmax(dim=1) == labels
    return first.sum().double(), hits.any(dim=1).sum().double()
