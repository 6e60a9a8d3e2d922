"""Training loss, summed over images; the functions are torch's and timm's."""

from __future__ import annotations

import torch
from timm.loss import BinaryCrossEntropy
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from orchestrator.config.sections.training import TrainingConfig


def loss_sum(logits: Tensor, targets: Tensor, training: TrainingConfig) -> Tensor:
    """Return the loss of a batch, summed over its images, in float32.

    Args:
        logits: Logits, (B, K).
        targets: Labels (B,), or a distribution over the classes for each image, (B, K).
        training: Training settings, which choose loss, smoothing and the threshold of binary targets.
    """
    logits = logits.float()
    if training.loss == "cross_entropy":
        return cross_entropy(logits, targets, label_smoothing=training.label_smoothing, reduction="sum")
    # timm's loss expects soft targets to be smoothed already; labels are converted to that form here.
    targets = smoothed_targets(targets, logits.shape[1], training.label_smoothing)
    # As in timm the loss of an image is the mean over its classes.
    binary = BinaryCrossEntropy(smoothing=0.0, target_threshold=training.bce_target_threshold, reduction="sum")
    total: Tensor = binary(logits, targets)
    return total / logits.shape[1]


def smoothed_targets(targets: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Smooth labels or distributions over the classes.

    Shape: targets (B,) or (B, K) -> (B, K), float32.

    Args:
        targets: Labels or distributions.
        num_classes: Number of classes, K.
        smoothing: Share of each distribution that is spread evenly over all classes.
    """
    dense = one_hot(targets, num_classes) if targets.ndim == 1 else targets
    return dense.to(torch.float32) * (1 - smoothing) + smoothing / num_classes
