"""What an optimiser step changes: the network's weights, the optimiser's state, the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import models
from orchestrator.config.schema import TrainingConfig
from orchestrator.training.workers import Workers


class Learner:
    """A network that learns from batches.

    Args:
        model: Freshly initialised, the same on every rank.
        training: How it learns.
        workers: This rank among its peers.
        steps_per_epoch: Optimiser steps.
    """

    def __init__(self, model: nn.Module, training: TrainingConfig, workers: Workers, steps_per_epoch: int) -> None:
        self.model = model.to(workers.device)
        self._training = training
        self._workers = workers
        self._network = workers.wrap(self.model)
        self.optimizer = create_optimizer_v2(
            self.model,
            opt=training.optimizer,
            lr=training.lr,
            weight_decay=training.weight_decay,
            momentum=training.momentum,
        )
        self.lr_schedule = _lr_schedule(self.optimizer, training, steps_per_epoch)

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def begin_epoch(self) -> None:
        """Puts the network into training mode."""
        self._network.train()

    def step(self, images: Tensor, labels: Tensor, *, update: int, global_images: int) -> Tensor:
        """One optimiser step; returns the loss summed over this rank's images.

        Args:
            images: This rank's share, (B, C, H, W).
            labels: Likewise, (B,).
            update: Number of the step in the whole training, from 0.
            global_images: Images of the step over all ranks.
        """
        smoothing = self._training.label_smoothing
        loss = cross_entropy(self._network(images), labels, label_smoothing=smoothing, reduction="sum")
        # DDP averages gradients over ranks; the factor makes that the mean over images, whatever the shares.
        objective = loss * (self._workers.world_size / global_images) + models.penalty(self.model)
        self.lr_schedule.step_update(update)
        self.optimizer.zero_grad()
        objective.backward()
        self.optimizer.step()
        models.project_(self.model)
        return loss.detach()

    def share_buffers(self) -> None:
        """Gives all ranks the first one's running statistics, before they evaluate or a checkpoint is written."""
        self._workers.share_buffers(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs; the learning rate follows from the number of the step."""
        return {"state_dict": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the state of an equal learner."""
        self.model.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])


def _lr_schedule(optimizer: torch.optim.Optimizer, training: TrainingConfig, steps_per_epoch: int) -> Any:
    """Timm's schedule, advanced at every step."""
    constant = training.lr_schedule == "constant"
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched="step" if constant else "cosine",
        decay_epochs=training.epochs + 1,
        num_epochs=training.epochs,
        warmup_epochs=min(training.warmup_epochs, training.epochs - 1),
        warmup_lr=training.lr / 100,
        min_lr=0.0,
        cooldown_epochs=0,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return schedule
