"""Steps on random images, taken to see whether a batch fits into memory; nothing of them is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.config.sections.training import TrainingConfig
from orchestrator.config.tasks.registry import DEFAULT_TASK
from orchestrator.training.checkpoints.checkpoints import build_network
from orchestrator.training.tasks.registry import find_task
from orchestrator.training.tasks.trees import map_tensors
from orchestrator.training.train_state import TrainState
from orchestrator.training.workers import Workers

_STEPS = 2  # the first creates the optimiser's state, the second needs it beside all else
_SCALED_STEPS = 20  # with `float16` the first ones may be skipped until the scale of the loss has fallen


@dataclass(frozen=True)
class StepShape:
    """Network and images of a step.

    Args:
        description: Description of the network, see `describe_network`.
        side: Side of the training images, in pixels.
    """

    description: Mapping[str, Any]
    side: int

    @classmethod
    def of(cls, description: Mapping[str, Any], training: TrainingConfig) -> StepShape:
        """Return the shape of the steps of a trial."""
        return cls(description, training.crop_px or description["image_size"])


def take_steps(shape: StepShape, training: TrainingConfig, images: int, device: torch.device) -> None:
    """Take a few optimiser steps of one worker with a network of their own.

    Precision, memory format, optimiser, accumulation and average of the weights are those of the trial; the network is
    not compiled, and gradients are not exchanged.

    Args:
        shape: Network and images.
        training: Training settings.
        images: Number of images of each step.
        device: Device of the steps.

    Raises:
        RuntimeError: Memory ran out, see `is_out_of_memory`.
    """
    alone = {"global_batch_size": images, "on_out_of_memory": "fail", "sync_batch_norm": False}
    eager = {"compile": False, "compiled_autograd": False}
    settings = training.model_copy(update=alone | eager)
    task = find_task(shape.description.get("task", DEFAULT_TASK))
    network = build_network(shape.description)
    state = TrainState(network, settings, Workers(device=device), _SCALED_STEPS, task)
    black, targets = task.example_batch(shape.description, training, images=images, side=shape.side, device=device)
    pixels = map_tensors(torch.randn_like, black)
    state.begin_epoch()
    for update in range(_SCALED_STEPS if training.precision == "float16" else _STEPS):
        if update >= _STEPS and state.optimizer.state:
            break
        state.step(pixels, targets, update=update, global_images=images)
