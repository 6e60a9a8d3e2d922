"""Metrics of a network on a split: the state of the task's evaluator is combined over all ranks."""

from __future__ import annotations

import torch

from orchestrator.training.images.split import Split
from orchestrator.training.tasks.task import Predictor, Task
from orchestrator.training.workers import Workers

__all__ = ["evaluate"]


@torch.no_grad()
def evaluate(predictor: Predictor, split: Split, workers: Workers, task: Task, *, num_classes: int) -> dict[str, float]:
    """Measure the metrics of a task on a whole split, of which each rank reads its share.

    A collective operation: every rank must call, and all return the same. Test-time augmentation is that of the split.

    Args:
        predictor: Network to evaluate, equal on all ranks; it is left in evaluation mode.
        split: Images and targets.
        workers: This rank and its process group.
        task: Task of the network.
        num_classes: Number of classes.
    """
    predictor.evaluated.eval()
    evaluator = task.create_evaluator(num_classes, workers.device)
    for images, targets in split.share(workers):
        evaluator.update(task.predict(predictor, images, split.tta), targets)
    evaluator.all_reduce(workers)
    return evaluator.compute()
