"""Backbones of networks on annotated images, explained by one class for each image: that of its predictions.

What the layers of a backbone compute is explained as in a classifier. Grad-CAM reads, in place of the logit of an
image's own class, the score of its best detection, or the mean logit of a predicted class over its pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from orchestrator.config.tasks.registry import task_facts
from orchestrator.errors import ExplainError
from orchestrator.inference.explain.subject import NO_CLASS, batch_of
from orchestrator.inference.images import NetworkImages, logits_in_batches
from orchestrator.inference.trained_network import TrainedNetwork

__all__ = ["BODY", "class_scores", "with_predicted_classes"]

BODY = "backbone.body."
"""Beginning of the names of a backbone's layers."""


def class_scores(trained: TrainedNetwork) -> Callable[[Tensor], Tensor]:
    """Return a function from images (B, C, H, W) to a number for each class, (B, num_classes), with gradients.

    Of a detector the numbers are the best scores of the detections of each class, 0 without one; in segmentation the
    mean logits over the pixels of each predicted class, and 0 for others.

    Args:
        trained: Network of a task on annotated images.

    Raises:
        ExplainError: The network has no backbone, or its task is another one.
    """
    network, kind = trained.network, task_facts(trained.task).annotation
    if not kind or not isinstance(getattr(network, "backbone", None), nn.Module):
        raise ExplainError(
            f"{trained.label}: its task is {trained.task}; the pictures explain classifiers, and the backbones of "
            "detectors and of networks of segmentation"
        )
    classes = len(cast(tuple[str, ...], network.class_names))
    if kind == "class_map":
        return lambda images: _of_map(network(images))
    return lambda images: torch.stack([_of_objects(found, classes) for found in network(list(images))])


def with_predicted_classes(trained: TrainedNetwork, images: NetworkImages) -> NetworkImages:
    """Return images whose labels are the classes that are explained, `NO_CLASS` where nothing is predicted.

    Of a detector it is the class of the best detection. In segmentation it is the class that covers most of an image,
    without the one that covers most of all images where an image has another: that is the background, where there is
    one.

    Args:
        trained: Network of a task on annotated images.
        images: Images that are passed through the network.
    """
    size = batch_of(images.inputs)
    if task_facts(trained.task).annotation == "class_map":
        with torch.no_grad():
            covered = torch.cat([_covered(trained.network(batch)) for batch in images.inputs.split(size)])
        labels = _most_covered(covered)
    else:
        scores = logits_in_batches(class_scores(trained), images.inputs, size)
        labels = torch.where(scores.amax(1) > 0, scores.argmax(1), NO_CLASS)
    return replace(images, labels=labels)


def _of_map(logits: Tensor) -> Tensor:
    """Average each logit over the pixels of its class: (B, K, H, W) -> (B, K)."""
    inside = nn.functional.one_hot(logits.argmax(1), logits.shape[1]).movedim(3, 1)
    return (logits * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)


def _of_objects(found: dict[str, Tensor], classes: int) -> Tensor:
    """Return the best score of each class, (classes,)."""
    none = found["scores"].new_zeros(classes)
    return none.scatter_reduce(0, found["labels"] - 1, found["scores"], reduce="amax")


def _covered(logits: Tensor) -> Tensor:
    """Count the pixels of each predicted class: (B, K, H, W) -> (B, K)."""
    return torch.stack([each.flatten().bincount(minlength=logits.shape[1]) for each in logits.argmax(1)])


def _most_covered(pixels: Tensor) -> Tensor:
    """Return the class of each image from the number of pixels of each class, (N, K)."""
    background = int(pixels.sum(0).argmax())
    others = pixels.clone()
    others[:, background] = 0
    return torch.where(others.amax(1) > 0, others.argmax(1), background)
